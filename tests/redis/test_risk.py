"""Risk detection of several hosts: done by one, with the transcript, and answered for by all."""

import json
import os
import signal
from itertools import pairwise

import pytest

from benchmarks.listeners import silence
from tests.e2e.test_first_slice import JFK, words
from tests.e2e.test_risk import FRAUD, JFK_RULE, detect, searchers
from tests.e2e.test_webhooks import Receiver
from tests.redis.conftest import over, until
from tests.redis.test_attacks import chunks_of, stored
from whisperd.transcript import FORMATS

RULE = {**JFK_RULE, "redact": "COUNTRY"}


def paused(host):
    host.http.post("/admin/pause").raise_for_status()
    return host


@pytest.fixture
def hosts(new_host):
    """Two that take requests and no jobs, and one that works."""
    return paused(new_host().start()), paused(new_host().start()), new_host().start()


@pytest.fixture
def receiver():
    with Receiver().listening() as receiver:
        yield receiver


def detects(host, path, rules=(RULE,), **options):
    """The ids of a transcription of it, and of the look through that."""
    with open(path, "rb") as file:
        options |= {"rules": json.dumps(rules)} if rules else {}
        answer = host.http.post("/tasks/risk-detection", files={"file": ("call.wav", file)}, data=options)
    assert answer.status_code == 202, answer.text
    task = answer.json()
    return task["transcript_task_id"], task["task_id"]


def texts(findings):
    return [finding["text"] for finding in findings]


def shown(host, task_id, **params):
    return host.http.get(f"/tasks/{task_id}/result", params=params)


def stopped(host, asked, path):
    """The process with which it searches, stopped by a signal: a look through a transcript never ends.

    Another one is `asked`, which has a process of its own that reads rules.
    """
    _, look = detects(asked, path)
    asked.finished(look)
    (pid,) = searchers(host)
    os.kill(pid, signal.SIGSTOP)
    return pid


def looking(host, look):
    host.until(lambda: host.task(look)["status"] == "processing", 60)


def test_what_one_host_found_every_host_tells(hosts, jfk):
    asked, other, worker = hosts
    call, look = detects(asked, jfk, metadata=json.dumps({"mine": 1}))
    task = asked.finished(look)

    assert (task["status"], task["kind"]) == ("completed", "risk_detection")
    assert (task["transcript_task_id"], task["metadata"]) == (call, {"mine": 1})
    found = worker.get(f"/tasks/{look}/result")
    assert texts(found["findings"]) == ["country", "country"]
    for host in (asked, other):
        assert host.get(f"/tasks/{look}/result") == found
        assert host.get(f"/tasks/{call}/risk") == {**found, "redactable": True}
        assert host.task(call)["risk_detection"] == "completed"
        assert host.task(look)["status"] == "completed"
        assert words(host.result(call)) == words(JFK)
    assert asked.rows("select count(*) from task") == [(0,)]


def test_risk_on_a_transcription_goes_by_the_packs_that_it_names(hosts, jfk):
    asked, other, _ = hosts
    call = asked.queued(jfk, risk="pii,threat")
    asked.finished(call)

    found = other.get(f"/tasks/{call}/risk")
    assert [pack["name"] for pack in found["packs"]] == ["pii", "threat"]
    assert found["findings"] == []
    assert asked.submit(jfk, risk="nobodys").status_code == 422


def test_a_list_has_both_of_them_also_where_a_page_ends_between_them(hosts, jfk):
    asked, other, _ = hosts
    pairs = [detects(asked, jfk) for _ in range(3)]
    ids = [task for call, look in reversed(pairs) for task in (look, call)]

    def listed(limit, **params):
        found, cursor = [], {}
        while cursor is not None:
            page = other.get("/tasks", limit=limit, **cursor, **params)
            found += [task["task_id"] for task in page["tasks"]]
            cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
        return found

    assert [listed(limit) for limit in (1, 2, 3, 50)] == [ids] * 4
    assert listed(2, kind="risk_detection") == ids[::2]
    assert listed(2, kind="transcription") == ids[1::2]


