"""POST /tasks/risk-detection, GET /tasks/{id}/risk, and `risk` on a transcription."""

import asyncio
import json

import pytest

from tests.http.test_tenants import Tenant
from tests.http_server import SOUND, the_error
from whisperd.risk.rules import MOST_BYTES
from whisperd.task import Problem, State

DETECT = "/tasks/risk-detection"
FRAUD = "Please install AnyDesk so I can fix your computer."
SHOUT = {
    "id": "mine.shout",
    "title": "Shouts",
    "category": "custom",
    "severity": "high",
    "score": 0.5,
    "match": "ask not",
}


async def detect(server, **fields):
    answer = await server.client.post(DETECT, json=fields)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/tasks/{answer.json()['task_id']}"
    return answer.json()


async def over(server, task_id):
    while True:  # on a busy machine a process may take long to start
        task = (await server.get(f"/tasks/{task_id}", wait=5)).json()
        if task["status"] in ("completed", "failed", "cancelled"):
            return task


async def found(server, task_id):
    """What a task of risk detection found, once it is completed."""
    task = await over(server, task_id)
    assert task["status"] == "completed", task
    answer = await server.get(f"/tasks/{task_id}/result")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def begun(server, task_id):
    with server.events.subscribe(task_id) as subscription:
        while (await server.queue.get(task_id)).state != State.PROCESSING:
            await subscription.next(10)


def rules_of(result):
    return [finding["rule_id"] for finding in result["findings"]]


# --- what may be looked through ---


def test_a_text_is_looked_through(with_server):
    async def body(server):
        async with server.detecting():
            task = await detect(server, text=FRAUD, metadata={"my": "own"})
            result = await found(server, task["task_id"])

        assert (task["kind"], task["status"], task["metadata"]) == ("risk_detection", "queued", {"my": "own"})
        assert (result["task_id"], result["transcript_task_id"]) == (task["task_id"], None)
        assert result["risk"]["level"] == "high"
        assert result["summary"]["fraud"]["count"] == len(result["findings"]) > 0
        assert {finding["start"] for finding in result["findings"]} == {None}
        assert "places" not in result

    with_server(body)


def test_segments_are_looked_through_with_their_times_and_speakers(with_server):
    said = [
        {"start": 60.0, "end": 62.0, "text": "Hello.", "speaker": "B"},
        {"start": 63.0, "end": 66.0, "text": "Ask not what.", "speaker": "A"},
    ]

    async def body(server):
        async with server.detecting():
            task = await detect(server, segments=said, packs=[], rules=[SHOUT])
            result = await found(server, task["task_id"])

        (finding,) = result["findings"]
        assert (finding["rule_id"], finding["speaker"], finding["segment_ids"]) == ("mine.shout", "A", [1])
        assert 63.0 <= finding["start"] < finding["end"] <= 66.0
        assert [pack["name"] for pack in result["packs"]] == ["request"]

    with_server(body)


def test_a_transcript_is_waited_for(with_server):
    async def body(server):
        async with server.detecting():
            transcription = (await server.submit())["task_id"]
            task = await detect(server, task_id=transcription, packs=[], rules=[SHOUT])
            await server.plan(1)
            assert (await server.task(task["task_id"]))["status"] == "queued"
            await server.finish("Ask not.")
            result = await found(server, task["task_id"])

        assert task["transcript_task_id"] == result["transcript_task_id"] == transcription
        assert rules_of(result) == ["mine.shout"]
        assert (await server.get(f"/tasks/{transcription}/risk")).json() == result

    with_server(body)


def test_a_transcript_is_looked_through_as_it_was_corrected(with_server):
    async def body(server):
        task_id = (await server.completed("Nothing."))["task_id"]
        (line,) = (await server.get(f"/tasks/{task_id}/result")).json()["segments"]
        corrected = {"segments": [{**line, "text": "Ask not!"}]}
        headers = {"If-Match": "*"}
        await server.client.put(f"/tasks/{task_id}/result", json=corrected, headers=headers)
        async with server.detecting():
            task = await detect(server, task_id=task_id, packs=[], rules=[SHOUT])

            assert rules_of(await found(server, task["task_id"])) == ["mine.shout"]

    with_server(body)


