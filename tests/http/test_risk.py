"""POST /tasks/risk-detection, GET /tasks/{id}/risk, and `risk` on a transcription."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.http.test_limits import plans
from tests.http.test_tenants import Tenant
from tests.http_server import SOUND, the_error
from whisperd import searcher
from whisperd.delivery import DeliveryQuery
from whisperd.risk.rules import MOST_BYTES
from whisperd.routes.view import task_view
from whisperd.task import Limits, Problem, State
from whisperd.webhooks import message

DETECT = "/tasks/risk-detection"
PATIENCE = 50.0  # seconds: where rules are asked for, a process has to start, on a busy machine
FRAUD = "Please install AnyDesk so I can fix your computer."
SHOUT = {
    "id": "mine.shout",
    "title": "Shouts",
    "category": "custom",
    "severity": "high",
    "score": 0.5,
    "match": "ask not",
}


CARD = {**SHOUT, "id": "mine.card", "match": "my card"}  # which has the number beside it


async def detect(server, **fields):
    answer = await server.client.post(DETECT, json=fields, timeout=PATIENCE)
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
        assert (await server.get(f"/tasks/{transcription}/risk")).json() == {**result, "redactable": True}

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


def test_where_no_look_waits_the_ends_of_transcriptions_ask_for_none(with_server, monkeypatch):
    """Each took a turn of the database's thread."""

    async def body(server):
        looks, claim = [], server.services.detections.claim

        async def counted():
            looks.append(1)
            return await claim()

        monkeypatch.setattr(server.services.detections, "claim", counted)
        async with server.detecting():
            await asyncio.sleep(0.2)  # until it has seen that none waits
            begun = len(looks)
            await server.completed("Ask not.")
            await server.completed("Nothing.")

            assert 0 < len(looks) == begun

    with_server(body)


def test_a_look_that_comes_while_it_is_seen_that_none_waits_is_done_when_its_transcript_is_there(with_server):
    async def body(server):
        detections, waiting, came = server.services.detections, [], asyncio.Event()
        any_waits = detections.any_waits

        async def one_comes_meanwhile():
            some = await any_waits()
            if not waiting:
                transcription = (await server.submit())["task_id"]
                waiting.append(await detect(server, task_id=transcription, packs=[], rules=[SHOUT]))
                await asyncio.sleep(0.05)  # the detector has heard of it by then
                came.set()
            return some

        detections.any_waits = one_comes_meanwhile
        async with server.detecting():
            await came.wait()
            detections.any_waits = any_waits
            await asyncio.sleep(0.1)
            await server.plan(1)
            await server.finish("Ask not.")

            async with asyncio.timeout(PATIENCE):
                assert rules_of(await found(server, waiting[0]["task_id"])) == ["mine.shout"]

    with_server(body)