def test_who_listens_on_another_host_hears_what_was_found(hosts, jfk):
    asked, other, _ = hosts
    _, look = detects(asked, jfk)
    with other.http.stream("GET", f"/tasks/{look}/events", timeout=90) as answer:
        said = [line for line in answer.iter_lines() if line]

    findings = [json.loads(data[5:]) for event, data in pairwise(said) if event == "event: risk.finding"]
    assert texts(finding for finding in findings if "text" in finding) == ["country", "country"]
    assert json.loads(said[-1].removeprefix("data:"))["status"] == "completed"


def test_what_is_to_be_redacted_no_host_shows(hosts, jfk):
    asked = hosts[0]
    call, look = detects(asked, jfk, redact="tag", word_timestamps="true")
    with asked.http.stream("GET", f"/tasks/{call}/events", timeout=90) as answer:
        events = "".join(answer.iter_text())
    asked.finished(look)

    assert '"completed"' in events
    assert "country" not in events
    for host in hosts:
        assert host.task(call)["redact"] == "tag"
        for format in FORMATS:
            text = shown(host, call, format=format).text
            assert ("country" in text, "COUNTRY" in text) == (False, True), (format, text)
        for path in (f"/tasks/{look}/result", f"/tasks/{call}/risk"):
            found = host.http.get(path)
            assert texts(found.json()["findings"]) == ["[COUNTRY]", "[COUNTRY]"]
            assert '"country"' not in found.text
        assert "country" in shown(host, call, format="text", redacted="false").text
        assert host.get("/tasks", q="fellow")["tasks"] == []
    first, second, third = (host.http.get(f"/tasks/{call}/audio") for host in hosts)
    assert first.headers["content-type"] == "audio/wav"
    assert first.content == second.content == third.content != jfk.read_bytes()
    whole = [host.http.get(f"/tasks/{call}/audio", params={"redacted": "false"}) for host in hosts]
    assert [answer.content for answer in whole] == [jfk.read_bytes()] * 3


def test_while_it_is_looked_through_no_host_shows_it(hosts, jfk):
    asked, other, worker = hosts
    pid = stopped(worker, asked, jfk)
    call, look = detects(asked, jfk, redact="tag")
    looking(worker, look)

    refusals = [shown(host, call, **params) for host in hosts for params in ({}, {"partial": "true"})]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in refusals] == [
        (409, "not_finished")
    ] * 6
    assert worker.task(call)["risk_detection"] == "awaited"
    os.kill(pid, signal.SIGCONT)
    assert other.finished(look)["status"] == "completed"
    assert "[COUNTRY]" in other.result(call)


def test_what_kill_9_left_in_the_midst_of_a_look_is_looked_through_by_another_host(
    new_host, jfk, node, minutes_of_speech
):
    first, second = new_host().start(), paused(new_host().start())
    stopped(first, second, jfk)
    call, look = detects(second, minutes_of_speech(1.4), redact="mask")
    looking(first, look)
    first.kill()
    done = stored(first, call)
    second.http.post("/admin/resume").raise_for_status()

    assert second.finished(look)["status"] == "completed"
    assert chunks_of(second, call, "worker is null") == done != set()
    assert "country" not in second.result(call)
    assert over(node, call)["attemptsStarted"] == 2
    first.start()
    first.until(lambda: first.rows("select count(*) from job") == [(0,)])
    assert "country" not in first.result(call)
    assert set(texts(first.get(f"/tasks/{look}/result")["findings"])) == {"****"}


def test_a_host_that_hung_over_a_look_alerts_of_nothing_that_another_has_told(new_host, jfk, receiver):
    first, second = new_host().start(), paused(new_host().start())
    pid = stopped(first, second, jfk)
    call, look = detects(second, jfk, alert_url=receiver.url, callback_url=receiver.url)
    looking(first, look)
    os.kill(first.process.pid, signal.SIGSTOP)
    second.http.post("/admin/resume").raise_for_status()
    second.finished(look)
    os.kill(pid, signal.SIGCONT)
    os.kill(first.process.pid, signal.SIGCONT)
    first.until(lambda: first.rows("select count(*) from job") == [(0,)])
    first.until(lambda: not searchers(first) or first.task(look)["status"] == "completed")
    until(lambda: len(receiver.received) == 2)

    told = [json.loads(body)["type"] for _, body in receiver.received]
    assert sorted(told) == ["risk.alert", "task.completed"]
    owed = "select count(*) from outbox where task in (?, ?)"
    assert first.rows(owed, call, look) == [(0,)]
    assert second.get(f"/tasks/{look}/result") == first.get(f"/tasks/{look}/result")