def test_audio_makes_two_tasks_and_the_answer_is_the_one_that_looks(with_server):
    async def body(server):
        async with server.detecting():
            answer = await server.client.post(
                DETECT,
                files={"file": ("a.wav", SOUND, "audio/wav")},
                data={"packs": "", "rules": json.dumps([SHOUT]), "callback_url": "http://127.0.0.1/"},
            )
            task = answer.json()
            transcription = await server.task(task["transcript_task_id"])
            await server.plan(1)
            await server.finish("Ask not.")
            result = await found(server, task["task_id"])

        assert (answer.status_code, task["kind"]) == (202, "risk_detection")
        assert (transcription["kind"], transcription["audio"]["name"]) == ("transcription", "a.wav")
        assert rules_of(result) == ["mine.shout"]
        queue = server.queue
        assert (await queue.get(transcription["task_id"])).callback_url is None
        assert (await queue.get(task["task_id"])).callback_url == "http://127.0.0.1/"

    with_server(body)


def test_json_may_name_the_audio(with_server):
    async def body(server):
        task = await detect(server, audio_path=str(server.allowed / "a.wav"))

        assert (await server.task(task["transcript_task_id"]))["audio"]["name"] == "a.wav"

    with_server(body)


# --- chained to a transcription ---


@pytest.mark.parametrize("risk", ["true", "fraud-basic,pii", '["fraud-basic"]'])
def test_a_transcription_may_ask_for_it(with_server, risk):
    async def body(server):
        async with server.detecting():
            transcription = await server.submit(risk=risk)
            await server.plan(1)
            await server.finish(FRAUD)
            (task,) = (await server.get("/tasks", kind="risk_detection")).json()["tasks"]
            result = await found(server, task["task_id"])

        assert task["transcript_task_id"] == transcription["task_id"]
        assert rules_of(result)
        assert ("threat" in {pack["name"] for pack in result["packs"]}) is (risk == "true")

    with_server(body)


def test_a_transcription_that_does_not_ask_has_none(with_server):
    async def body(server):
        task = await server.completed(risk="false")

        assert (await server.get("/tasks", kind="risk_detection")).json()["tasks"] == []
        answer = await server.get(f"/tasks/{task['task_id']}/risk")
        assert the_error(answer) == (404, "not_found", None)

    with_server(body)


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
def test_without_a_transcript_there_is_nothing_to_look_through(with_server, end):
    async def body(server):
        async with server.detecting():
            transcription = (await server.submit(risk="true"))["task_id"]
            if end == "fails":
                await server.queue.fail(await server.queue.claim(), Problem("boom", "boom"), final=True)
            else:
                await server.queue.cancel(transcription)
            task = await over(server, (await server.services.detections.first(transcription)).id)

        assert (task["status"], task["error"]["code"]) == ("failed", "no_transcript")

    with_server(body)


def test_what_is_retried_is_looked_through_after_all(with_server):
    async def body(server):
        async with server.detecting():
            transcription = (await server.submit(risk="true"))["task_id"]
            task_id = (await server.services.detections.first(transcription)).id
            await server.queue.cancel(transcription)
            await over(server, task_id)
            for id in (transcription, task_id):
                assert (await server.client.post(f"/tasks/{id}/retry")).status_code == 202
            assert (await server.task(task_id))["status"] == "queued"
            await server.plan(1)
            await server.finish(FRAUD)

            assert rules_of(await found(server, task_id))

    with_server(body)


def test_a_copy_of_a_known_transcript_is_looked_through_at_once(with_server):
    async def body(server):
        async with server.detecting():
            await server.completed(FRAUD, sound=SOUND)
            copy = await server.post(SOUND, risk="true")
            task = await server.services.detections.first(copy.json()["task_id"])

            assert rules_of(await found(server, task.id))

    async def known(name):
        return ""  # as in the plans that the tests make

    async def with_twins(server):
        server.queue._model_sha256 = known
        await body(server)

    with_server(with_twins, cache_seconds=3600.0)


# --- the transcript is safe ---


