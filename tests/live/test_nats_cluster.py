"""A cluster of three NATS servers of which one is always going away."""
import pytest

import delivery
from nats_server import NatsServer
from postgres import free_port, wait_until

SIZE = 3
ROWS = 3000


@pytest.fixture
def cluster():
    """Servers that know each other, and whose streams have a leader."""
    ports = [free_port() for _ in range(SIZE)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    servers = [NatsServer(config=f'server_name: n{i}\ncluster {{ name: c, listen: "127.0.0.1:{port}", '
                                 f'routes: [{routes}] }}') for i, port in enumerate(ports)]
    for one in servers:
        one.start()
    wait_until(lambda: any("new metadata leader" in one.log() for one in servers), "the cluster's leader")
    yield servers
    for one in servers:
        one.remove()


def ready_leader(cluster, least):
    """The server that leads the stream when it has so many messages and all replicas are up."""
    try:
        info = cluster[0].api("STREAM.INFO.S", limit=1)
    except TimeoutError:
        return None
    replicas = info.get("cluster", {}).get("replicas", [])
    ready = len(replicas) == SIZE - 1 and all(one["current"] for one in replicas)
    if ready and info["state"]["messages"] >= least:
        return cluster[int(info["cluster"]["leader"][1:])]
    return None


def test_case_65_servers_of_a_cluster_that_go_lose_and_repeat_nothing(db, herald, cluster):
    # Given a stream with a replica on each server
    hosts = ",".join(f"127.0.0.1:{one.port}" for one in cluster)
    delivery.make_tables(db)
    stream = herald(db, "--to", f"nats://{hosts}/?stream=S&replicas=3")
    assert cluster[0].api("STREAM.INFO.S")["config"]["num_replicas"] == SIZE

    # when its leader is killed while rows are written, and comes back, twice
    writer = delivery.insert_in_background(db, ROWS)
    for least in (ROWS // 5, ROWS // 2):
        leader = wait_until(lambda: ready_leader(cluster, least), f"{least} messages and a leader")
        leader.kill9()
        stream.wait_log("trying again")
        leader.start()
    writer.join()

    # then all is there once, in order
    stream.wait_confirmed(db)
    wait_until(lambda: ready_leader(cluster, ROWS), "all servers to be up")
    delivery.check_both(cluster[0].events("S"), ROWS)
