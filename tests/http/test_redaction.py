"""Who is shown what rules want out of a transcript: nobody by accident, nor for want of something better."""

import json

import pytest

from tests.http.test_rights import add, bearer
from tests.http.test_risk import found, rules_of
from tests.http_server import SOUND, the_error
from whisperd.transcript import FORMATS

DETECT = "/tasks/risk-detection"
SAID = ("My card is 4111 1111", "1111 1111. Thank you.", "Call me at 020 7946 0958.")
NAME = {
    "id": "mine.name",
    "title": "A name",
    "category": "custom",
    "severity": "info",
    "score": 0.1,
    "match": "john",
    "redact": "NAME",
}
AROUND = {  # whose finding quotes the number, and takes nothing out
    **NAME,
    "id": "mine.around",
    "match": {"sequence": {"words": ["card is", "thank you"]}},
    "redact": None,
}
HIDDEN = ["My card is [CARD]", "[CARD]. Thank you.", "Call me at [PHONE]."]


async def submitted(server, headers=None, **fields):
    """Audio that is to be redacted: the ids of the transcription, and of what looks through it."""
    answer = await server.client.post(
        DETECT, files={"file": ("call.wav", SOUND)}, data={"redact": "tag", **fields}, headers=headers
    )
    assert answer.status_code == 202, answer.text
    return answer.json()["transcript_task_id"], answer.json()["task_id"]


async def transcribed(server):
    await server.plan(1)
    await server.finish(*SAID)


async def looked_through(server, **fields):
    task_id, detection = await submitted(server, **fields)
    await transcribed(server)
    async with server.detecting():
        await found(server, detection)
    return task_id


async def texts(server, task_id, **params):
    answer = await server.get(f"/tasks/{task_id}/result", **params)
    assert answer.status_code == 200, answer.text
    return [segment["text"] for segment in answer.json()["segments"]]


async def look_again(server, task_id, **fields):
    answer = await server.client.post(DETECT, json={"task_id": task_id, **fields})
    assert answer.status_code == 202, answer.text
    await found(server, answer.json()["task_id"])


async def correct(server, task_id, text):
    """The transcript is one segment, which says this."""
    lines = [{"start": 0.0, "end": 1.0, "text": text}]
    edited = await server.client.put(
        f"/tasks/{task_id}/result", json={"segments": lines}, headers={"If-Match": "*"}
    )
    assert edited.status_code == 200, edited.text


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_submitted_with_redact_is_shown_without_it_in_every_format(with_server, format):
    async def body(server):
        task_id = await looked_through(server)
        shown = (await server.get(f"/tasks/{task_id}/result", format=format)).text

        assert (shown.count("[CARD]"), shown.count("[PHONE]")) in ((2, 1), (4, 2))  # text and segments
        assert "1111" not in shown
        assert "0958" not in shown

    with_server(body)


def test_a_number_over_two_segments_is_out_of_both_and_their_times_stay(with_server):
    async def body(server):
        task_id = await looked_through(server)
        shown, plain = [
            (await server.get(f"/tasks/{task_id}/result", redacted=redacted)).json()["segments"]
            for redacted in ("true", "false")
        ]

        assert [segment["text"] for segment in shown] == HIDDEN
        assert [segment["text"] for segment in plain] == list(SAID)
        assert [(s["start"], s["end"]) for s in shown] == [(s["start"], s["end"]) for s in plain]

    with_server(body)


def test_what_was_not_submitted_so_can_be_read_so(with_server):
    async def body(server):
        task_id = await looked_through(server, redact="none")

        assert await texts(server, task_id) == list(SAID)
        assert await texts(server, task_id, redacted="true") == HIDDEN
        assert "redact" not in await server.task(task_id)

    with_server(body)


def test_all_of_it_is_shown_to_whom_may_submit_and_to_nobody_else(with_server):
    async def body(server):
        reader = bearer(add(server, "read"))
        submitter = bearer(add(server, "submit", "read"))
        task_id, detection = await submitted(server, headers=submitter)
        await transcribed(server)
        async with server.detecting():
            path = f"/tasks/{detection}?wait=30"
            assert (await server.client.get(path, headers=submitter)).json()["status"] == "completed"

        async def asked(part, headers):
            return await server.client.get(f"/tasks/{task_id}/{part}?redacted=false", headers=headers)

        for part in ("result", "audio", "risk"):
            assert the_error(await asked(part, reader)) == (403, "missing_scope", "submit")
            assert (await asked(part, submitter)).status_code == 200

    with_server(body)


def test_nothing_is_shown_until_it_is_known_what_is_to_be_redacted(with_server):
    async def body(server):
        task_id, _ = await submitted(server)
        early = await server.get(f"/tasks/{task_id}/result", partial="true")
        await transcribed(server)
        refused = [await server.get(f"/tasks/{task_id}/{part}") for part in ("result", "audio")]

        assert [the_error(answer) for answer in (early, *refused)] == [(409, "not_finished", None)] * 3
        assert (await server.get(f"/api/v1/status/{task_id}")).json()["data"]["status"] == "PROCESSING"

    with_server(body)