def test_a_search_that_takes_too_long_fails_and_the_transcript_stays(with_server):
    async def body(server):
        async with server.detecting(max_seconds=0.0):
            transcription = (await server.submit(risk="true"))["task_id"]
            await server.plan(1)
            await server.finish(FRAUD)
            task = await over(server, (await server.services.detections.first(transcription)).id)

        assert (task["status"], task["error"]["code"]) == ("failed", "rules_too_slow")
        assert (await server.task(transcription))["status"] == "completed"
        assert (await server.get(f"/tasks/{transcription}/result", format="text")).text.strip() == FRAUD
        gone = await server.get(f"/tasks/{task['task_id']}/result")
        assert the_error(gone) == (410, "failed", None)

    with_server(body)


def test_a_process_that_dies_is_started_again(with_server):
    async def body(server):
        async with server.detecting() as searcher:
            await found(server, (await detect(server, text=FRAUD))["task_id"])
            searcher._process.kill()
            await searcher._process.wait()

            assert rules_of(await found(server, (await detect(server, text=FRAUD))["task_id"]))

    with_server(body)


def test_one_at_work_is_cancelled(with_server):
    """Its process is stopped dead, and would never answer."""

    async def body(server):
        async with server.detecting() as searcher:
            await found(server, (await detect(server, text=FRAUD))["task_id"])
            searcher._process.send_signal(19)  # SIGSTOP
            task_id = (await detect(server, text=FRAUD))["task_id"]
            await begun(server, task_id)
            assert (await server.client.delete(f"/tasks/{task_id}")).status_code == 200

            assert rules_of(await found(server, (await detect(server, text=FRAUD))["task_id"]))
            assert (await server.task(task_id))["status"] == "cancelled"

    with_server(body)


def test_what_was_found_goes_with_its_transcript(with_server):
    async def body(server):
        async with server.detecting():
            transcription = (await server.completed(FRAUD))["task_id"]
            task_id = (await detect(server, task_id=transcription, rules=[SHOUT]))["task_id"]
            await found(server, task_id)
        waits = await detect(server, task_id=transcription)
        wanted = {"status": ["completed"], "older_than_hours": 0}
        await server.client.post("/admin/clear", json=wanted)

        assert (await server.get(f"/tasks/{task_id}")).status_code == 404
        rows = await server.db.read(lambda conn: conn.execute("select count(*) from rules").fetchone()[0])
        assert rows == 0
        async with server.detecting():
            task = await over(server, waits["task_id"])
        assert (task["status"], task["error"]["code"]) == ("failed", "no_transcript")

    with_server(body)


def test_two_at_once_are_both_done_with_the_rules_of_each(with_server):
    other = {**SHOUT, "id": "other.hello", "match": "hello"}

    async def body(server):
        async with server.detecting():
            tasks = await asyncio.gather(
                *(detect(server, text="Hello, ask not.", packs=[], rules=[rule]) for rule in (SHOUT, other))
            )
            results = [await found(server, task["task_id"]) for task in tasks]

        assert [rules_of(result) for result in results] == [["mine.shout"], ["other.hello"]]

    with_server(body)


# --- what comes of it ---


def test_findings_are_asked_for_by_category_score_and_severity(with_server):
    card = "My card is 4111 1111 1111 1111."

    async def body(server):
        async with server.detecting():
            for wanted in (
                {"categories": ["threat"]},
                {"packs": ["threat"]},
                {"min_score": 1.0},
            ):
                task = await detect(server, text=card, **wanted)
                assert (await found(server, task["task_id"]))["findings"] == [], wanted

    with_server(body)


@pytest.mark.parametrize(("redact", "stands"), [("tag", "[CARD]"), ("mask", "****")])
def test_what_is_redacted_is_in_no_part_of_the_result(with_server, redact, stands):
    async def body(server):
        async with server.detecting():
            task = await detect(server, text="My card is 4111 1111 1111 1111.", redact=redact)
            result = await found(server, task["task_id"])

        assert result["redacted_text"] == f"My card is {stands}."
        assert "4111" not in json.dumps(result)

    with_server(body)