def test_two_that_are_looked_through_at_once_have_each_their_own(new_host, jfk):
    asked, *workers = paused(new_host().start()), new_host().start(), new_host(WORKERS__COUNT=2).start()
    said = ["americans", "country", "ask", "fellow", "your", "not"]
    rules = {word: {**RULE, "match": word, "redact": word.upper()} for word in said}
    tasks = {word: detects(asked, jfk, [rule], redact="tag") for word, rule in rules.items()}
    for word, (call, look) in tasks.items():
        asked.finished(look)
        for host in (asked, *workers):
            text = host.result(call)
            assert f"[{word.upper()}]" in text
            assert all(other in text.lower() for other in said if other != word)


def test_a_look_that_fails_leaves_the_transcript(new_host, jfk):
    asked, worker = paused(new_host().start()), new_host(RISK__MAX_SECONDS=1).start()
    stopped(worker, asked, jfk)
    call, look = detects(asked, jfk)
    task = asked.finished(look)

    assert (task["status"], task["error"]["code"]) == ("failed", "rules_too_slow")
    assert words(asked.result(call)) == words(JFK)
    assert asked.http.get(f"/tasks/{look}/result").status_code == 410
    assert asked.http.post(f"/tasks/{look}/retry").status_code == 409
    assert shown(asked, call, redacted="true").json()["error"]["code"] == "not_redacted"


def test_a_look_whose_packs_are_gone_leaves_what_is_to_be_redacted_hidden(new_host, jfk, tmp_path):
    asked, worker = paused(new_host().start()), paused(new_host().start())
    pack = tmp_path / "host0" / "data" / "rules" / "acme.toml"
    pack.parent.mkdir()
    rule = 'id = "acme.a"\ntitle = "A"\ncategory = "custom"\nseverity = "low"\nscore = 0.5\nmatch = "country"'
    pack.write_text(f'name = "acme"\nversion = 1\ntitle = "ACME"\n[[rule]]\n{rule}\n')
    asked.process.send_signal(signal.SIGHUP)
    until(lambda: asked.submit(jfk, risk="acme").status_code == 202)
    call, look = detects(asked, jfk, (), packs="acme", redact="tag")
    worker.http.post("/admin/resume").raise_for_status()
    task = asked.finished(look)

    assert (task["status"], task["error"]["code"]) == ("failed", "invalid_rules")
    for host in (asked, worker):
        assert shown(host, call).json()["error"]["code"] == "not_redacted"


def test_a_look_is_cancelled_by_any_host_and_its_transcription_goes_on(hosts, jfk):
    asked, other, worker = hosts
    paused(worker)
    waits = detects(asked, jfk)
    assert other.http.delete(f"/tasks/{waits[1]}").json()["status"] == "cancelled"
    assert asked.http.delete(f"/tasks/{waits[1]}").status_code == 409
    worker.http.post("/admin/resume").raise_for_status()
    assert asked.finished(waits[0])["status"] == "completed"

    stopped(worker, asked, jfk)
    works = detects(asked, jfk)
    looking(worker, works[1])
    assert other.http.delete(f"/tasks/{works[1]}").json()["status"] == "cancelled"
    assert asked.finished(works[0])["status"] == "completed"

    for call, look in (waits, works):
        for host in hosts:
            assert host.task(look)["status"] == "cancelled"
            assert words(host.result(call)) == words(JFK)
            assert "risk_detection" not in host.task(call)


