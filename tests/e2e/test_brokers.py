"""Tasks from a real RabbitMQ, and their ends told there."""

import asyncio
import contextlib
import http.server
import json
import selectors
import socket
import threading

import pamqp.encode
import pytest

from tests.e2e.daemon import a_key
from tests.e2e.messaging import asking_for, connected, cut_off_while_it_settles, hosts_of, tasks
from tests.rabbit_server import Rabbit
from whisperd.brokers.rabbit import check
from whisperd.brokers.rabbit import connected as connected_to
from whisperd.brokers.way import BrokerAway
from whisperd.config import Brokers

pytestmark = pytest.mark.timeout(600)  # RabbitMQ takes its time to start


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    rabbit = Rabbit(tmp_path_factory.mktemp("rabbit") / "rabbit")
    try:
        yield rabbit.start()
    finally:
        rabbit.close()


@pytest.fixture
def rabbit(broker):
    """With nothing in it."""
    broker.start_if_stopped()
    broker.forget("whisperd.tasks", "whisperd.dead", "ends")
    return broker


@pytest.fixture
def new_host(tmp_path, weights, rabbit, jfk):
    with hosts_of(rabbit.url, tmp_path, weights, jfk.parent) as make:
        yield make


@pytest.fixture
def clip(jfk):
    return asking_for(jfk)


def taken(daemon, rabbit):
    """How many tasks there are once all is over, which leaves no message."""
    daemon.all_over()
    assert daemon.stop() == 0
    assert [rabbit.waiting(queue) for queue in ("whisperd.tasks", "whisperd.dead")] == [0, 0]
    return daemon.rows("select count(*) from task")[0][0]


def test_a_message_becomes_a_task_and_its_end_is_told(new_host, rabbit, clip):
    rabbit.listen("ends", "task.*")
    daemon = new_host().start()
    rabbit.send(clip, "one")

    told = rabbit.take("ends")

    event = json.loads(told.body)
    (task,) = tasks(daemon)
    assert (told.routing_key, event["type"]) == ("task.completed", "task.completed")
    assert event["data"]["task_id"] == task["task_id"]
    assert told.message_id.startswith("msg_")
    assert "ask not what your country can do for you" in daemon.result(task["task_id"])


def test_a_message_that_comes_twice_is_one_task(new_host, rabbit, clip):
    daemon = new_host().start()
    for message_id in ("one", "one", "two"):
        rabbit.send(clip, message_id)
    daemon.until(lambda: len(tasks(daemon)) >= 2)

    assert taken(daemon, rabbit) == 2


def test_messages_without_an_id_are_a_task_each(new_host, rabbit, clip):
    daemon = new_host().start()
    for message_id in (None, None, "", ""):
        rabbit.send(clip, message_id)

    daemon.until(lambda: len(tasks(daemon)) == 4, 60)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\xff\xfe no JSON", "malformed_json"),
        (b'{"audio_path": "/etc/passwd"}', "invalid_field"),
        (b'{"audio_url": "https://a.example/b", "model": 5}', "invalid_field"),
        (b'["audio"]', "malformed_json"),
    ],
)
def test_what_is_no_task_is_a_dead_letter_with_the_reason(new_host, rabbit, clip, body, code):
    daemon = connected(new_host().start())
    rabbit.send(body, "bad")
    rabbit.send(clip, "good")

    dead = rabbit.take("whisperd.dead")

    assert (dead.body, dead.message_id, dead.headers["code"]) == (body, "bad", code)
    assert dead.headers["message"]
    daemon.until(lambda: len(tasks(daemon)) == 1)  # that which came behind it


def test_who_asks_for_an_answer_gets_none_before_there_is_one(new_host, rabbit, clip):
    daemon = connected(new_host().start())
    rabbit.send(b"aside", queue="ends")  # makes the queue
    rabbit.take("ends")
    rabbit.send(clip, "one", reply_to="ends")
    daemon.until(lambda: tasks(daemon), 60)
    daemon.all_over()

    assert [task["status"] for task in tasks(daemon)] == ["completed"]
    assert rabbit.waiting("ends") == 0


def test_an_id_that_comes_with_another_body_is_a_dead_letter(new_host, rabbit, clip):
    daemon = connected(new_host().start())
    rabbit.send(clip, "one")
    daemon.until(lambda: tasks(daemon))
    rabbit.send(clip.replace(b'"beam_size": 1', b'"beam_size": 2'), "one")

    assert rabbit.take("whisperd.dead").headers["code"] == "idempotency_conflict"
    assert len(tasks(daemon)) == 1


