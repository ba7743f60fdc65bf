"""Webhooks of a real daemon to a real receiver: what a kill -9 and a stop do to them."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import standardwebhooks


class Receiver:
    """Notes what is posted; while it hangs, it answers nothing."""

    def __init__(self):
        self.received = []  # (headers, body)
        self.hangs = threading.Event()
        self._let_go = threading.Event()

    @contextlib.contextmanager
    def listening(self):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
                if receiver.hangs.is_set():
                    receiver._let_go.wait(60)
                    return
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}/hook/s3cr3t"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._let_go.set()
            server.shutdown()
            thread.join()
            server.server_close()

    def ids(self):
        return [headers["webhook-id"] for headers, _ in self.received]


@pytest.fixture
def receiver():
    with Receiver().listening() as receiver:
        yield receiver


@pytest.fixture
def hooked(new_daemon, receiver):
    return new_daemon(WEBHOOKS__ENDPOINTS=receiver.url, WORKERS__COUNT=1)


def test_a_completed_task_is_told_and_can_be_verified(hooked, receiver, jfk):
    daemon = hooked.start()
    task_id = daemon.queued(jfk)
    done = daemon.finished(task_id)
    daemon.until(lambda: receiver.received)

    ((headers, body),) = receiver.received
    secret = (daemon.data / "webhooks.secret").read_text().strip()
    event = standardwebhooks.Webhook(secret).verify(body, headers)
    assert event["type"] == "task.completed"
    assert event["data"] | {"audio_kept": True} == done  # which no event says
    daemon.until(lambda: daemon.get("/admin/webhooks")["deliveries"][0]["state"] == "delivered")
    assert daemon.stop() == 0
    assert "s3cr3t" not in daemon.said()
    assert secret not in daemon.said()


def test_a_kill_between_commit_and_delivery_loses_nothing_and_doubles_nothing_but_the_id(
    hooked, receiver, jfk
):
    receiver.hangs.set()
    daemon = hooked.start()
    first, second = daemon.queued(jfk), daemon.queued(jfk, priority=-1)
    daemon.finished(first)
    daemon.http.delete(f"/tasks/{second}")
    daemon.until(lambda: len(receiver.received) == 2)
    daemon.kill()
    (states,) = daemon.left("select state from outbox")
    assert states == [("waiting",), ("waiting",)]

    receiver.hangs.clear()
    daemon.start()
    daemon.until(lambda: len(receiver.received) == 4)
    daemon.until(lambda: {d["state"] for d in daemon.get("/admin/webhooks")["deliveries"]} == {"delivered"})
    assert sorted(receiver.ids()[:2]) == sorted(receiver.ids()[2:])
    assert len(set(receiver.ids())) == 2
    assert {json.loads(body)["data"]["task_id"] for _, body in receiver.received} == {first, second}
    assert daemon.stop() == 0


def test_a_receiver_that_hangs_does_not_hold_up_the_end(hooked, receiver, jfk):
    receiver.hangs.set()
    daemon = hooked.start()
    daemon.http.delete(f"/tasks/{daemon.queued(jfk)}")
    daemon.until(lambda: receiver.received)

    assert daemon.stop(timeout=20) == 0
    assert daemon.rows("select state from outbox") == [("waiting",)]