def test_a_transcription_that_is_cancelled_while_it_is_looked_through_is_so_everywhere_and_runs_again(
    hosts, jfk
):
    asked, other, worker = hosts
    stopped(worker, asked, jfk)
    call, look = detects(asked, jfk, redact="tag")
    looking(worker, look)
    assert other.http.delete(f"/tasks/{call}").json()["status"] == "cancelled"
    worker.until(lambda: worker.rows("select count(*) from job") == [(0,)])

    for host in hosts:
        assert host.task(call)["status"] == "cancelled"
        assert host.task(look)["error"]["code"] == "no_transcript"
        assert shown(host, call).status_code == 410
    other.http.post(f"/tasks/{call}/retry").raise_for_status()
    assert asked.finished(look)["status"] == "completed"
    for host in hosts:
        assert "[COUNTRY]" in host.result(call)


def test_a_look_that_was_cancelled_comes_back_with_the_next_try_of_its_transcription(hosts, jfk):
    asked, other, worker = hosts
    paused(worker)
    call, look = detects(asked, jfk, redact="tag")
    other.http.delete(f"/tasks/{look}").raise_for_status()
    other.http.delete(f"/tasks/{call}").raise_for_status()
    assert asked.task(look)["status"] == "cancelled"

    other.http.post(f"/tasks/{call}/retry").raise_for_status()
    assert asked.task(look)["status"] == "queued"
    worker.http.post("/admin/resume").raise_for_status()
    assert asked.finished(look)["status"] == "completed"
    assert "[COUNTRY]" in other.result(call)


def test_with_a_transcription_that_is_cancelled_its_look_has_failed_and_both_run_again(hosts, jfk):
    asked, other, worker = hosts
    paused(worker)
    call, look = detects(asked, jfk)
    asked.http.delete(f"/tasks/{call}").raise_for_status()
    assert other.task(look)["error"]["code"] == "no_transcript"

    other.http.post(f"/tasks/{call}/retry").raise_for_status()
    assert asked.task(look)["status"] == "queued"
    worker.http.post("/admin/resume").raise_for_status()
    assert asked.finished(look)["status"] == "completed"


def test_an_idempotency_key_answers_with_the_look_on_every_host(hosts, jfk):
    asked, other, _ = hosts

    def sent(host):
        with open(jfk, "rb") as file:
            return host.http.post(
                "/tasks/risk-detection", files={"file": file}, headers={"Idempotency-Key": "k"}
            )

    first, again = sent(asked), sent(other)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["task_id"] == first.json()["task_id"]
    assert again.json()["kind"] == "risk_detection"


def test_rules_that_are_too_long_for_a_job_are_refused(hosts, jfk, tmp_path):
    rules = [{**RULE, "id": f"mine.r{n}", "title": "t" * 200} for n in range(300)]
    (tmp_path / "call.wav").write_bytes(jfk.read_bytes())
    asked = {"audio_path": str(tmp_path / "call.wav"), "rules": rules}
    answer = hosts[0].http.post("/tasks/risk-detection", json=asked)

    assert answer.status_code == 422
    assert hosts[0].get("/tasks")["tasks"] == []


# --- text ---

CARD = "My card number is 4111 1111 1111 1111."
LINES = [{"start": 1, "end": 2, "text": "Hello.", "speaker": "A"}, {"start": 2, "end": 4, "text": FRAUD}]


def test_a_text_that_was_sent_is_looked_through_and_every_host_tells(hosts):
    asked, other, worker = hosts
    text = detect(asked, text=CARD, redact="tag", metadata={"mine": 1})
    lines = detect(other, segments=LINES)
    tasks = {look: asked.finished(look) for look in (text, lines)}

    assert {task["status"] for task in tasks.values()} == {"completed"}
    assert (tasks[text]["metadata"], tasks[text]["kind"]) == ({"mine": 1}, "risk_detection")
    assert tasks[text]["audio"]["size"] == len(CARD)
    for look in tasks:
        found = worker.get(f"/tasks/{look}/result")
        assert [host.get(f"/tasks/{look}/result") for host in (asked, other)] == [found, found]
    assert "[CARD]" in found_in(other, text)["redacted_text"]
    assert "4111" not in json.dumps(found_in(other, text))
    assert [2 <= finding["start"] < 4 for finding in found_in(asked, lines)["findings"]] == [True]
    listed = other.get("/tasks", kind="risk_detection")["tasks"]
    assert [task["task_id"] for task in listed] == [lines, text]