def test_only_json_can_say_what_was_found(with_server):
    async def body(server):
        async with server.detecting():
            task_id = (await detect(server, text=FRAUD))["task_id"]
            answer = await server.get(f"/tasks/{task_id}/result")
            await found(server, task_id)
            srt = await server.get(f"/tasks/{task_id}/result", format="srt")

        assert the_error(answer) == (409, "not_finished", None)
        assert the_error(srt) == (422, "invalid_field", "format")

    with_server(body)


def test_it_needs_no_model_and_no_worker(with_server):
    """A worker that looks for work sees none of it."""

    async def body(server):
        await detect(server, text=FRAUD)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await server.queue.claim()

    with_server(body)


def test_findings_are_counted_by_category_and_severity(with_server):
    async def body(server):
        async with server.detecting():
            await found(server, (await detect(server, text="ask not", packs=[], rules=[SHOUT]))["task_id"])
        metrics = (await server.get("/metrics")).text

        assert 'whisperd_risk_findings_total{category="custom",severity="high"} 1.0' in metrics

    with_server(body)


def test_an_idempotency_key_makes_one_task(with_server):
    async def body(server):
        headers = {"Idempotency-Key": "once"}
        first = await server.client.post(DETECT, json={"text": FRAUD}, headers=headers)
        again = await server.client.post(DETECT, json={"text": FRAUD}, headers=headers)
        other = await server.client.post(DETECT, json={"text": "x"}, headers=headers)

        assert (first.status_code, again.status_code) == (202, 200)
        assert first.json()["task_id"] == again.json()["task_id"]
        assert the_error(other)[1] == "idempotency_conflict"
        files = {"file": ("a.wav", SOUND, "audio/wav")}
        of_audio = [
            await server.client.post(DETECT, files=files, headers={"Idempotency-Key": "audio"}) for _ in "12"
        ]
        assert [answer.status_code for answer in of_audio] == [202, 200]
        assert len({answer.json()["task_id"] for answer in of_audio}) == 1

    with_server(body)


# --- refusals ---

BAD = [
    ({}, "invalid_field", "text"),
    ({"text": ""}, "invalid_field", "text"),
    ({"text": "a", "task_id": "b"}, "invalid_field", "text"),
    ({"text": "a", "packs": ["nosuch"]}, "invalid_field", "packs"),
    ({"text": "a", "packs": []}, "invalid_field", "packs"),
    ({"text": "a", "rules": []}, "invalid_field", "rules"),
    ({"text": "a", "rules": "x"}, "invalid_field", "rules"),
    ({"text": "a", "rules": [{}]}, "invalid_field", "rules"),
    ({"text": "a", "rules": [{**SHOUT, "match": {"regex": "("}}]}, "invalid_field", "rules"),
    ({"text": "a", "rules": [{**SHOUT, "match": {"regex": "(a{1,500}){1,500}"}}]}, "invalid_field", "rules"),
    ({"text": "a", "rules": [{**SHOUT, "match": {"rule": "mine.shout"}}]}, "invalid_field", "rules"),
    ({"text": "a", "rules": [SHOUT, SHOUT]}, "invalid_field", "rules"),
    ({"text": "a", "rules": [{**SHOUT, "id": "threat.kill"}]}, "invalid_field", "rules"),
    ({"text": "a", "rules": [{"x": "y" * MOST_BYTES}]}, "invalid_field", "rules"),
    ({"text": "a", "categories": ["nosuch"]}, "invalid_field", "categories"),
    ({"text": "a", "min_score": 2}, "invalid_field", "min_score"),
    ({"text": "a", "min_severity": "bad"}, "invalid_field", "min_severity"),
    ({"text": "a", "redact": "yes"}, "invalid_field", "redact"),
    ({"text": "a", "risk": True}, "invalid_field", "risk"),
    ({"text": "a", "callback_url": "ftp://x"}, "invalid_field", "callback_url"),
    ({"text": "a", "nosuch": 1}, "unknown_field", "nosuch"),
    ({"segments": []}, "invalid_field", "segments"),
    ({"segments": [{"start": 1, "end": 0, "text": "a"}]}, "invalid_field", "segments"),
    (
        {"segments": [{"start": 1, "end": 2, "text": "a"}, {"start": 0, "end": 1, "text": "b"}]},
        "invalid_field",
        "segments",
    ),
]


