"""A Redis Cluster: hosts work with whichever of its nodes has the queue."""

import asyncio
import contextlib
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import trustme

from tests.redis import test_sentinel
from tests.redis.conftest import over, until
from tests.redis.test_attacks import MOST_SECONDS, at_work
from tests.redis_cluster import PREFIX, identity, running, url_of
from tests.redis_server import Node
from tests.s3_server import a_free_port
from whisperd.config import Redis as Settings
from whisperd.redis_queue.client import RedisAway
from whisperd.redis_queue.link import Link

silent = test_sentinel.silent


@pytest.fixture
def cluster(tmp_path):
    with running(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
def node(cluster):
    """Node's BullMQ, which knows another node of the same Cluster."""
    node = Node(cluster.others[1], cluster_prefix=PREFIX)
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def new_member(new_host):
    """Makes hosts that share the queue of a Cluster, by the ports that each is told of."""

    def make(*ports, **settings):
        return new_host(**{"REDIS__URL": url_of(*ports), "REDIS__PREFIX": PREFIX, **settings})

    return make


def away(host):
    return host.health()["checks"]["redis"]["status"] == "degraded"


def test_tasks_of_ours_and_of_node_are_done_by_hosts_that_know_any_node(
    cluster, node, new_member, submitted, jfk
):
    first = new_member(cluster.others[0].port).start()
    second = new_member(cluster.replica.port, REDIS__TAKE_FROM="more,transcription").start()
    cluster.owner.cli("config", "set", "slowlog-log-slower-than", 0, "slowlog-max-len", 100000)
    ours = [first.queued(jfk, priority=n) for n in range(3)]
    theirs = [submitted(second, f"by-node-{n}", priority=n + 1) for n in range(3)]

    assert [first.finished(task_id)["status"] for task_id in ours] == ["completed"] * 3
    assert [over(node, job_id)["state"] for job_id in theirs] == ["completed"] * 3
    assert {job for kind, job, _ in node.heard() if kind == "completed"} == {*ours, *theirs}
    assert {task["task_id"] for task in second.get("/tasks")["tasks"]} >= set(ours)
    until(lambda: second.get("/stats")["total"] == 6)
    keys = [each.cli("keys", "*").splitlines() for each in (cluster.owner, *cluster.others)]
    assert [key for key in keys[0] if not key.startswith(f"{PREFIX}:")] == keys[1] == keys[2] == []
    asked = cluster.owner.cli("slowlog", "get", -1).splitlines()
    keys_of_scripts = {asked[n + 2] for n, word in enumerate(asked) if word == "EVALSHA"}
    assert keys_of_scripts > {"1", "11"}  # of ours, and of the one that begins a job
    assert "0" not in keys_of_scripts  # which a Cluster runs on whatever node it is told to


def test_a_task_is_finished_on_the_replica_that_took_over(
    cluster, new_member, silent, minutes_of_speech, jfk
):
    """Of the nodes that the host is told of one dies, one says nothing, and one is away."""
    host = new_member(cluster.owner.port, silent, a_free_port(), cluster.others[0].port).start()
    running = host.queued(minutes_of_speech(1.4), priority=10)
    at_work(host, running)
    waiting = host.queued(jfk)
    key = f"{PREFIX}:transcription:{waiting}"
    until(lambda: key in cluster.replica.cli("cluster", "getkeysinslot", cluster.slot, 1000).splitlines())
    cluster.owner.kill()
    cluster.replica_takes_over()

    assert [host.finished(task_id)["status"] for task_id in (running, waiting)] == ["completed"] * 2
    node = Node(cluster.others[0], cluster_prefix=PREFIX)
    try:
        jobs = [over(node, task_id) for task_id in (running, waiting)]
    finally:
        node.close()
    assert [(job["state"], job["attemptsStarted"]) for job in jobs] == [("completed", 1)] * 2
    assert host.submit(jfk).status_code == 202


@pytest.mark.timeout(MOST_SECONDS)
def test_what_was_accepted_around_a_failover_is_done_once(cluster, new_member, rounds, jfk):
    ports = [node.port for node in cluster.nodes]
    hosts = [new_member(*ports).start(), new_member(*reversed(ports)).start()]
    for _ in range(rounds):
        accepted = []

        def submit(until_away, accepted=accepted):
            for n in range(1000):
                answer = hosts[n % 2].submit(jfk)
                if answer.status_code == 202:
                    accepted.append(answer.json()["task_id"])
                if until_away == (answer.status_code == 503):
                    return

        with ThreadPoolExecutor() as pool:
            submitting = pool.submit(submit, until_away=True)
            until(lambda accepted=accepted: len(accepted) > 4)
            cluster.owner.kill()  # some of it may not have got to its replica
            submitting.result()
        cluster.replica_takes_over()
        submit(until_away=False)

        ends = [hosts[0].finished(task_id) for task_id in accepted]
        assert [end for end in ends if end["status"] != "completed"] == []
        cluster.comes_back()
    for host in hosts:
        host.until(lambda host=host: not away(host))
        assert host.stop() == 0


def test_a_slot_that_moves_takes_its_queue_along(cluster, new_member, minutes_of_speech, jfk):
    host = new_member(cluster.replica.port, cluster.others[0].port).start()
    running = host.queued(minutes_of_speech(1.4), priority=10)
    at_work(host, running)
    waiting = host.queued(jfk)
    to = cluster.others[1]
    cluster.begin_moving(to)
    host.until(lambda: away(host))
    while cluster.move(to):
        refused = host.submit(jfk)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_away")
    cluster.end_moving(to)

    assert [host.finished(task_id)["status"] for task_id in (running, waiting)] == ["completed"] * 2
    host.until(lambda: not away(host))
    assert host.finished(host.queued(jfk))["status"] == "completed"
    assert cluster.owner.cli("keys", "*") == ""


def test_a_cluster_without_most_of_its_masters_is_waited_for(cluster, new_member, jfk):
    host = new_member(cluster.owner.port, cluster.replica.port).start()
    for other in cluster.others:
        other.kill()
    host.until(lambda: away(host))
    assert host.submit(jfk).json()["error"]["code"] == "queue_away"

    for other in cluster.others:
        other.start()

    host.until(lambda: not away(host))
    assert host.finished(host.queued(jfk))["status"] == "completed"


@contextlib.asynccontextmanager
async def linked(*ports):
    link = Link(Settings(url=url_of(*ports), prefix=PREFIX))
    try:
        async with asyncio.timeout(60):
            yield link
    finally:
        await link.close()


async def ask(link, *command):
    async with link.asking() as client:
        return await client.execute_command(*(command or ("get", f"{PREFIX}:key")))


async def asked_for_ever(link):
    while True:
        await ask(link)


async def well(link):
    """Once it has an answer again."""
    while True:
        with contextlib.suppress(RedisAway):
            return await ask(link)
        await asyncio.sleep(0.05)


async def two_answers(link):
    """Of which Redis there is on two connections."""
    both = await asyncio.gather(*[ask(link, "info", "server") for _ in range(2)])
    return {server["run_id"] for server in both}


def run_id(node):
    return re.search(r"run_id:(\w+)", node.cli("info", "server"))[1]


def test_a_replica_that_was_made_the_master_in_order_is_another_redis(cluster):
    """The old one goes on, and answers on each connection that there is."""

    async def body():
        async with linked(cluster.others[0].port) as link:
            assert await two_answers(link) == {run_id(cluster.owner)}
            before = await link.identify(), link.well_since
            assert cluster.replica.cli("cluster", "failover") == "OK"
            cluster.replica_takes_over()
            until(lambda: "role:slave" in cluster.owner.cli("info", "replication"))

            with pytest.raises(RedisAway):
                await link.identify()
            await well(link)

            assert await two_answers(link) == {run_id(cluster.replica)}
            assert await link.identify() == run_id(cluster.replica) != before[0]
            assert link.well_since > before[1]

    asyncio.run(body())


def test_who_waits_on_a_master_that_is_made_a_replica_is_told_that_it_is_away(cluster):
    async def body():
        async with linked(cluster.owner.port) as link:
            waiting = asyncio.create_task(ask(link, "blpop", f"{PREFIX}:list", 0))
            clients = partial(cluster.owner.cli, "info", "clients")
            await asyncio.to_thread(until, lambda: "blocked_clients:1" in clients())
            assert cluster.replica.cli("cluster", "failover") == "OK"

            with pytest.raises(RedisAway, match="takes nothing at present"):
                await waiting

    asyncio.run(body())


def test_a_node_that_has_not_heard_who_took_over_is_not_asked_again(cluster):
    behind, other = cluster.others
    behind.cli("cluster", "forget", identity(cluster.replica))
    cluster.owner.kill()
    cluster.replica.cli("cluster", "failover", "takeover")

    async def body():
        async with linked(behind.port, other.port) as link:
            await well(link)

            assert await link.identify() == run_id(cluster.replica)

    asyncio.run(body())


def test_an_owner_that_the_others_have_left_is_not_asked_again(cluster):
    """It goes on to say that it is the owner, and takes nothing."""
    alone, other = cluster.owner, cluster.others[0]

    async def body():
        async with linked(alone.port, other.port) as link:
            await ask(link)
            for node in (*cluster.others, cluster.replica):
                alone.cli("cluster", "forget", identity(node))
            cluster.replica.cli("cluster", "failover", "takeover")
            with pytest.raises(RedisAway):
                await asked_for_ever(link)
            assert str(alone.port) in alone.cli("cluster", "slots")
            async with linked(alone.port) as deceived:
                with pytest.raises(RedisAway):  # though it would say who it is
                    await deceived.identify()

            await well(link)

            assert await link.identify() == run_id(cluster.replica)

    asyncio.run(body())


@pytest.mark.parametrize(
    "command", [("get", f"{PREFIX}:key"), ("eval", f"return redis.call('get', '{PREFIX}:key')", 0)]
)
def test_what_may_be_on_the_other_node_while_its_slot_is_moved_is_away(cluster, command):
    async def body():
        async with linked(cluster.owner.port) as link:
            cluster.begin_moving(cluster.others[0])

            with pytest.raises(RedisAway, match="takes nothing at present"):
                await ask(link, *command)

    asyncio.run(body())


@pytest.mark.parametrize(
    ("ports", "database", "said"),
    [
        ("one of a Cluster", "/1", "a Redis Cluster has no databases but 0"),
        ("two of none", "", "one of them is of no Redis Cluster"),
    ],
)
def test_what_a_cluster_cannot_be_is_refused(cluster, redis, new_host, ports, database, said):
    url = url_of(cluster.others[0].port) if ports == "one of a Cluster" else url_of(redis.port, redis.port)

    status, told = new_host(REDIS__URL=url + database, REDIS__PREFIX=PREFIX).refused()

    assert status == 1
    assert said in told


def test_a_redis_that_is_no_cluster_may_have_such_a_prefix(redis, new_host, jfk):
    host = new_host(REDIS__URL=f"{redis.url}/2", REDIS__PREFIX=PREFIX).start()

    assert host.finished(host.queued(jfk))["status"] == "completed"
    assert redis.cli("-n", "2", "exists", f"{PREFIX}:transcription:meta") == "1"


def test_an_acl_user_needs_in_a_cluster_what_the_docs_name_and_no_more(cluster, new_member, tmp_path, jfk):
    docs = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    rights = re.search(r"An ACL has to allow `([^`]+)`", docs)[1].replace("bull", PREFIX).split()
    more = re.search(r"in a Cluster `([^`]+)`", docs)[1]
    for node in cluster.nodes:
        node.cli("acl", "setuser", "whisperd", "on", ">secret", *rights, "-cluster|slots", more)
    (tmp_path / "password").write_text("secret")
    (tmp_path / "wrong").write_text("secrets")
    known = {"REDIS__USERNAME": "whisperd", "REDIS__PASSWORD_FILE": tmp_path / "password"}
    wrong = {**known, "REDIS__PASSWORD_FILE": tmp_path / "wrong"}
    port = cluster.others[0].port

    status, told = new_member(port, a_free_port(), **wrong).refused()
    host = new_member(port, **known).start()

    assert (status, "Redis refuses redis.username, its password" in told) == (1, True)
    assert host.finished(host.queued(jfk))["status"] == "completed"


def test_the_nodes_of_a_cluster_are_asked_by_tls_and_its_owner_too(new_member, tmp_path, jfk):
    ca, others = trustme.CA(), trustme.CA()
    for name, each in (("ours", ca), ("others", others)):
        each.cert_pem.write_to_path(tmp_path / f"{name}.pem")
    cert = ca.issue_cert("127.0.0.1")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    ports = {}

    def settings(folder):
        ports[folder.name] = a_free_port()
        return {
            "tls-cert-file": str(tmp_path / "cert.pem"),
            "tls-key-file": str(tmp_path / "key.pem"),
            "tls-ca-cert-file": str(tmp_path / "ours.pem"),
            "tls-auth-clients": "no",
            "tls-cluster": "yes",
            "tls-replication": "yes",
            "tls-port": str(ports[folder.name]),
        }

    with running(tmp_path / "cluster", settings) as cluster:
        port = ports[cluster.others[0].folder.name]
        url = {"REDIS__URL": url_of(port, scheme="rediss")}

        status, told = new_member(**url, REDIS__CA_FILE=tmp_path / "others.pem").refused()
        host = new_member(**url, REDIS__CA_FILE=tmp_path / "ours.pem").start()

        assert (status, "no certificate that holds for its name" in told) == (1, True)
        assert host.finished(host.queued(jfk))["status"] == "completed"
        assert host.stop() == 0