def found_in(host, look):
    return host.get(f"/tasks/{look}/result")


def test_a_text_that_waits_is_cancelled_by_another_host_and_runs_again(hosts):
    asked, other, worker = hosts
    paused(worker)
    look = detect(asked, text=FRAUD)
    assert other.http.patch(f"/tasks/{look}", json={"priority": 7}).json()["priority"] == 7
    assert other.http.delete(f"/tasks/{look}").json()["status"] == "cancelled"
    assert asked.http.post(f"/tasks/{look}/retry").json()["status"] == "queued"
    worker.http.post("/admin/resume").raise_for_status()

    assert asked.finished(look)["status"] == "completed"
    assert found_in(other, look)["risk"]["level"] == "high"


def test_what_kill_9_left_of_a_text_is_looked_through_by_another_host(new_host, jfk, node, receiver):
    first, second = new_host().start(), paused(new_host().start())
    stopped(first, second, jfk)
    look = detect(second, text=FRAUD, alert_url=receiver.url)
    looking(first, look)
    first.kill()
    second.http.post("/admin/resume").raise_for_status()

    assert second.finished(look)["status"] == "completed"
    assert over(node, look)["attemptsStarted"] == 2
    first.start()
    first.until(lambda: first.rows("select count(*) from job") == [(0,)])
    assert found_in(first, look) == found_in(second, look)
    assert [json.loads(body)["type"] for _, body in receiver.received] == ["risk.alert"]


@pytest.mark.parametrize("content", [b"no JSON", b"[]", None])
def test_a_text_that_is_not_what_was_sent_has_failed(hosts, content):
    asked, _, worker = hosts
    paused(worker)
    look = detect(asked, text=FRAUD)
    (file,) = (asked.shared / "audio").iterdir()
    file.unlink() if content is None else file.write_bytes(content)
    worker.http.post("/admin/resume").raise_for_status()
    task = asked.finished(look)

    assert task["error"]["code"] == ("audio_gone" if content is None else "invalid_field")


# --- transcripts of other tasks ---


def looked(host, look):
    return found_in(host, look)["findings"]


def test_what_a_look_through_a_transcript_that_is_there_found_every_host_hides(new_host, jfk):
    first, second = new_host().start(), paused(new_host().start())
    call = second.queued(jfk)
    second.finished(call)
    paused(first)
    second.http.post("/admin/resume").raise_for_status()
    look = detect(first, task_id=call, rules=[RULE])
    task = first.finished(look)

    assert (task["status"], task["transcript_task_id"]) == ("completed", call)
    assert second.rows("select count(*) from task where id = ?", call) == [(0,)]
    for host in (first, second):
        assert texts(looked(host, look)) == ["country", "country"]
        assert host.get(f"/tasks/{call}/risk")["task_id"] == look
        assert host.get(f"/tasks/{call}/risk")["redactable"] is True
        assert "country" in host.result(call)
        assert "country" not in shown(host, call, format="text", redacted="true").text
        assert "[COUNTRY]" in shown(host, call, format="text", redacted="true").text
        assert texts(host.get(f"/tasks/{look}/result", redacted="true")["findings"]) == ["****", "****"]


def test_a_later_look_shows_no_more_of_what_was_submitted_with_redact(hosts, jfk):
    asked, other, _ = hosts
    call, first = detects(asked, jfk, redact="tag")
    asked.finished(first)
    rules = [{**RULE, "id": "mine.word", "match": "fellow", "redact": "FELLOW"}]
    later = detect(other, task_id=call, rules=rules)
    other.finished(later)

    for host in hosts:
        text = host.result(call)
        assert "[COUNTRY]" in text
        assert "[FELLOW]" in text
        assert "fellow" not in json.dumps(looked(host, later))
        assert host.get(f"/tasks/{call}/risk")["task_id"] == later