@pytest.mark.parametrize(("sent", "code", "param"), BAD, ids=lambda value: str(value)[:40])
def test_what_makes_no_sense_is_refused_and_leaves_nothing(with_idle_server, sent, code, param):
    async def body(server):
        answer = await server.client.post(DETECT, json=sent)

        assert the_error(answer) == (422, code, param), answer.text

    with_idle_server(body)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"text": "a"}, "text"), ({"packs": "nosuch"}, "packs"), ({"detect_only": "true"}, "detect_only")],
)
def test_a_form_that_makes_no_sense_leaves_no_audio(with_idle_server, fields, param):
    async def body(server):
        files = {"file": ("a.wav", SOUND, "audio/wav")}
        answer = await server.client.post(DETECT, files=files, data=fields)

        assert the_error(answer) == (422, "invalid_field", param), answer.text

    with_idle_server(body)


def test_a_transcription_with_packs_that_are_not_there_is_refused(with_idle_server):
    async def body(server):
        for fields, param in (({"risk": "nosuch"}, "packs"), ({"risk": "true", "detect_only": "1"}, "risk")):
            answer = await server.post(**fields)
            assert the_error(answer) == (422, "invalid_field", param), answer.text

    with_idle_server(body)


def test_the_body_may_have_three_mebibytes(with_idle_server):
    async def body(server):
        answer = await server.client.post(DETECT, json={"text": "x" * (3 * 2**20)})

        assert the_error(answer)[:2] == (413, "too_large")

    with_idle_server(body)


def test_rules_of_half_a_mebibyte_are_taken(with_server):
    phrases = [f"phrase {n:04} " + "x" * 90 for n in range(4000)]
    rules = [{**SHOUT, "match": {"any": [*phrases, "ask not"]}}]

    async def body(server):
        assert MOST_BYTES * 0.6 < len(json.dumps(rules)) < MOST_BYTES
        async with server.detecting():
            sent = {"text": "Ask not.", "packs": [], "rules": rules}
            answer = await server.client.post(DETECT, json=sent, timeout=50)
            assert rules_of(await found(server, answer.json()["task_id"])) == ["mine.shout"]

    with_server(body)


def test_the_transcript_of_another_tenant_is_not_there(with_server):
    async def body(server):
        acme, other = Tenant(server, "acme"), Tenant(server, "other")
        task_id = (await acme.submit())["task_id"]

        answer = await other.ask("POST", DETECT, json={"task_id": task_id})
        assert the_error(answer) == (404, "not_found", None)
        assert (await acme.ask("POST", DETECT, json={"task_id": task_id})).json()["tenant"] == "acme"
        assert the_error(await other.ask("GET", f"/tasks/{task_id}/risk")) == (404, "not_found", None)

    with_server(body)


def test_what_looks_through_a_transcript_belongs_to_its_tenant(with_server):
    """Of a key for all tenants it came to `default`, which then saw what was said."""

    async def body(server):
        acme = Tenant(server, "acme")
        admin = Tenant(server, "ops", "admin")
        task_id = (await acme.submit())["task_id"]

        assert (await admin.ask("POST", DETECT, json={"task_id": task_id})).json()["tenant"] == "acme"

    with_server(body)


def test_a_task_without_a_transcript_to_come_is_refused(with_server):
    async def body(server):
        cancelled = (await server.submit())["task_id"]
        await server.queue.cancel(cancelled)
        text = (await detect(server, text="a"))["task_id"]

        for task_id, refused in (
            (cancelled, (409, "wrong_state", None)),
            (text, (422, "invalid_field", "task_id")),
            ("nosuch", (404, "not_found", None)),
        ):
            answer = await server.client.post(DETECT, json={"task_id": task_id})
            assert the_error(answer) == refused

    with_server(body)


def test_it_cannot_be_put_off(with_server):
    async def body(server):
        task_id = (await detect(server, text="a"))["task_id"]
        put_off = await server.client.patch(f"/tasks/{task_id}", json={"run_at": "2999-01-01T00:00:00Z"})

        assert the_error(put_off) == (422, "invalid_field", "run_at")
        assert (await server.client.patch(f"/tasks/{task_id}", json={"priority": 3})).status_code == 200

    with_server(body)