def test_what_cannot_be_taken_now_is_kept(new_host, rabbit, clip):
    daemon = connected(new_host(QUEUE__MAX_QUEUED=1).start())
    daemon.http.post("/admin/pause")
    rabbit.send(clip, "one")
    rabbit.send(clip, "two")
    daemon.until(lambda: "messages wait to become tasks" in str(daemon.health()["checks"]["broker"]))
    daemon.http.post("/admin/resume")

    daemon.until(lambda: len(tasks(daemon)) == 2, 120)
    connected(daemon, 120)
    assert rabbit.waiting("whisperd.dead") == 0


def test_what_one_host_cannot_take_another_takes(new_host, rabbit, clip):
    full = connected(new_host("full", QUEUE__MAX_QUEUED=1).start())
    full.http.post("/admin/pause")
    for _ in range(9):
        rabbit.send(clip)
    full.until(lambda: "messages wait to become tasks" in str(full.health()["checks"]["broker"]))

    other = new_host("other").start()

    other.until(lambda: len(tasks(other)) == 8, 60)
    assert len(tasks(full)) == 1
    other.all_over()
    assert rabbit.waiting("whisperd.tasks") == 0
    connected(full, 120)  # nothing is refused any more


def test_a_call_whose_connection_is_lost_ends_before_its_message_comes_again(new_host, rabbit, jfk):
    with Line(rabbit.port) as line, Source(jfk.read_bytes()) as source:
        url, networks = f"amqp://127.0.0.1:{line.port}", "127.0.0.0/8"
        daemon = connected(new_host(BROKERS__URL=url, OUTBOUND__ALLOWED_NETWORKS=networks).start())
        rabbit.send(json.dumps({"audio_url": source.url}).encode())
        daemon.until(lambda: source.asked == 1)
        line.cut.set()
        daemon.until(lambda: source.asked == 2, 60)
        source.released.set()
        daemon.until(lambda: tasks(daemon), 60)

        assert taken(daemon, rabbit) == 1


def test_a_channel_that_the_broker_closes_is_not_restored_beside_its_calls(rabbit, clip):
    calls = []

    async def settle(letter):
        calls.append("begun")
        await letter.ack.__self__.channel.basic_ack(999)  # for which the broker closes it
        try:
            await asyncio.sleep(30)
        finally:
            calls.append("ended")

    async def take():
        settings = Brokers(url=rabbit.url)
        check(settings)
        async with connected_to(settings) as way, asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(way.watch())
            await way.take(settle, float)

    rabbit.send(clip)
    with pytest.raises(BaseExceptionGroup) as raised:
        asyncio.run(take())

    assert raised.group_contains(BrokerAway)
    assert calls == ["begun", "ended"]


@pytest.mark.parametrize("failing", [False, True])
def test_what_is_cut_off_with_its_task_on_the_disk_comes_no_second_time(rabbit, clip, failing):
    settings = Brokers(url=rabbit.url)
    check(settings)
    for body in (clip, *([b"fails"] if failing else [])):
        rabbit.send(body)

    cut_off_while_it_settles(connected_to(settings), failing)

    assert rabbit.waiting("whisperd.tasks") == int(failing)


@pytest.mark.parametrize("message_id", [b"caf\xe9", None])
def test_a_message_with_text_that_is_not_utf_8_stops_nothing(new_host, rabbit, clip, message_id):
    daemon = connected(new_host().start())
    with not_utf_8(message_id):
        rabbit.send(clip, "latin", headers=None if message_id else {"caf\xe9": True})
        rabbit.send(b"[]", "latin again")
    rabbit.send(clip, "good")

    daemon.until(lambda: len(tasks(daemon)) == 2, 60)
    assert rabbit.take("whisperd.dead").headers["code"] == "malformed_json"
    assert taken(daemon, rabbit) == 2


def test_kill_9_before_the_acknowledgement_makes_no_second_task(new_host, rabbit, clip):
    with Line(rabbit.port) as line:
        url = f"amqp://127.0.0.1:{line.port}"
        daemon = connected(new_host(BROKERS__URL=url).start())
        line.deaf.set()  # the broker hears no acknowledgement
        rabbit.send(clip, "one")
        daemon.until(lambda: tasks(daemon))
        daemon.kill()

    again = connected(new_host().start())  # to which it comes again
    rabbit.send(clip, "two")
    again.until(lambda: len(tasks(again)) >= 2)
    assert taken(again, rabbit) == 2


