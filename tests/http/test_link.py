"""GET /tasks/{id}/link: a URL of the transcript in S3 for whoever has no key. Against a real server."""

from datetime import datetime
from time import time

import httpx
import pytest

from tests.http.test_redaction import SAID, correct, looked_through, submitted, transcribed
from tests.http.test_rights import add, bearer
from tests.http_server import the_error
from tests.s3_server import KEY, SECRET, Signatures, a_free_port, client, serving, silent
from whisperd import links
from whisperd.client import AsyncClient
from whisperd.config import S3, Config, Redis
from whisperd.s3 import S3Error

WEEK = 7 * 24 * 3600


@pytest.fixture(scope="module")
def signatures():
    return Signatures()


@pytest.fixture(scope="module")
def port(signatures):
    with serving(bucket="media", refuses=signatures) as port:
        yield port


def settings(port, **fields):
    keys = {"access_key_id": KEY, "secret_access_key": SECRET, "links": "s3://media/links"}
    return {"endpoint": f"http://127.0.0.1:{port}", **keys, **fields}


async def linked(server, task_id, **params):
    answer = await server.get(f"/tasks/{task_id}/link", **params)
    assert answer.status_code == 200, answer.text
    return answer.json()["url"]


async def refusal(server, task_id, **params):
    return the_error(await server.get(f"/tasks/{task_id}/link", **params))


def fetched(url):
    """As by a program that knows nothing but the URL."""
    return httpx.get(url, trust_env=False)


def stored(port, under="links/"):
    found = client(port).list_objects_v2(Bucket="media", Prefix=under)
    return sorted(entry["Key"] for entry in found.get("Contents", ()))


def test_whoever_has_the_link_reads_the_transcript_without_a_key(with_server, port):
    async def body(server):
        task_id = (await server.completed("Ask not.", "What your country"))["task_id"]
        url = await linked(server, task_id, format="srt")
        shown = fetched(url)

        assert url.startswith(f"http://127.0.0.1:{port}/media/links/{task_id}.srt?")
        assert shown.text == (await server.get(f"/tasks/{task_id}/result", format="srt")).text
        assert shown.headers["content-type"].startswith("text/plain")
        assert SECRET not in url

    with_server(body, s3=settings(port))


def test_the_python_client_is_given_such_a_link(with_server, port):
    async def body(server):
        task_id = (await server.completed("Ask not."))["task_id"]
        async with AsyncClient(f"http://127.0.0.1:{server.port}") as whisperd:
            link = await whisperd.link(task_id, "text", seconds=60)

        assert fetched(link.url).text == "Ask not.\n"
        assert 0 < link.expires_at.timestamp() - time() <= 60

    with_server(body, s3=settings(port))


def test_a_link_shows_the_id_of_the_access_key_as_the_manual_says(with_server, port):
    async def body(server):
        url = await linked(server, (await server.completed())["task_id"])

        assert KEY in url
        assert SECRET not in url

    with_server(body, s3=settings(port))


def test_nobody_reads_it_without_the_link_nor_anything_else_by_it(with_server, port):
    async def body(server):
        task_id = (await server.completed())["task_id"]
        url = await linked(server, task_id)
        client(port).put_object(Bucket="media", Key="links/other.json", Body=b"a secret")

        for wrong in (url.partition("?")[0], url.replace(task_id, "other"), url[:-1]):
            assert fetched(wrong).status_code == 403
        assert fetched(url).status_code == 200

    with_server(body, s3=settings(port))


@pytest.mark.parametrize(("asked", "works"), [({}, 90), ({"seconds": 60}, 60), ({"seconds": 90}, 90)])
def test_a_link_expires_when_it_says_so(with_server, port, signatures, asked, works):
    async def body(server):
        task_id = (await server.completed())["task_id"]
        began = time()
        link = (await server.get(f"/tasks/{task_id}/link", **asked)).json()
        expires_at = datetime.fromisoformat(link["expires_at"]).timestamp()

        assert int(began) + works <= expires_at <= time() + works
        signatures.ahead = works - 30
        assert fetched(link["url"]).status_code == 200
        signatures.ahead = works
        assert fetched(link["url"]).status_code == 403

    try:
        with_server(body, s3=settings(port, link_seconds=90))
    finally:
        signatures.ahead = 0