def test_a_look_waits_for_the_transcript_and_has_failed_where_none_comes(hosts, jfk):
    asked, other, worker = hosts
    paused(worker)
    calls = [asked.queued(jfk), asked.queued(jfk)]
    looks = [detect(other, task_id=call, rules=[RULE], priority=50) for call in calls]
    asked.http.delete(f"/tasks/{calls[1]}").raise_for_status()
    worker.http.post("/admin/resume").raise_for_status()

    assert asked.finished(looks[0])["status"] == "completed"
    assert texts(looked(asked, looks[0])) == ["country", "country"]
    assert asked.finished(looks[1])["error"]["code"] == "no_transcript"
    assert other.http.post("/tasks/risk-detection", json={"task_id": calls[1]}).status_code == 409
    assert other.http.post("/tasks/risk-detection", json={"task_id": "none"}).status_code == 404


def test_a_rescan_on_one_host_looks_through_what_all_have_done(hosts, jfk, tmp_path):
    asked, other, _ = hosts
    silent = tmp_path / "silence.wav"
    silent.write_bytes(silence())
    calls = [asked.queued(jfk, tenant="a"), asked.queued(silent, tenant="a"), asked.queued(jfk, tenant="b")]
    for call in calls:
        asked.finished(call)
    wanted = {"tenant": "a", "rules": [RULE], "limit": 1}
    pages = [other.http.post("/risk/rescan", json=wanted).json()]
    while cursor := pages[-1]["next_cursor"]:
        pages.append(other.http.post("/risk/rescan", json={**wanted, "cursor": cursor}).json())
    looks = [look for page in pages for look in page["task_ids"]]

    tasks = [asked.finished(look) for look in looks]
    assert [(task["status"], task["transcript_task_id"]) for task in tasks] == [
        ("completed", calls[1]),
        ("completed", calls[0]),
    ]
    assert [texts(looked(asked, look)) for look in looks] == [[], ["country", "country"]]
    nothing = other.http.post("/risk/rescan", json={"created_before": "2020-01-01T00:00:00Z"}).json()
    assert nothing["task_ids"] == []


def test_what_looks_on_several_hosts_have_found_at_once_is_all_hidden(new_host, jfk):
    hosts = asked, *_ = [new_host().start() for _ in range(3)]
    call = asked.queued(jfk)
    asked.finished(call)
    for host in hosts:
        paused(host)
    said = ["americans", "country", "ask", "fellow", "your", "not"]
    looks = [
        detect(asked, task_id=call, rules=[{**RULE, "match": word, "redact": word.upper()}]) for word in said
    ]
    for host in hosts:
        host.http.post("/admin/resume").raise_for_status()
    assert {asked.finished(look)["status"] for look in looks} == {"completed"}

    for host in hosts:
        text = shown(host, call, format="text", redacted="true").text
        assert not any(word in text.lower().replace(f"[{word}]", "") for word in ("americans", "country"))
        assert all(f"[{word.upper()}]" in text for word in said)


def test_a_transcript_that_a_worker_of_nodes_keeps_cannot_be_looked_through(hosts, node, jfk):
    asked, _, worker = hosts
    paused(worker)
    call = asked.queued(jfk)
    node.work({"result_url": "https://elsewhere.example/1", "words": 1})
    asked.finished(call)
    node.end()
    worker.http.post("/admin/resume").raise_for_status()

    assert asked.finished(detect(asked, task_id=call))["error"]["code"] == "no_transcript"


def test_what_kill_9_left_of_a_look_through_a_transcript_is_done_by_another_host(new_host, jfk, node):
    first, second = new_host().start(), paused(new_host().start())
    stopped(first, second, jfk)
    call = second.queued(jfk)
    second.finished(call)
    look = detect(second, task_id=call, rules=[RULE])
    looking(first, look)
    first.kill()
    assert shown(second, call, redacted="true").json()["error"]["code"] == "not_redacted"
    second.http.post("/admin/resume").raise_for_status()

    assert second.finished(look)["status"] == "completed"
    assert over(node, look)["attemptsStarted"] == 2
    first.start()
    first.until(lambda: first.rows("select count(*) from job") == [(0,)])
    for host in (first, second):
        assert "country" not in shown(host, call, format="text", redacted="true").text
        assert texts(looked(host, look)) == ["country", "country"]
