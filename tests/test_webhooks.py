"""What is posted, to real servers, and that the libraries of others find it well signed."""

import asyncio
import json
import logging
import os
import re
import shutil
import stat
import subprocess
from base64 import b64encode
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import time

import msgspec
import openai
import pytest
import standardwebhooks
import structlog

from tests.outside import Outside, an_answer, to
from tests.test_deliveries import Post
from tests.test_outbox import cancelled
from tests.test_queue import completed
from whisperd import config
from whisperd.db import Database
from whisperd.deliveries import Deliveries
from whisperd.delivery import DeliveryQuery
from whisperd.routes.view import TaskView, task_view
from whisperd.signing import FILE, kept_secret, of_tenant, signed
from whisperd.webhooks import Webhooks

SECRET = "whsec_" + b64encode(bytes(range(32))).decode()
OLDER = "whsec_" + b64encode(bytes(range(24))).decode()
LOCAL = ("127.0.0.0/8",)


@pytest.fixture
def with_hooks(tmp_path, clock):
    """Run a test body with a queue whose webhooks go to a real server."""

    def run(body, networks=LOCAL, secrets=(), **answers):
        async def main():
            async with Database(tmp_path / "q.db") as db, Outside().serving() as outside:
                outside.answers = {f"/{path}": answer for path, answer in answers.items()}
                await body(Hooks(db, clock, outside, tmp_path, networks, secrets))

        asyncio.run(main())

    return run


class Hooks(Post):
    def __init__(self, db, clock, outside, folder, networks, secrets):
        super().__init__(db, clock)
        self.outside, self.folder = outside, folder
        self.settings = config.Config(
            storage=config.Storage(data_dir=str(folder)),
            outbound=config.Outbound(allowed_networks=networks),
            webhooks=config.Webhooks(secrets=secrets),
        )
        self.webhooks = Webhooks(self.settings, task_view, clock)
        self.deliveries = Deliveries(
            self.box, self.events, {"webhook": self.webhooks}, (), jitter=lambda: 1.0, steady=clock
        )

    def url(self, path="hook", host="127.0.0.1"):
        return f"http://{host}:{self.outside.port}/{path}"

    async def point(self, *urls):
        """These are the endpoints of the settings."""
        hooks = msgspec.structs.replace(self.settings.webhooks, endpoints=urls)
        self.settings = msgspec.structs.replace(self.settings, webhooks=hooks)
        self.webhooks.reload(self.settings)
        await self.box.point(urls)
        self.deliveries.reload(urls)

    @asynccontextmanager
    async def tried(self, n=1):
        """In the block the outbox is emptied; at its end so many attempts have been made."""
        async with self.running():
            yield
            await self.until(lambda: len(self.outside.asked) >= n)
            await self.until(lambda: not self.deliveries._held)

    def received(self):
        """(headers, body) of each request."""
        return [(headers_of(head), body) for head, body in self.outside.asked]

    async def problem(self):
        (delivery,) = await self.box.find(DeliveryQuery())
        return delivery.state, delivery.problem


def headers_of(head):
    lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
    return {name.lower(): value for name, _, value in lines}


def verify(secret, headers, body):
    """By the library of those who made the standard; the tolerance of five minutes is theirs too."""
    return standardwebhooks.Webhook(secret).verify(body, headers)


# --- what is said ---


def test_the_body_names_the_event_and_its_time_and_holds_the_task(with_hooks, clock):
    async def body(hooks):
        task = await completed(hooks.queue, callback_url=hooks.url(), metadata={"yours": [1]})
        clock.now += 100
        async with hooks.tried():
            pass

        ((headers, sent),) = hooks.received()
        assert headers["content-type"] == "application/json"
        said = json.loads(sent)
        assert list(said) == ["type", "timestamp", "data"]
        assert (said["type"], said["timestamp"]) == ("task.completed", "1970-01-12T13:46:40.000Z")
        assert said["data"] == json.loads(msgspec.json.encode(task_view(task)))
        always = {field.name for field in msgspec.structs.fields(TaskView) if field.required}
        assert said["data"].keys() == always
        assert said["data"]["metadata"] == {"yours": [1]}

    with_hooks(body)


# --- signatures ---


def test_the_libraries_of_others_find_it_well_signed(with_hooks, clock):
    clock.now = time()  # they compare with their own

    async def body(hooks):
        task = await cancelled(hooks.queue, callback_url=hooks.url())
        async with hooks.tried():
            pass

        ((headers, sent),) = hooks.received()
        secret = kept_secret(hooks.folder)
        assert verify(secret, headers, sent)["data"]["task_id"] == task.id
        event = openai.OpenAI(api_key="none", webhook_secret=secret).webhooks.unwrap(sent, headers)
        assert (event.type, event.data.task_id) == ("task.cancelled", task.id)

    with_hooks(body)