def test_where_nothing_looked_through_it_there_is_nothing_redacted(with_server):
    async def body(server):
        task_id = (await server.completed(*SAID))["task_id"]
        for part in ("result", "audio"):
            answer = await server.get(f"/tasks/{task_id}/{part}", redacted="true")

            assert the_error(answer) == (409, "not_redacted", None)

    with_server(body)


def test_a_search_that_failed_shows_nothing(with_server):
    async def body(server):
        task_id, detection = await submitted(server)
        await transcribed(server)
        await server.client.delete(f"/tasks/{detection}")

        assert the_error(await server.get(f"/tasks/{task_id}/result")) == (409, "not_redacted", None)

    with_server(body)


def test_a_text_that_was_corrected_is_not_shown_until_it_was_looked_through_again(with_server):
    async def body(server):
        task_id = await looked_through(server)
        await correct(server, task_id, "It is 4242 4242 4242 4242.")

        assert the_error(await server.get(f"/tasks/{task_id}/result")) == (409, "not_redacted", None)
        assert await texts(server, task_id, original="true") == HIDDEN
        async with server.detecting():
            await look_again(server, task_id, redact="tag")
        assert await texts(server, task_id) == ["It is [CARD]."]

    with_server(body)


@pytest.mark.parametrize("redact", ["none", "tag"])
@pytest.mark.parametrize("submitted", ["none", "tag"])
def test_a_later_look_for_something_else_hides_no_less(with_server, submitted, redact):
    async def body(server):
        task_id = await looked_through(server, redact=submitted)
        async with server.detecting():
            other = {"packs": ["threat"], "rules": [AROUND], "redact": redact}
            (look,) = (await server.client.post("/risk/rescan", json=other)).json()["task_ids"]
            assert "mine.around" in rules_of(await found(server, look))
        told = [await server.get(path, redacted="true") for path in both(task_id, look)]

        assert await texts(server, task_id, redacted="true") == HIDDEN
        assert {answer.status_code for answer in told} == {200}
        assert not [answer for answer in told if "1111" in answer.text or "0958" in answer.text]

    with_server(body)


def both(task_id, look):
    """Where what was found is told."""
    return f"/tasks/{task_id}/risk", f"/tasks/{look}/result"


def test_a_look_tells_no_more_than_is_shown_of_its_transcript(with_server):
    """Of what was submitted to be redacted its first look had the text as it knew it, for all who read."""

    async def body(server):
        reader = bearer(add(server, "read"))
        admin = bearer(add(server, "submit", "read", "admin"))
        server.client.headers.update(admin)
        task_id, detection = await submitted(server, packs="threat", rules=json.dumps([AROUND]))
        await transcribed(server)
        async with server.detecting():
            before = await found(server, detection)
            await look_again(server, task_id, packs=["pii"])
        path = f"/tasks/{detection}/result"
        after = await server.client.get(path, headers=reader)
        async with server.events_of(detection) as frames:
            told = json.dumps([frame async for frame in frames])
        all_of_it = [
            await server.client.get(f"{path}?redacted=false", headers=key) for key in (reader, admin)
        ]

        assert "1111" in before["redacted_text"]
        assert after.json()["redacted_text"] is None
        assert "1111" not in after.text
        assert "risk.finding" in told
        assert "1111" not in told
        assert the_error(all_of_it[0]) == (403, "missing_scope", "submit")
        assert all_of_it[1].json()["redacted_text"] == before["redacted_text"]

    with_server(body)


def test_what_a_look_has_redacted_itself_is_shown_as_it_was_asked_for(with_server):
    async def body(server):
        task_id = await looked_through(server)
        told = (await server.get(f"/tasks/{task_id}/risk")).json()

        assert told["redacted_text"] == " ".join(HIDDEN)
        assert "[CARD]" in [one["text"] for one in told["findings"]]

    with_server(body)


def test_nothing_is_quoted_where_another_look_could_not_look_everywhere(with_server):
    async def body(server):
        task_id = (await server.completed("Hello there.", "a@example.com " * 1001))["task_id"]
        async with server.detecting():
            await look_again(server, task_id, packs=["pii"])
            await look_again(server, task_id, packs=["threat"], rules=[{**AROUND, "match": "hello"}])
        told = (await server.get(f"/tasks/{task_id}/risk", redacted="true")).json()

        assert [(one["text"], one["context"]) for one in told["findings"]] == [("****", "")]

    with_server(body)


def test_to_redact_no_report_is_read(with_server):
    """There may be many of a transcript, of megabytes each."""

    async def body(server):
        task_id = await looked_through(server)
        await server.db.write(lambda conn: conn.execute("update detection set report = 'no JSON'"))

        assert await texts(server, task_id) == HIDDEN

    with_server(body)


def test_what_is_found_later_is_hidden_too(with_server):
    async def body(server):
        task_id = await looked_through(server, packs="threat")
        before = await texts(server, task_id)
        async with server.detecting():
            await look_again(server, task_id, packs=["pii"])

        assert (before, await texts(server, task_id)) == (list(SAID), HIDDEN)

    with_server(body)


