/*
 * A durable consumer of a JetStream stream: it goes on where it stopped, and an event that is not
 * acknowledged comes again.
 *
 *	pgherald stream "dbname=shop" --to "nats://localhost/shop.{table}.{action}?stream=SHOP"
 *
 *	cc jetstream.c -o jetstream -lnats
 *	./jetstream nats://localhost SHOP mailer "shop.users.insert"
 */
#include <nats/nats.h>
#include <stdio.h>

static void handle(natsMsg *m)
{
	const char *id = "";

	natsMsgHeader_Get(m, "Nats-Msg-Id", &id);
	printf("%s %s %.*s\n", natsMsg_GetSubject(m), id, natsMsg_GetDataLength(m),
	       natsMsg_GetData(m));
	fflush(stdout);
	natsMsg_AckSync(m, NULL, NULL); /* after the work is done: not before */
}

/* Ten at a time; none for a while is no error. */
static natsStatus consume(natsSubscription *sub)
{
	natsMsgList list = { 0 };
	natsStatus s = natsSubscription_Fetch(&list, sub, 10, 1000, NULL);

	for (int i = 0; i < list.Count; i++)
		handle(list.Msgs[i]);
	natsMsgList_Destroy(&list);
	return s == NATS_TIMEOUT ? NATS_OK : s;
}

int main(int argc, char **argv)
{
	natsConnection *nc = NULL;
	natsSubscription *sub = NULL;
	jsSubOptions options;
	jsCtx *js = NULL;
	natsStatus s;

	if (argc != 5) {
		fprintf(stderr, "usage: jetstream URL STREAM DURABLE SUBJECT\n");
		return 64;
	}
	jsSubOptions_Init(&options);
	options.Stream = argv[2];
	s = natsConnection_ConnectTo(&nc, argv[1]);
	if (s == NATS_OK)
		s = natsConnection_JetStream(&js, nc, NULL);
	if (s == NATS_OK)
		s = js_PullSubscribe(&sub, js, argv[4], argv[3], NULL, &options, NULL);
	while (s == NATS_OK)
		s = consume(sub);
	fprintf(stderr, "jetstream: %s\n", natsStatus_GetText(s));
	natsSubscription_Destroy(sub);
	jsCtx_Destroy(js);
	natsConnection_Destroy(nc);
	return 1;
}