@pytest.mark.parametrize("seconds", [91, WEEK, 0, -1, "null", 1.5, 10**20])
def test_nobody_gets_a_link_that_works_for_longer_than_the_settings_let(with_server, port, seconds):
    async def body(server):
        task_id = (await server.completed())["task_id"]

        assert await refusal(server, task_id, seconds=seconds) == (422, "invalid_field", "seconds")
        assert stored(port, f"links/{task_id}") == []

    with_server(body, s3=settings(port, link_seconds=90))


def test_another_tenant_gets_no_link_and_nothing_is_written_for_it(with_server, port):
    async def body(server):
        mine, other = bearer(add(server, "submit", "read")), bearer(add(server, "read", tenant="other"))
        task_id = (await server.completed(headers=mine))["task_id"]
        foreign = await server.client.get(f"/tasks/{task_id}/link", headers=other)

        assert the_error(foreign) == (404, "not_found", None)
        assert stored(port, f"links/{task_id}") == []
        assert (await server.client.get(f"/tasks/{task_id}/link", headers=mine)).status_code == 200

    with_server(body, s3=settings(port))


def test_what_is_not_over_has_no_link_yet(with_server, port):
    async def body(server):
        task_id = (await server.submit())["task_id"]

        assert (await refusal(server, task_id))[:2] == (409, "not_finished")
        await server.client.delete(f"/tasks/{task_id}")
        assert (await refusal(server, task_id))[:2] == (410, "cancelled")

    with_server(body, s3=settings(port))


def test_where_there_is_no_bucket_for_links_there_are_none(with_server, port):
    async def body(server):
        task_id = (await server.completed(result_url="s3://media/out.json"))["task_id"]

        assert await refusal(server, task_id) == (422, "not_supported", None)

    with_server(body, s3=settings(port, links="", buckets=("media",)))


def test_what_risk_detection_found_has_no_link(with_server, port):
    async def body(server):
        task = (await server.client.post("/tasks/risk-detection", json={"text": "Ask not."})).json()

        assert await refusal(server, task["task_id"]) == (422, "not_supported", None)

    with_server(body, s3=settings(port))