NARROWER = [
    {"rules": [NAME], "packs": ["threat"]},
    {"rules": [NAME], "packs": ["threat"], "redact": "tag"},
    {"rules": [NAME], "categories": ["threat"]},
    {"rules": [NAME], "min_score": 1.0},
    {"rules": [NAME], "min_severity": "critical"},
    {"packs": ["pii"]},
]


@pytest.mark.parametrize("narrower", NARROWER)
def test_after_a_correction_less_than_was_asked_for_shows_nothing(with_server, narrower):
    async def body(server):
        task_id = await looked_through(server, packs="pii", rules=json.dumps([NAME]))
        await correct(server, task_id, "It is 4242 4242 4242 4242 of John.")
        async with server.detecting():
            await look_again(server, task_id, **narrower)
            refused = await server.get(f"/tasks/{task_id}/result")
            await look_again(server, task_id, rules=[NAME])

        assert the_error(refused) == (409, "not_redacted", None)
        assert await texts(server, task_id) == ["It is [CARD] of [NAME]."]

    with_server(body)


def test_where_what_was_asked_for_is_not_known_any_more_nothing_is_shown(with_server):
    """It failed, and is forgotten before its transcript: a later one for less is not taken for it."""

    async def body(server):
        task_id, detection = await submitted(server)
        await transcribed(server)
        await server.client.delete(f"/tasks/{detection}")
        forget = {"status": ["cancelled"], "older_than_hours": 0}
        await server.client.post("/admin/clear", json=forget)
        async with server.detecting():
            await look_again(server, task_id, packs=["threat"])

        assert the_error(await server.get(f"/tasks/{detection}"))[0] == 404
        assert the_error(await server.get(f"/tasks/{task_id}/result")) == (409, "not_redacted", None)

    with_server(body)


def test_audio_whose_original_was_not_looked_through_is_not_handed_out(with_server):
    """What the correction leaves out is said all the same."""

    async def body(server):
        task_id, detection = await submitted(server)
        await transcribed(server)
        await correct(server, task_id, "It is a card.")
        async with server.detecting():
            await found(server, detection)

        assert await texts(server, task_id) == ["It is a card."]
        assert the_error(await server.get(f"/tasks/{task_id}/audio")) == (409, "not_redacted", None)

    with_server(body)


def test_what_is_silent_is_what_was_found_in_the_original_and_in_the_correction(with_server):
    async def body(server):
        task_id = await looked_through(server)
        task = await server.queue.get(task_id)
        original = await server.services.redacting.silent(task)
        await correct(server, task_id, "It is 4242 4242 4242 4242.")
        async with server.detecting():
            await look_again(server, task_id)
        both = await server.services.redacting.silent(task)

        assert original
        assert both[: len(original)] == original
        assert len(both) == len(original) + 1

    with_server(body)


def test_no_event_tells_what_is_to_be_redacted(with_server):
    async def body(server):
        task_id, _ = await submitted(server)
        async with server.websocket() as socket:
            await transcribed(server)
            heard = []
            while not heard or json.loads(heard[-1]).get("task", {}).get("status") != "completed":
                heard.append(await socket.recv())
        async with server.events_of(task_id) as frames:
            told = [frame async for frame in frames]

        assert {event for _, event, _ in told} == {"progress", "task"}
        assert not [text for text in (*heard, json.dumps(told)) if "1111" in text]

    with_server(body)


def test_a_search_does_not_find_what_is_not_shown(with_server):
    async def body(server):
        await looked_through(server)
        plain = await server.completed("Another card, 4111 1111.")
        while await server.queue.index(True):
            pass
        tasks = (await server.get("/tasks", q="4111")).json()["tasks"]

        assert [task["task_id"] for task in tasks] == [plain["task_id"]]

    with_server(body)


@pytest.mark.parametrize("part", ["risk", "result"])
def test_findings_are_read_without_what_they_quote(with_server, part):
    async def body(server):
        task_id = await looked_through(server, redact="none")
        if part == "result":
            task_id = (await server.services.detections.first(task_id)).id
        plain, hidden = [
            (await server.get(f"/tasks/{task_id}/{part}", redacted=redacted)).json()["findings"]
            for redacted in ("false", "true")
        ]

        assert "1111" in json.dumps(plain)
        assert [one["start"] for one in hidden] == [one["start"] for one in plain]
        assert not [one for one in hidden if "1111" in json.dumps(one) or "0958" in json.dumps(one)]

    with_server(body)


def test_findings_say_whether_what_was_said_can_be_shown_without_them(with_server):
    async def body(server):
        task_id = await looked_through(server, redact="none")
        before = await server.get(f"/tasks/{task_id}/risk")
        tag = (await server.get(f"/tasks/{task_id}/result")).headers["etag"]
        lines = [{"start": 0.0, "end": 1.0, "text": "It is 4242 4242 4242 4242."}]
        edited = await server.client.put(
            f"/tasks/{task_id}/result", json={"segments": lines}, headers={"If-Match": tag}
        )
        assert edited.status_code == 200, edited.text
        after = await server.get(f"/tasks/{task_id}/risk")

        assert (before.json()["redactable"], after.json()["redactable"]) == (True, False)

    with_server(body)