def test_audio_makes_two_tasks_and_the_answer_is_the_one_that_looks(with_server):
    async def body(server):
        async with server.detecting():
            answer = await server.client.post(
                DETECT,
                files={"file": ("a.wav", SOUND, "audio/wav")},
                data={"packs": "", "rules": json.dumps([SHOUT]), "callback_url": "http://127.0.0.1/"},
                timeout=PATIENCE,
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


def test_a_task_says_whether_its_transcript_was_looked_through(with_server):
    async def body(server):
        task_id = (await server.submit(risk="true"))["task_id"]
        await server.plan(1)
        await server.finish(FRAUD)
        before = await server.task(task_id)
        async with server.detecting():
            (look,) = (await server.get("/tasks", kind="risk_detection")).json()["tasks"]
            await found(server, look["task_id"])
        after = await server.task(task_id)
        not_asked = await server.task((await server.completed(risk="false"))["task_id"])

        assert (before["risk_detection"], after["risk_detection"]) == ("awaited", "completed")
        assert "risk_detection" not in not_asked

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


def test_what_looks_through_a_redacted_transcript_quotes_none_of_it(with_server):
    """It was submitted with `redact`: another look, and its alert, would have shown the number."""

    async def body(server):
        async with server.detecting():
            answer = await server.client.post(
                DETECT,
                files={"file": ("a.wav", SOUND, "audio/wav")},
                data={"redact": "tag"},
                timeout=PATIENCE,
            )
            transcription = answer.json()["transcript_task_id"]
            await server.plan(1)
            await server.finish("My card is 4111 1111 1111 1111.")
            wanted = {
                "alert_url": "http://127.0.0.1/",
                "alert_severity": "info",
                "rules": [CARD],
                "packs": [],
            }
            task = await detect(server, task_id=transcription, **wanted)
            (again,) = (await rescan(server))["task_ids"]
            results = [await found(server, task_id) for task_id in (task["task_id"], again)]
        alerts = await server.outbox.find(DeliveryQuery())

        assert all(result["findings"] for result in results)
        assert "4111" not in json.dumps(results)
        assert [delivery.event for delivery in alerts] == ["risk.alert"]
        assert "4111" not in alerts[0].snapshot

    with_server(body)


@pytest.mark.parametrize("retried", ["transcription", "both"])
def test_what_is_retried_is_looked_through_after_all(with_server, retried):
    async def body(server):
        async with server.detecting():
            transcription = (await server.submit(risk="true"))["task_id"]
            task_id = (await server.services.detections.first(transcription)).id
            if retried == "both":  # that it was cancelled is not mended by its transcript
                await server.queue.cancel(task_id)
            await server.queue.cancel(transcription)
            await over(server, task_id)
            for id in (transcription, task_id) if retried == "both" else (transcription,):
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
        async with server.detecting() as own:
            await found(server, (await detect(server, text=FRAUD))["task_id"])
            own._process.kill()
            await own._process.wait()

            assert rules_of(await found(server, (await detect(server, text=FRAUD))["task_id"]))

    with_server(body)


def test_a_search_whose_process_always_dies_is_tried_three_times(with_server, monkeypatch):
    monkeypatch.setattr(searcher, "COMMAND", (sys.executable, "-c", "import sys; sys.stdin.readline()"))

    async def body(server):
        async with server.detecting():
            task = await over(server, (await detect(server, text=FRAUD, max_retries=100))["task_id"])

        assert (task["status"], task["attempt"]) == ("failed", 3)
        assert task["error"]["code"] == "worker_crashed"

    with_server(body)


def errors_of(logs):
    """What broke, and was to break."""
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    logs.clear()
    return errors


@pytest.mark.parametrize("damage", ["asked = '{\"redact\": 1}'", "segments = '{'"])
def test_a_damaged_row_costs_its_own_task_alone(with_server, damage, nothing_broke):
    async def body(server):
        task_id = (await detect(server, text=FRAUD))["task_id"]
        await server.db.write(lambda conn: conn.execute(f"update detection set {damage}"))
        async with server.detecting():
            task = await over(server, task_id)

            assert (task["status"], task["error"]["code"]) == ("failed", "internal_error")
            assert rules_of(await found(server, (await detect(server, text=FRAUD))["task_id"]))

    with_server(body)
    assert [entry["event"] for entry in errors_of(nothing_broke)] == ["a look through a transcript broke"]


def test_one_that_is_damaged_does_no_harm_while_its_call_runs(with_server, nothing_broke):
    async def body(server):
        async with server.detecting():
            task = await server.submit(risk="true", alert_url="http://127.0.0.1/")
            damage = "update detection set asked = json_set(asked, '$.min_score', 'x')"
            await server.db.write(lambda conn: conn.execute(damage))
            await server.plan(2)
            await server.finish(FRAUD)
            assert rules_of(await found(server, (await detect(server, text=FRAUD))["task_id"]))
            await server.finish("Nothing.")
            look = await over(server, (await server.services.detections.first(task["task_id"])).id)

        assert (look["status"], look["error"]["code"]) == ("failed", "internal_error")

    with_server(body)
    broke = {entry["event"] for entry in errors_of(nothing_broke)}
    assert broke == {"a look at a call that runs broke", "a look through a transcript broke"}


def test_one_at_work_is_cancelled(with_server):
    """Its process is stopped dead, and would never answer."""

    async def body(server):
        async with server.detecting() as own:
            await found(server, (await detect(server, text=FRAUD))["task_id"])
            own._process.send_signal(19)  # SIGSTOP
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


def keyed(server, key="once", **fields):
    return server.client.post(DETECT, json=fields, headers={"Idempotency-Key": key}, timeout=PATIENCE)


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_repeat_under_a_key_is_answered_whatever_has_become_of_the_transcript(with_server, end):
    async def body(server):
        transcription = (await server.submit())["task_id"]
        first = await keyed(server, task_id=transcription)
        if end == "cancelled":
            await server.queue.cancel(transcription)
        else:
            await server.queue.fail(await server.queue.claim(), Problem("no_audio", "none"), final=True)
        again = await keyed(server, task_id=transcription)
        new = await keyed(server, "another", task_id=transcription)

        assert (first.status_code, again.status_code) == (202, 200), again.text
        assert again.json()["task_id"] == first.json()["task_id"]
        assert the_error(new) == (409, "wrong_state", None)

    with_server(body)


OWN_PACK = """name = "mine"
version = 1
title = "Mine"
[[rule]]
id = "mine.code"
title = "A code"
category = "custom"
severity = "low"
score = 0.5
match = "code"
"""


def test_a_repeat_under_a_key_is_answered_though_its_pack_is_gone(with_server):
    async def body(server):
        pack = Path(server.services.searcher.settings.rules_dir) / "mine.toml"
        pack.parent.mkdir()
        pack.write_text(OWN_PACK)
        first = await keyed(server, text="code", packs=["mine"])
        pack.unlink()
        await server.services.searcher.reload()
        again = await keyed(server, text="code", packs=["mine"])
        new = await keyed(server, "another", text="code", packs=["mine"])

        assert (first.status_code, again.status_code) == (202, 200), again.text
        assert again.json()["task_id"] == first.json()["task_id"]
        assert the_error(new) == (422, "invalid_field", "packs")

    with_server(body)


@pytest.mark.parametrize(
    "bad",
    [
        {"text": FRAUD, "packs": ["nosuch"]},
        {"text": FRAUD, "rules": [{}]},
        {"text": FRAUD, "nosuch": 1},
        {"task_id": "nosuch"},
        {},
    ],
    ids=str,
)
def test_what_is_refused_leaves_its_key_to_the_next(with_server, bad):
    async def body(server):
        refused = await keyed(server, **bad)
        accepted, again = [await keyed(server, text=FRAUD) for _ in "12"]
        other = await keyed(server, text="x", packs=["nosuch"])

        assert refused.status_code in (404, 422)
        assert (accepted.status_code, again.status_code) == (202, 200)
        assert again.json()["task_id"] == accepted.json()["task_id"]
        assert the_error(other) == (422, "idempotency_conflict", "Idempotency-Key")

    with_server(body)


@pytest.mark.parametrize(
    "rules", [{"max_queued": 1}, plans(FREE=Limits(queued=1))], ids=["in all", "of a tenant"]
)
def test_a_full_line_of_audio_refuses_no_text(with_server, rules):
    async def body(server):
        await server.submit(plan="FREE")
        text, one_more = [await server.client.post(DETECT, json={"text": FRAUD}) for _ in "12"]
        before = await server.left()
        audio = await server.client.post(DETECT, files={"file": ("a.wav", SOUND, "audio/wav")})

        assert text.status_code == 202
        for refused in (one_more, audio):
            assert the_error(refused)[:2] in ((503, "queue_full"), (429, "tenant_queue_full"))
        assert await server.left() == before

    with_server(body, **rules)


# --- while a call runs ---


async def alerted(server):
    """The alerts, once there is one."""
    sql = "select snapshot from outbox where event = 'risk.alert' order by seq"
    with server.events.subscribe(wants=lambda event: event.kind == "finding") as subscription:
        while not (rows := await server.db.read(lambda conn: conn.execute(sql).fetchall())):
            await subscription.next(50)
    return [json.loads(row["snapshot"])["findings"] for row in rows]


def place(finding):
    """What stays of it while the call goes on; more words come around it."""
    return finding["rule_id"], finding["text"], finding["start"]


def test_an_alert_goes_out_while_the_call_still_runs_and_only_once(with_server):
    async def body(server):
        async with server.detecting(), server.websocket() as socket:
            task = await server.submit(risk="true", alert_url="http://127.0.0.1/")
            await socket.send(json.dumps({"subscribe": [task["task_id"]]}))
            await server.plan(2)
            await server.finish(FRAUD, "And so on. " * 20)
            ((finding,),) = await alerted(server)
            assert (await server.task(task["task_id"]))["status"] == "processing"
            message = {"type": ""}
            while message["type"] != "risk.finding":
                message = json.loads(await socket.recv())
            await server.finish("Nothing.")
            detection = await server.services.detections.first(task["task_id"])
            result = await found(server, detection.id)

            assert finding["rule_id"] == "fraud.remote-access"
            assert place(message["finding"]) == place(finding)
            assert (message["task_id"], message["transcript_task_id"]) == (detection.id, task["task_id"])
            assert place(finding) in map(place, result["findings"])
            told = [place(one) for some in await alerted(server) for one in some]
            assert told.count(place(finding)) == 1

    with_server(body)


def test_an_alert_of_a_call_that_runs_goes_before_a_backlog(with_server):
    async def body(server):
        paused = asyncio.Event()
        paused.set()
        async with server.detecting(paused=paused.is_set):
            backlog = [(await detect(server, text=FRAUD))["task_id"] for _ in range(3)]
            await server.submit(risk="true", alert_url="http://127.0.0.1/")
            await server.plan(2)
            await server.finish(FRAUD, "And so on. " * 20)
            told = []
            with server.events.subscribe() as subscription:
                paused.clear()
                while len(told) < 4:
                    event = await subscription.next(PATIENCE)
                    is_alert = event.kind == "finding" and event.task.id not in backlog
                    if is_alert or (event.kind == "task" and event.task.state == State.COMPLETED):
                        told.append(event.task.id)

        assert told[0] not in backlog

    with_server(body)


def test_an_alert_says_what_was_found_and_in_which_task(with_server):
    async def body(server):
        async with server.detecting():
            task = await detect(
                server, text=FRAUD, alert_url="http://127.0.0.1/", callback_url="http://127.0.0.1/"
            )
            await found(server, task["task_id"])
        alert, end = sorted(
            await server.outbox.find(DeliveryQuery()), key=lambda delivery: delivery.event, reverse=False
        )
        said = json.loads(message(alert, task_view))

        assert (alert.event, end.event) == ("risk.alert", "task.completed")
        assert said["type"] == "risk.alert"
        assert said["data"]["task"]["task_id"] == task["task_id"]
        assert [one["rule_id"] for one in said["data"]["findings"]] == ["fraud.remote-access"]
        assert json.loads(message(end, task_view))["data"]["task_id"] == task["task_id"]

    with_server(body)


def test_nothing_is_alerted_below_the_severity(with_server):
    async def body(server):
        async with server.detecting():
            wanted = {"alert_url": "http://127.0.0.1/", "alert_severity": "critical"}
            await found(server, (await detect(server, text=FRAUD, **wanted))["task_id"])

        assert await server.outbox.find(DeliveryQuery()) == []

    with_server(body)


def test_who_follows_a_task_is_told_of_its_findings_before_its_end(with_server):
    async def body(server):
        async with server.detecting():
            task_id = (await detect(server, text=FRAUD))["task_id"]
            await found(server, task_id)
        async with server.events_of(task_id) as frames:
            seen = [(event, data) async for _, event, data in frames]

        assert [event for event, _ in seen] == ["progress", "risk.finding", "task"]
        assert seen[1][1]["rule_id"] == "fraud.remote-access"

    with_server(body)


# --- why it waits ---


async def reasons(server, task_id):
    found = (await server.get(f"/tasks/{task_id}/explain")).json()
    nothing = ("position", "ahead", "tenant", "starts_in_seconds", "eta_seconds")
    assert [found[name] for name in nothing] == [None] * len(nothing)
    assert found["summary"]
    return [(reason["code"], reason["message"]) for reason in found["reasons"]]


def test_it_is_explained_by_what_it_waits_for(with_server):
    async def body(server):
        transcription = (await server.submit())["task_id"]
        waits = (await detect(server, task_id=transcription))["task_id"]
        text = (await detect(server, text=FRAUD))["task_id"]

        message = f"it waits for the transcript of task {transcription}"
        assert await reasons(server, waits) == [("transcript", message)]
        assert [code for code, _ in await reasons(server, text)] == ["in_line"]
        await server.client.post("/admin/pause")
        assert [code for code, _ in await reasons(server, text)] == ["paused", "in_line"]

    with_server(body)


def test_its_end_is_explained_by_what_there_is_of_it(with_server):
    async def body(server):
        ids = [(await detect(server, text=FRAUD))["task_id"] for _ in "12"]
        await server.client.delete(f"/tasks/{ids[1]}")
        async with server.detecting():
            await found(server, ids[0])
        ((done, shows),), ((cancelled, again),) = [await reasons(server, id) for id in ids]

        assert (done, cancelled) == ("completed", "cancelled")
        assert shows.endswith("shows what it found")
        assert again.endswith("runs it again")

    with_server(body)


# --- what is there already ---


async def rescan(server, **fields):
    answer = await server.client.post("/risk/rescan", json=fields, timeout=PATIENCE)
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_what_is_there_already_is_looked_through_page_by_page(with_server):
    async def body(server):
        ids = [(await server.completed("Ask not."))["task_id"] for _ in range(3)]
        await server.submit()  # it has no transcript
        wanted = {"packs": [], "rules": [SHOUT], "limit": 2}
        first = await rescan(server, **wanted)
        rest = await rescan(server, **wanted, cursor=first["next_cursor"])
        async with server.detecting():
            results = [await found(server, task_id) for task_id in first["task_ids"] + rest["task_ids"]]

        assert [result["transcript_task_id"] for result in results] == ids[::-1]
        assert [rules_of(result) for result in results] == [["mine.shout"]] * 3
        assert rest["next_cursor"] is None
        assert {(await server.task(result["task_id"]))["priority"] for result in results} == {-10}

    with_server(body)


def test_what_has_no_transcript_is_passed_over(with_server):
    async def body(server):
        spoken = (await server.completed("Ask not."))["task_id"]
        await server.submit(detect_only="true")
        await server.plan(0)
        first = await rescan(server, limit=1)
        rest = await rescan(server, limit=1, cursor=first["next_cursor"])
        (look,) = (await server.get("/tasks", kind="risk_detection")).json()["tasks"]

        assert (first["task_ids"], rest["task_ids"]) == ([], [look["task_id"]])
        assert look["transcript_task_id"] == spoken

    with_server(body)


def test_a_tenant_looks_through_its_own(with_server):
    async def body(server):
        acme, other = Tenant(server, "acme"), Tenant(server, "other")
        task_id = (await acme.submit())["task_id"]
        await server.plan(1)
        await server.finish("Ask not.")

        for fields in ({}, {"tenant": "acme"}):
            assert (await other.ask("POST", "/risk/rescan", json=fields)).json()["task_ids"] == []
        (found,) = (await acme.ask("POST", "/risk/rescan", json={})).json()["task_ids"]
        assert (await acme.get(f"/tasks/{found}"))["transcript_task_id"] == task_id

    with_server(body)


def test_a_queue_that_is_full_takes_as_many_as_fit(with_server):
    async def body(server):
        for _ in range(3):
            await server.completed("Ask not.")
        first = await rescan(server)
        refused = await server.client.post("/risk/rescan", json={})

        assert len(first["task_ids"]) == 2
        assert first["next_cursor"] is not None
        assert the_error(refused)[:2] == (503, "queue_full")

    with_server(body, max_queued=2)


async def completed_by(server, *tenants):
    """A transcript of each of them, in this order."""
    for tenant in tenants:
        await server.completed("Ask not.", tenant=tenant, plan="FREE")


def test_over_tenants_none_is_accepted_that_nobody_is_told_of(with_server):
    async def body(server):
        await completed_by(server, "other", "acme", "acme")
        first = await rescan(server)
        (task,) = (await server.get("/tasks", kind="risk_detection")).json()["tasks"]
        assert first["task_ids"] == [task["task_id"]]
        await server.client.delete(f"/tasks/{task['task_id']}")
        rest = await rescan(server, cursor=first["next_cursor"])

        assert [(await server.task(id))["tenant"] for id in rest["task_ids"]] == ["acme", "other"]

    with_server(body, **plans(FREE=Limits(queued=1)))


def test_each_transcript_of_a_rescan_counts_as_a_submission(with_server):
    async def body(server):
        await completed_by(server, "acme", "acme", "acme")
        acme = Tenant(server, "acme", plan="PRO")
        told = (await acme.ask("POST", "/risk/rescan", json={})).json()

        assert len(told["task_ids"]) == 2
        assert told["next_cursor"] is not None

    with_server(body, **plans(PRO=Limits(per_minute=2)))


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
    ({"text": "a", "alert_url": "ftp://x"}, "invalid_field", "alert_url"),
    ({"text": "a", "alert_severity": "bad"}, "invalid_field", "alert_severity"),
    ({"text": "a", "nosuch": 1}, "unknown_field", "nosuch"),
    ({"text": "a", "model": "base"}, "invalid_field", "model"),
    ({"text": "a", "language": "en"}, "invalid_field", "language"),
    ({"text": "a", "run_at": "2026-11-28T12:00:00Z"}, "invalid_field", "run_at"),
    ({"text": "a", "timeout_seconds": 5}, "invalid_field", "timeout_seconds"),
    ({"text": "a", "result_url": "s3://a/b"}, "invalid_field", "result_url"),
    ({"task_id": "a", "beam_size": 1}, "invalid_field", "beam_size"),
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
        answer = await server.client.post(DETECT, json=sent, timeout=PATIENCE)

        assert the_error(answer) == (422, code, param), answer.text

    with_idle_server(body)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"text": "a"}, "text"), ({"packs": "nosuch"}, "packs"), ({"detect_only": "true"}, "detect_only")],
)
def test_a_form_that_makes_no_sense_leaves_no_audio(with_idle_server, fields, param):
    async def body(server):
        files = {"file": ("a.wav", SOUND, "audio/wav")}
        answer = await server.client.post(DETECT, files=files, data=fields, timeout=PATIENCE)

        assert the_error(answer) == (422, "invalid_field", param), answer.text

    with_idle_server(body)


def test_a_transcription_with_packs_that_are_not_there_is_refused(with_idle_server):
    async def body(server):
        for fields, param in (
            ({"risk": "nosuch"}, "packs"),
            ({"risk": "true", "detect_only": "1"}, "risk"),
            ({"alert_url": "http://127.0.0.1/"}, "alert_url"),
        ):
            answer = await server.post(**fields)
            assert the_error(answer) == (422, "invalid_field", param), answer.text

    with_idle_server(body)


def test_a_rescan_that_makes_no_sense_makes_no_task(with_server):
    async def body(server):
        await server.completed("Ask not.")
        for fields, param in (
            ({"packs": ["nosuch"]}, "packs"),
            ({"rules": [{}]}, "rules"),
            ({"limit": 501}, "limit"),
            ({"alert_url": "ftp://x"}, "alert_url"),
        ):
            answer = await server.client.post("/risk/rescan", json=fields, timeout=PATIENCE)
            assert the_error(answer) == (422, "invalid_field", param), answer.text
        assert (await server.get("/tasks", kind="risk_detection")).json()["tasks"] == []

    with_server(body)


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
            answer = await server.client.post(DETECT, json=sent, timeout=PATIENCE)
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