def test_what_was_changed_on_its_way_is_found_out(with_hooks, clock):
    clock.now = time()

    async def body(hooks):
        await cancelled(hooks.queue, callback_url=hooks.url())
        async with hooks.tried():
            pass

        ((headers, sent),) = hooks.received()
        forged = sent.replace(b"cancelled", b"completed")
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            verify(SECRET, headers, forged)
        client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(forged, headers)
        assert verify(SECRET, headers, sent)

    with_hooks(body, secrets=(SECRET,))


def test_while_a_secret_is_replaced_both_hold(with_hooks, clock):
    clock.now = time()

    async def body(hooks):
        await cancelled(hooks.queue, callback_url=hooks.url())
        async with hooks.tried():
            pass

        ((headers, sent),) = hooks.received()
        assert verify(SECRET, headers, sent)
        assert verify(OLDER, headers, sent)

    with_hooks(body, secrets=(SECRET, OLDER))


def test_each_tenant_has_a_secret_of_its_own_and_the_endpoints_have_the_operators(with_hooks, clock):
    clock.now = time()

    async def body(hooks):
        await hooks.point(hooks.url("operator"))
        await cancelled(hooks.queue, callback_url=hooks.url(), tenant="acme")
        async with hooks.tried(2):
            pass

        secrets = {
            "hook": of_tenant(SECRET, "acme"),
            "operator": SECRET,
        }
        for head, sent in hooks.outside.asked:
            path = head.split(" ")[1].removeprefix("/")
            assert verify(secrets[path], headers_of(head), sent)
        assert len({SECRET, of_tenant(SECRET, "acme"), of_tenant(SECRET, "other")}) == 3
        assert of_tenant(SECRET, "default") == SECRET

    with_hooks(body, secrets=(SECRET,))


@pytest.mark.parametrize("secret", [SECRET, OLDER, of_tenant(SECRET, "acme")])
def test_a_signature_is_the_one_that_the_standards_library_makes(secret):
    headers = signed([secret], "msg_1", 1_700_000_000, b'{"a":1}')
    theirs = standardwebhooks.Webhook(secret)
    at = datetime.fromtimestamp(1_700_000_000, UTC)
    assert headers["webhook-signature"] == theirs.sign("msg_1", at, '{"a":1}')


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    made = kept_secret(tmp_path)

    assert kept_secret(tmp_path) == made
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


# --- what is repeated, and where it may go ---


def test_what_is_sent_again_has_its_old_id_and_body_and_a_new_time(with_hooks, clock):
    async def body(hooks):
        await cancelled(hooks.queue, callback_url=hooks.url())
        async with hooks.tried(1):
            pass
        clock.now += 5
        hooks.outside.answers["/hook"] = an_answer()
        async with hooks.tried(2):
            pass

        (first, first_body), (second, second_body) = hooks.received()
        assert first["webhook-id"] == second["webhook-id"]
        assert int(second["webhook-timestamp"]) == int(first["webhook-timestamp"]) + 5
        assert first["webhook-signature"] != second["webhook-signature"]
        assert first_body == second_body
        assert (await hooks.problem())[0] == "delivered"

    with_hooks(body, hook=an_answer(status="500 Broken"))


def test_a_callback_reaches_no_private_address(with_hooks):
    async def body(hooks):
        await cancelled(hooks.queue, callback_url=hooks.url())
        async with hooks.running():
            await hooks.until(lambda: hooks.deliveries._held)
            await hooks.until(lambda: not hooks.deliveries._held)

        assert hooks.outside.connections == 0
        state, problem = await hooks.problem()
        assert (state, "public internet" in problem) == ("waiting", True)

    with_hooks(body, networks=())


def test_the_settings_may_name_an_endpoint_on_a_private_network(with_hooks):
    async def body(hooks):
        await hooks.point(hooks.url())
        await cancelled(hooks.queue)
        async with hooks.tried():
            pass

        assert (await hooks.problem())[0] == "delivered"

    with_hooks(body, networks=())