@pytest.mark.parametrize("way", ["away", "no bucket", "another secret"])
def test_a_bucket_that_cannot_be_used_is_said_to_be_so(with_server, port, way):
    wrong = {
        "away": settings(a_free_port()),
        "no bucket": settings(port, links="s3://gone/links"),
        "another secret": settings(port, secret_access_key="another"),
    }[way]

    async def body(server):
        task_id = (await server.completed())["task_id"]
        answer = await server.get(f"/tasks/{task_id}/link")

        assert the_error(answer)[:2] == (503, "bucket_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        for secret in (KEY, SECRET, "another", wrong["endpoint"].rpartition(":")[2]):
            assert secret not in answer.text
        assert (await server.task(task_id))["status"] == "completed"

    with_server(body, s3=wrong)


def test_a_bucket_that_does_not_answer_keeps_nobody_waiting(with_server, monkeypatch):
    monkeypatch.setattr(links, "ANSWER_SECONDS", 0.2)

    async def body(server):
        task_id = (await server.completed())["task_id"]
        answer = await server.get(f"/tasks/{task_id}/link")

        assert the_error(answer)[:2] == (503, "bucket_unavailable")
        assert "does not answer" in answer.json()["error"]["message"]

    with silent() as port:
        with_server(body, s3=settings(port))


# --- redacted ---


@pytest.mark.parametrize("params", [{}, {"redacted": "false"}, {"redacted": "true"}])
@pytest.mark.parametrize("format", ["json", "text", "srt", "vtt", "tsv"])
def test_no_link_to_what_was_submitted_with_redact_shows_what_is_hidden(with_server, port, format, params):
    async def body(server):
        task_id = await looked_through(server)
        said = fetched(await linked(server, task_id, format=format, **params)).text

        assert "[CARD]" in said
        assert "1111" not in said
        assert "0958" not in said
        assert stored(port, f"links/{task_id}") == [f"links/{task_id}.redacted.{format}"]

    with_server(body, s3=settings(port))


def test_until_it_is_known_what_is_to_be_redacted_there_is_no_link(with_server, port):
    async def body(server):
        task_id, detection = await submitted(server)
        await transcribed(server)

        assert await refusal(server, task_id) == (409, "not_finished", None)
        await server.client.delete(f"/tasks/{detection}")
        assert await refusal(server, task_id) == (409, "not_redacted", None)
        assert stored(port, f"links/{task_id}") == []

    with_server(body, s3=settings(port))


def test_a_correction_that_nothing_looked_through_has_no_link(with_server, port):
    async def body(server):
        task_id = await looked_through(server)
        await correct(server, task_id, "It is 4242 4242 4242 4242.")

        assert await refusal(server, task_id) == (409, "not_redacted", None)

    with_server(body, s3=settings(port))


def test_who_was_given_what_is_redacted_is_never_shown_more_by_a_later_link(with_server, port):
    async def body(server):
        task_id = await looked_through(server, redact="none")
        redacted = await linked(server, task_id, format="text", redacted="true")
        plain = await linked(server, task_id, format="text")

        assert "1111" in fetched(plain).text
        assert "1111" not in fetched(redacted).text

    with_server(body, s3=settings(port))


def test_a_link_shows_the_transcript_as_it_was_corrected(with_server, port):
    async def body(server):
        task_id = (await server.completed(*SAID))["task_id"]
        await correct(server, task_id, "It is a card.")

        assert fetched(await linked(server, task_id, format="text")).text.strip() == "It is a card."

    with_server(body, s3=settings(port))


# --- what may go ---


def after(seconds, server):
    """The links of the server, so much later."""
    return links.opened(server.config, server.services.redacting, lambda: time() + seconds)


def test_what_no_link_leads_to_any_more_is_removed_and_nothing_else(with_server, port):
    async def body(server):
        task_id = (await server.completed())["task_id"]
        for format in ("json", "srt"):
            await linked(server, task_id, format=format)
        others = ["tidy/links/notes.pdf", f"tidy/links/sub/{task_id}.json", f"tidy/linksx/{task_id}.json"]
        for key in others:
            client(port).put_object(Bucket="media", Key=key, Body=b"of others")
        before = stored(port, "tidy/")
        assert len(before) == 5

        await after(90 + links.SKEW_SECONDS - 60, server).tidy()
        assert stored(port, "tidy/") == before
        await after(90 + links.SKEW_SECONDS + 60, server).tidy()
        assert stored(port, "tidy/") == others

    with_server(body, s3=settings(port, links="s3://media/tidy/links", link_seconds=90))


def test_a_bucket_that_is_away_is_tidied_later(with_server):
    async def body(server):
        with pytest.raises(S3Error, match="bucket of links cannot be reached"):
            await server.services.links.tidy()

    with_server(body, s3=settings(a_free_port()))


@pytest.mark.parametrize(
    ("s3", "redis", "place"),
    [
        ({}, {}, ""),
        ({"links": "s3://a/b"}, {}, "s3://a/b"),
        ({}, {"url": "redis://r", "storage": "s3://media/whisperd/"}, "s3://media/whisperd/links"),
        ({}, {"url": "redis://r", "storage": "s3://media"}, "s3://media/links"),
        ({}, {"storage": "s3://media"}, ""),
        ({}, {"url": "redis://r", "storage": "/mnt/whisperd"}, ""),
        ({"links": "s3://a/b"}, {"url": "redis://r", "storage": "s3://media"}, "s3://a/b"),
    ],
)
def test_links_lead_where_the_settings_say_or_else_into_what_hosts_share(s3, redis, place):
    assert links.place(Config(s3=S3(**s3), redis=Redis(**redis))) == place
