"""Tasks from a real RabbitMQ, and their ends told there."""

import contextlib
import json
import selectors
import socket
import threading

import pytest

from tests.e2e.daemon import Daemon, a_key
from tests.rabbit_server import Rabbit

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
    """Makes daemons that take messages; whatever still runs at the end of the test is killed."""
    made = []

    def make(**settings):
        settings = {"BROKERS__URL": rabbit.url, "HTTP__ALLOWED_ROOTS": jfk.parent, **settings}
        made.append(Daemon(tmp_path / "daemon", weights, WORKERS__COUNT=1, **settings))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end()


@pytest.fixture
def clip(jfk):
    """The message that asks for it."""
    return json.dumps({"audio_path": str(jfk), "beam_size": 1}).encode()


def connected(daemon):
    daemon.until(lambda: daemon.health()["checks"]["broker"] == {"status": "ok", "message": None})
    return daemon


def tasks(daemon):
    return daemon.get("/tasks")["tasks"]


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

    daemon.until(lambda: len(tasks(daemon)) == 2, 60)
    connected(daemon)
    assert rabbit.waiting("whisperd.dead") == 0


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


class Line:
    """Between a client and a server; while `deaf` is set, the server hears nothing of the client."""

    def __init__(self, to):
        self._to = to
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.deaf = threading.Event()
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
                for key, _ in ready.select(0.1):
                    if key.fileobj is self._server:
                        client = stack.enter_context(self._server.accept()[0])
                        server = stack.enter_context(socket.create_connection(("127.0.0.1", self._to)))
                        ready.register(client, selectors.EVENT_READ, (server, self.deaf))
                        ready.register(server, selectors.EVENT_READ, (client, threading.Event()))
                    elif not self._carried(key.fileobj, *key.data):
                        ready.unregister(key.fileobj)

    def _carried(self, source, target, deaf):
        with contextlib.suppress(OSError):
            if said := source.recv(65536):
                if not deaf.is_set():
                    target.sendall(said)
                return True
            target.shutdown(socket.SHUT_WR)
        return False