def test_that_an_endpoint_is_private_opens_its_host_to_no_callback(with_hooks):
    async def body(hooks):
        await hooks.point(hooks.url("endpoint"))
        await cancelled(hooks.queue, callback_url=hooks.url("admin"))
        async with hooks.tried():
            await hooks.until_settled(1)

        assert [head.split(" ")[1] for head, _ in hooks.outside.asked] == ["/endpoint"]

    with_hooks(body, networks=())


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_no_redirect_leads_to_another_host(with_hooks, status):
    async def body(hooks):
        async with Outside().serving() as metadata:
            there = f"http://localhost:{metadata.port}/"
            for target in ("http://169.254.169.254/latest/meta-data/", there):
                hooks.outside.answers["/hook"] = to(target, status)
                await cancelled(hooks.queue, callback_url=hooks.url())
            async with hooks.tried(2):
                pass

            assert metadata.connections == 0
        assert {delivery.state for delivery in await hooks.box.find(DeliveryQuery())} == {"waiting"}

    with_hooks(body)


GARBAGE = b"\x00\xff" * 4000
LONG_HEAD = b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n"


@pytest.mark.parametrize("answer", [GARBAGE, LONG_HEAD, b"", b"HTTP/1.1 2"])
def test_an_answer_that_makes_no_sense_is_a_failure(with_hooks, answer):
    async def body(hooks):
        await cancelled(hooks.queue, callback_url=hooks.url())
        async with hooks.tried():
            pass

        state, problem = await hooks.problem()
        assert (state, "127.0.0.1" in problem) == ("waiting", True)

    with_hooks(body, hook=answer)


def test_an_endless_answer_is_not_read(with_hooks):
    async def body(hooks):
        await cancelled(hooks.queue, callback_url=hooks.url())
        async with hooks.tried():
            pass

        assert (await hooks.problem())[0] == "delivered"

    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    with_hooks(body, hook=[head, b"x" * 1000, None])


def test_a_receiver_that_hangs_costs_its_own_time_only(with_hooks, monkeypatch):
    monkeypatch.setattr("whisperd.webhooks.POST_SECONDS", 0.1)

    async def body(hooks):
        await cancelled(hooks.queue, callback_url=hooks.url())
        async with hooks.running():
            await hooks.until(lambda: hooks.deliveries._held)
            await hooks.until(lambda: not hooks.deliveries._held)

        assert await hooks.problem() == ("waiting", "it took longer than 0.1 seconds")

    with_hooks(body, hook=[None])


def test_no_log_has_the_path_of_an_address_or_a_secret(with_hooks, caplog):
    caplog.set_level(logging.INFO)

    async def body(hooks):
        await cancelled(hooks.queue, callback_url=hooks.url("hook?token=t0ken"))
        await cancelled(hooks.queue, callback_url=hooks.url("other/t0ken"))
        async with hooks.tried(2):
            pass

        said = f"{logs} {caplog.text} {hooks.settings!r} {await hooks.box.find(DeliveryQuery()) and ''}"
        assert "a delivery failed" in said
        assert "t0ken" not in said
        assert SECRET not in said

    with structlog.testing.capture_logs() as logs:
        with_hooks(body, secrets=(SECRET,), hook=an_answer(status="500 Broken"))


# --- what the manual says ---


def code(language):
    manual = (Path(__file__).parents[1] / "docs" / "webhooks.md").read_text()
    (found,) = re.findall(rf"```{language}\n(.*?)```", manual, re.DOTALL)
    return found


SENT = b'{"type":"task.completed","data":{"task_id":"01J \xc3\xa4"}}'


def test_the_code_for_python_takes_what_is_ours_and_nothing_else(monkeypatch, capsys):
    monkeypatch.setenv("WHISPERD_WEBHOOK_SECRET", SECRET)
    receiver = {}
    exec(code("python"), receiver)
    ours = signed([OLDER, SECRET], "msg_1", int(time()), SENT)

    assert [receiver["received"](ours, SENT) for _ in range(2)] == [204, 204]
    assert capsys.readouterr().out == "task.completed 01J ä\n"  # once
    assert receiver["received"](ours, SENT + b" ") == 401
    assert receiver["received"](signed([SECRET], "msg_1", int(time()) - 301, SENT), SENT) == 401


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_the_code_for_node_takes_what_is_ours_and_nothing_else():
    ours = signed([OLDER, SECRET], "msg_1", int(time()), SENT)
    old = signed([SECRET], "msg_1", int(time()) - 301, SENT)
    tries = [(ours, SENT), (ours, SENT + b" "), (old, SENT), (signed([OLDER], "m", int(time()), SENT), SENT)]
    asked = json.dumps([[headers, body.decode()] for headers, body in tries])
    program = f"{code('js')}\nfor (const [h, b] of {asked}) console.log(verified(h, Buffer.from(b)) !== null)"

    said = subprocess.run(
        ["node", "-e", program],
        env={**os.environ, "WHISPERD_WEBHOOK_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (said.stdout.split(), said.stderr) == (["true", "false", "false", "false"], "")
