"""`whisperd webhooks`, and the calls of the client behind it."""

import asyncio
import json
import stat

import pytest

from tests.stand_in import DELIVERY, standing_in
from tests.terminal import command_line
from whisperd.client import AsyncClient, Client, NotFound
from whisperd.signing import FILE, kept_secret, of_tenant

SECRET = "whsec_" + "A" * 43 + "="


@pytest.fixture(scope="module")
def server():
    with standing_in() as server:
        yield server


@pytest.fixture
def daemon(server):
    server.reset()
    server.deliveries = [{"id": f"msg_{n}", **DELIVERY} for n in range(120)]
    return server


@pytest.fixture
def run(monkeypatch, capfd, tmp_path, server):
    command = command_line(monkeypatch, capfd, tmp_path)

    def run(*args):
        return command(*args, url=server.url)

    return run


def test_deliveries_are_listed_a_line_each_in_a_pipe(run, daemon):
    lines = run("webhooks", "list", "--limit", "2").lines

    assert [line.split("\t")[:3] for line in lines] == [["msg_0", "dead", "20"], ["msg_1", "dead", "20"]]
    assert lines[0].split("\t")[4:] == ["task.failed", "01J001", "https://hooks.example", "it answered 500"]


def test_as_many_as_asked_come_over_pages(run, daemon):
    assert len(json.loads(run("webhooks", "list", "--limit", "1000", "--json").out)) == 120
    assert len(run("webhooks", "list", "--limit", "110").lines) == 110


def test_filters_go_to_the_daemon(run, daemon):
    run("webhooks", "list", "--state", "waiting,dead", "--task", "01J001", "--tenant", "acme")

    ((_, asked),) = daemon.seen
    assert asked == "/admin/webhooks?state=waiting%2Cdead&task_id=01J001&tenant=acme&limit=20"


def test_what_can_be_sent_again_is_and_the_rest_is_told(run, daemon):
    outcome = run("webhooks", "resend", "msg_3", "msg_none", "../clear")

    assert outcome.status == 1
    assert outcome.lines == ["msg_3\twaiting"]
    assert "msg_none: there is no delivery" in outcome.err
    assert daemon.cleared == []


def test_both_clients_list_and_resend(daemon):
    async def main():
        async with AsyncClient(daemon.url) as client:
            return await client.deliveries(limit=105), await client.resend("msg_1")

    with Client(daemon.url) as client:
        assert asyncio.run(main()) == (client.deliveries(limit=105), client.resend("msg_1"))
        with pytest.raises(NotFound):
            client.resend("msg_none")


# --- the secret ---


def test_the_secret_is_made_where_there_is_none_and_then_stays(run, tmp_path):
    outcome = run("webhooks", "secret", "--data-dir", tmp_path)

    assert outcome.out == f"{kept_secret(tmp_path)}\n"
    assert run("webhooks", "secret", "--data-dir", tmp_path).out == outcome.out
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_the_secret_of_the_settings_counts_and_a_tenant_has_its_own(run, tmp_path, monkeypatch):
    monkeypatch.setenv("WHISPERD_WEBHOOKS__SECRETS", f"{SECRET},whsec_{'B' * 32}")
    secret = ("webhooks", "secret", "--data-dir", tmp_path)

    assert run(*secret).out == f"{SECRET}\n"
    assert run(*secret, "--tenant", "acme").out == f"{of_tenant(SECRET, 'acme')}\n"
    assert json.loads(run(*secret, "--json").out) == {"tenant": "default", "secret": SECRET}
    assert not (tmp_path / FILE).exists()


def test_no_secret_is_made_in_a_folder_that_is_not_there(run, tmp_path):
    outcome = run("webhooks", "secret", "--data-dir", tmp_path / "none")

    assert (outcome.status, outcome.out) == (1, "")
    assert "there is no such folder" in outcome.err