def test_while_the_broker_is_away_all_goes_on_and_is_told_later(new_host, rabbit, jfk, clip):
    rabbit.listen("ends", "task.completed")
    daemon = connected(new_host().start())
    rabbit.stop()
    daemon.until(lambda: daemon.health()["checks"]["broker"]["status"] == "degraded")
    task_id = daemon.queued(jfk)

    assert daemon.finished(task_id)["status"] == "completed"
    assert daemon.health()["status"] == "degraded"
    rabbit.start()
    assert json.loads(rabbit.take("ends").body)["data"]["task_id"] == task_id
    connected(daemon)
    rabbit.send(clip, "one")
    daemon.until(lambda: len(tasks(daemon)) == 2)


def test_a_daemon_starts_without_its_broker(new_host, rabbit, clip):
    rabbit.send(clip, "one")
    rabbit.stop()
    daemon = new_host().start()
    assert daemon.health()["checks"]["broker"]["status"] == "degraded"
    rabbit.start()

    daemon.until(lambda: tasks(daemon), 60)


def test_where_there_are_keys_messages_come_under_one(new_host, rabbit, clip, tmp_path):
    file = tmp_path / "key"
    daemon = new_host(BROKERS__KEY_FILE=file)
    daemon.key = a_key(daemon.data, "admin")
    daemon.start()
    rabbit.send(clip, "one")
    daemon.until(lambda: "brokers.key_file cannot be read" in str(daemon.health()["checks"]["broker"]))
    file.write_text(a_key(daemon.data, "read", tenant="acme"))
    daemon.until(lambda: "submit" in str(daemon.health()["checks"]["broker"]), 90)
    assert tasks(daemon) == []

    file.write_text(a_key(daemon.data, "submit", tenant="acme"))

    (task,) = daemon.until(lambda: tasks(daemon), 60)
    assert task["tenant"] == "acme"


class Source:
    """Has a recording, and keeps all who ask for it waiting until `released`."""

    def __init__(self, recording):
        self.asked = 0
        self.released = threading.Event()
        source = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                source.asked += 1
                source.released.wait(120)
                with contextlib.suppress(OSError):  # who asked has gone
                    self.send_response(200)
                    self.send_header("content-length", str(len(recording)))
                    self.end_headers()
                    self.wfile.write(recording)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/talk.wav"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def not_utf_8(message_id):
    """What is sent meanwhile is in Latin-1, and "latin" is this id."""
    methods, key = dict(pamqp.encode.METHODS), pamqp.encode.field_table

    def text(value):
        said = message_id if value == "latin" and message_id else value.encode("latin-1")
        return bytes([len(said)]) + said

    def table(value):
        return LATIN if value == {"caf\xe9": True} else key(value)

    pamqp.encode.METHODS.update(shortstr=text, table=table)
    try:
        yield
    finally:
        pamqp.encode.METHODS.update(methods)


LATIN = b"\0\0\0\x07\x04caf\xe9t\x01"  # {"caf\xe9": True}, with a name that is not UTF-8


class Line:
    """Between a client and a server; while `deaf` is set, the server hears nothing of the client."""

    def __init__(self, to):
        self._to = to
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.deaf = threading.Event()
        self.cut = threading.Event()  # once: all who are connected are no more
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _carry(self):
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as ready:
            stack.enter_context(self._server)
            ready.register(self._server, selectors.EVENT_READ)
            while not self._over.is_set():
                if self.cut.is_set():
                    self._cut(ready)
                for key, _ in ready.select(0.1):
                    if key.fileobj is self._server:
                        client = stack.enter_context(self._server.accept()[0])
                        server = stack.enter_context(socket.create_connection(("127.0.0.1", self._to)))
                        ready.register(client, selectors.EVENT_READ, (server, self.deaf))
                        ready.register(server, selectors.EVENT_READ, (client, threading.Event()))
                    elif not self._carried(key.fileobj, *key.data):
                        ready.unregister(key.fileobj)

    def _cut(self, ready):
        for key in list(ready.get_map().values()):
            if key.fileobj is not self._server:
                ready.unregister(key.fileobj)
                key.fileobj.close()
        self.cut.clear()

    def _carried(self, source, target, deaf):
        with contextlib.suppress(OSError):
            if said := source.recv(65536):
                if not deaf.is_set():
                    target.sendall(said)
                return True
            target.shutdown(socket.SHUT_WR)
        return False
