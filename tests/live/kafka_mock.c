/*
 * A Kafka cluster for tests: librdkafka's mock brokers in a process of their own. Prints its
 * bootstrap addresses, then does what lines on standard input say, and answers each with "ok":
 *
 *     topic NAME PARTITIONS       makes a topic
 *     down BROKER, up BROKER      a broker goes and comes back; its data stays
 *     rtt BROKER MS               it answers late
 *     leader NAME PARTITION BROKER
 *     fail API ERROR COUNT        so many requests of this kind are answered with the error
 *     topic-error NAME ERROR      until it is 0
 */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

static void fail(rd_kafka_mock_cluster_t *cluster, int16_t api, int error, int count)
{
	for (int i = 0; i < count; i++)
		rd_kafka_mock_push_request_errors(cluster, api, 1, (rd_kafka_resp_err_t)error);
}

static int obey(rd_kafka_mock_cluster_t *cluster, const char *line)
{
	char name[256];
	int a, b, c;

	if (sscanf(line, "topic %255s %d", name, &a) == 2)
		return (int)rd_kafka_mock_topic_create(cluster, name, a, 1);
	if (sscanf(line, "down %d", &a) == 1)
		return (int)rd_kafka_mock_broker_set_down(cluster, a);
	if (sscanf(line, "up %d", &a) == 1)
		return (int)rd_kafka_mock_broker_set_up(cluster, a);
	if (sscanf(line, "rtt %d %d", &a, &b) == 2)
		return (int)rd_kafka_mock_broker_set_rtt(cluster, a, b);
	if (sscanf(line, "leader %255s %d %d", name, &a, &b) == 3)
		return (int)rd_kafka_mock_partition_set_leader(cluster, name, a, b);
	if (sscanf(line, "topic-error %255s %d", name, &a) == 2) {
		rd_kafka_mock_topic_set_error(cluster, name, (rd_kafka_resp_err_t)a);
		return 0;
	}
	if (sscanf(line, "fail %d %d %d", &a, &b, &c) == 3) {
		fail(cluster, (int16_t)a, b, c);
		return 0;
	}
	return -1;
}

int main(int argc, char **argv)
{
	char why[300], line[600];
	rd_kafka_mock_cluster_t *cluster;
	rd_kafka_t *rk;
	int failed;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), why, sizeof(why));
	cluster = rk ? rd_kafka_mock_cluster_new(rk, argc > 1 ? atoi(argv[1]) : 1) : NULL;
	if (!cluster)
		return 1;
	printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		failed = obey(cluster, line);
		printf(failed ? "failed %d\n" : "ok\n", failed);
		fflush(stdout);
	}
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(rk);
	return 0;
}
