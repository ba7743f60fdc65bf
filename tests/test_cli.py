import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import get_args

import pytest

from tests.stand_in import standing_in
from tests.terminal import ENVIRONMENT, command_line, on_a_terminal
from whisperd import batch, cli, client, commands
from whisperd.config import Config, to_toml
from whisperd.transcript import FORMATS


@pytest.fixture(scope="module")
def server():
    with standing_in() as server:
        yield server


@pytest.fixture
def daemon(server):
    server.reset()
    return server


@pytest.fixture
def run(monkeypatch, capfd, tmp_path, server):
    command = command_line(monkeypatch, capfd, tmp_path)

    def run(*args, url=server.url):
        return command(*args, url=url)

    return run


@pytest.fixture
def audio(tmp_path):
    def audio(*names):
        for name in names:
            (tmp_path / name).write_bytes(b"sound")
        return [tmp_path / name for name in names]

    return audio


def test_help_reads_like_a_manual(run):
    manual = run("--help").out

    assert "$ whisperd transcribe talk.mp3" in manual
    for command in ("transcribe", "submit", "list", "show", "result", "cancel", "retry", "stats", "watch"):
        assert command in manual


def names(group):
    prefix = f"{group.name} " if isinstance(group.name, str) else ""
    return [prefix + command.name for command in group.typer_instance.registered_commands]


@pytest.mark.parametrize(
    "command",
    [name for group in cli.app.registered_groups for name in names(group)],
)
def test_every_command_explains_itself(run, command):
    outcome = run(*command.split(), "--help")

    assert outcome.status == 0
    assert f"Usage: whisperd {command}" in outcome.out


def test_the_version_is_printed(run):
    assert run("--version").out.startswith("whisperd 0.")


def test_what_takes_long_to_import_is_left_out_of_the_way():
    code = "import sys, whisperd.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"httpx", "rich", "msgspec", "numpy", "starlette", "pywhispercpp"} & set(loaded)


def test_what_is_written_twice_to_be_quick_agrees():
    assert commands.DEFAULT_URL == client.DEFAULT_URL
    assert set(get_args(commands.Format.__origin__)) == set(batch.SUFFIXES) == set(FORMATS)


def test_a_file_is_transcribed_to_standard_output(run, daemon, audio):
    outcome = run("transcribe", *audio("talk.mp3"))

    assert (outcome.status, outcome.out, outcome.err) == (0, "Ask not.\n", "")


def test_the_options_reach_the_daemon(run, daemon, audio):
    options = (
        "--model base --language German --translate --prompt Hi --word-timestamps --channels split --no-vad"
    )
    run("transcribe", *audio("talk.mp3"), *options.split())
    run("submit", *audio("talk.mp3"), "--priority", "-5", "--plan", "PRO", "--tenant", "acme")
    run("submit", *audio("talk.mp3"))

    first, second, third = [fields for _, _, fields, _ in daemon.submitted]
    assert first == {
        "model": "base",
        "language": "de",
        "translate": "true",
        "prompt": "Hi",
        "word_timestamps": "true",
        "channels": "split",
        "vad": "false",
    }
    assert second == {"priority": "-5", "plan": "PRO", "tenant": "acme"}
    assert third == {}


def test_transcripts_come_in_the_order_of_the_files(run, daemon, audio, monkeypatch):
    files = audio(*[f"{n}.wav" for n in range(20)])
    outcome = run("transcribe", "--json", *files)

    assert outcome.out == '{"text":"Ask not."}\n' * 20
    assert len(daemon.submitted) == 20


def test_each_transcript_goes_into_a_file_of_its_own(run, daemon, audio, tmp_path):
    outcome = run("transcribe", "-f", "srt", "-o", "out/subs", *audio("a.mp3", "b.wav", "b.mp3"))

    assert (outcome.status, outcome.out) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out/subs").iterdir()) == [
        "a.srt",
        "b.mp3.srt",
        "b.wav.srt",
    ]
    assert (tmp_path / "out/subs/a.srt").read_text().startswith("1\n00:00:00,000 --> ")
    assert "a.mp3 -> out/subs/a.srt" in outcome.err


def test_a_folder_is_walked_and_its_folders_are_kept(run, daemon, tmp_path):
    for name in ("rec/a.mp3", "rec/x/a.MP4", "rec/x/y/b.wav", "rec/notes.txt", "rec/._a.mp3", "rec/.t/c.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    outcome = run("transcribe", "-f", "srt", "-o", "out", "rec")

    assert (outcome.status, outcome.out) == (0, "")
    written = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*.srt"))
    assert written == ["out/a.srt", "out/x/a.srt", "out/x/y/b.srt"]
    assert "x/a.MP4 -> out/x/a.srt" in outcome.err
    assert len(daemon.submitted) == 3


def test_what_is_done_is_passed_over_unless_it_is_forced(run, daemon, audio, tmp_path):
    files = audio("a.mp3", "b.mp3", "c.mp3")
    for name in ("a.srt", "b.srt"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text("done")
    os.utime(tmp_path / "out/b.srt", (1, 1))  # of an older b.mp3
    outcome = run("transcribe", "-f", "srt", "-o", "out", *files)

    assert outcome.err.splitlines()[0] == "1 of 3 are done already"
    assert sorted(name for name, *_ in daemon.submitted) == ["b.mp3", "c.mp3"]
    assert (tmp_path / "out/a.srt").read_text() == "done"
    again = run("transcribe", "-f", "srt", "-o", "out", *files)
    assert (again.status, again.err) == (0, "3 of 3 are done already\n")
    run("transcribe", "--force", "-f", "srt", "-o", "out", *files)
    assert len(daemon.submitted) == 5


def test_what_is_done_in_one_format_is_not_in_another(run, daemon, audio, tmp_path):
    files = audio("a.mp3")
    for format in ("json", "verbose_json", "json"):
        run("transcribe", "-f", format, "-o", "out", *files)

    assert len(daemon.submitted) == 2
    assert sorted(os.listdir(tmp_path / "out")) == ["a.json", "a.verbose.json"]


def test_the_same_command_again_comes_to_the_same_tasks(run, daemon, audio, tmp_path):
    files = audio("a.mp3")

    def keys(*options):
        daemon.submitted.clear()
        run("transcribe", *options, *files)
        return [headers.get("idempotency-key") for *_, headers in daemon.submitted]

    first = keys()
    assert first == keys() != [None]
    assert keys("--translate") != first
    assert keys("--force") == [None]
    os.utime(tmp_path / "a.mp3", (1, 1))
    assert keys() != first


def test_what_did_not_end_well_before_runs_again(run, daemon, audio):
    files = audio("a.mp3")
    daemon.joins = daemon.add("a.mp3", "cancelled")["task_id"]
    outcome = run("transcribe", *files)

    assert (outcome.status, outcome.out) == (0, "Ask not.\n")
    assert ("POST", "/tasks/01J001/retry") in daemon.seen
    assert list(daemon.tasks) == ["01J001"]


def test_a_failed_file_does_not_stop_the_others(run, daemon, audio):
    outcome = run("transcribe", *audio("a.mp3", "bad.mp3", "refused.mp3", "b.mp3"))

    assert (outcome.status, outcome.out) == (1, "Ask not.\nAsk not.\n")
    told = [re.sub(r"/\S*/", "", line) for line in outcome.err.splitlines()]
    causes = {"bad.mp3: the worker exited with -11", "refused.mp3: this is not audio"}
    assert set(told[:2]) == {f"whisperd: {cause}" for cause in causes}
    assert told[2] == "whisperd: 2 of 4 files failed:"
    assert set(told[3:]) == {f"whisperd:   {cause}" for cause in causes}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["transcribe", "gone.mp3"], "gone.mp3 does not exist"),
        (["submit", "."], ". is a folder"),
        (["transcribe", "empty"], "'empty': there is no audio or video in this folder"),
        (["list", "--since", "yesterday"], "'yesterday' is no time: 30m, 12h and 7d are"),
        (["list", "--since", "99999999999w"], "is no time"),
        (["retry"], "give the ids of tasks, or --all-failed"),
        (["retry", "01J001", "--all-failed"], "give the ids of tasks, or --all-failed"),
        (["retry", "01J001", "--code", "no_audio"], "give the ids of tasks, or --all-failed"),
        (["submit", "e\x1b[31mvil.mp3"], r"e\x1b[31mvil.mp3 does not exist"),
        (["transcribe", "-f", "docx", "a.mp3"], "docx"),
        (["transcribe", "-f", "srt", "a.mp3", "b.mp3"], "srt of several files needs --output-dir"),
        (["transcribe", "-o", ".", "a.txt"], "would overwrite a.txt"),
        (["transcribe", "-o", "out", "a.mp3", "./a.mp3"], "would overwrite out/a.mp3.txt"),
        (["submit", "--priority", "101", "a.mp3"], "--priority"),
        (["transcribe", "--language", "Klingon", "a.mp3"], "--language 'Klingon': no language"),
        (["submit", "--language", "", "a.mp3"], "--language '': no language"),
        (["list", "--limit", "0"], "--limit"),
        (["clear"], "--hours"),
        (["clear", "--hours", "-1"], "--hours"),
        (["clear", "--hours", "1", "--status", "queued"], "--status 'queued': must be one of completed"),
        (["nonsense"], "nonsense"),
        (["serve", "--port", "99999"], "expected a whole number from 0 to 65535"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(run, daemon, audio, tmp_path, args, said):
    audio("a.mp3", "b.mp3", "a.txt")
    (tmp_path / "empty").mkdir()
    outcome = run(*args)

    assert (outcome.status, outcome.out) == (2, "")
    assert said in " ".join(outcome.err.replace("│", "").split())
    assert "\x1b" not in outcome.err
    assert daemon.submitted == []


def test_submit_prints_the_ids_alone(run, daemon, audio):
    assert run("submit", *audio("a.mp3", "b.mp3")).lines == ["01J001", "01J002"]


def test_submit_tells_what_is_refused_and_goes_on(run, daemon, audio):
    outcome = run("submit", *audio("refused.mp3", "b.mp3"))

    assert (outcome.status, outcome.lines) == (1, ["01J001"])
    assert "refused.mp3: this is not audio" in outcome.err


def test_a_list_in_a_pipe_has_whole_tab_separated_lines(run, daemon):
    daemon.add("a" * 300 + "\t\x1b.mp3", "processing")
    daemon.add(status="failed")

    failed, processing = [line.split("\t") for line in run("list").lines]
    assert processing[0:4] == ["01J001", "processing", "42%", "13:32"]
    assert processing[5] == "a" * 300 + r"\t\x1b.mp3"
    assert failed[1] == "failed"
    assert run("list", "--status", "failed").lines[0].startswith("01J002")
    assert len(run("list", "--limit", "1").lines) == 1


def test_a_list_on_a_terminal_fits_it_in_colours_unless_told(daemon):
    daemon.add("a" * 300 + ".mp3", status="failed")
    drawn, status = on_a_terminal("list", url=daemon.url)
    plain, _ = on_a_terminal("list", url=daemon.url, environ={"NO_COLOR": "1"})

    assert status == 0
    assert "NAME" in drawn
    assert "01J001" in drawn
    assert "a…" in drawn
    assert "\x1b[1;31m" in drawn
    assert "31m" not in plain


def test_files_and_those_in_folders_are_estimated_one_by_one(run, daemon, tmp_path):
    folder = tmp_path / "talks"
    folder.mkdir()
    for path in (folder / "b.mp3", folder / "notes.txt", tmp_path / "a.wav"):
        path.write_bytes(b"sound")
    found = run("estimate", "--model", "base", str(folder), str(tmp_path / "a.wav"))

    assert found.status == 0
    assert [line.split("\t")[1:] for line in found.lines] == 2 * [
        ["base", "13:32", "4 min", "5 min", "8 min"]
    ]
    assert daemon.estimated[0] == {"size_bytes": 5, "name": "b.mp3", "model": "base"}
    assert daemon.tasks == {}


def test_a_file_that_would_be_refused_is_told_with_its_reason(run, daemon, audio):
    files = [str(path) for path in audio("refused.wav", "good.wav")]
    found = run("estimate", *files)

    assert found.status == 1
    assert found.lines[0].split("\t")[1:] == ["tiny.en", "13:32", "-", "-", "the queue is full"]
    told = json.loads(run("estimate", "--json", *files).out)
    assert [one["accepted"] for one in told] == [False, True]
    assert told[1]["file"] == files[1]


def test_a_task_is_explained_in_a_sentence_and_in_numbers(run, daemon):
    daemon.add()
    lines = run("explain", "01J001").lines

    assert lines[0] == "3rd in line; 2 PRO tasks ahead; starts in about 4 min"
    assert "begins in  about 4 min, 6 min if all goes slowly" in lines
    assert "done in    about 4 min" in lines
    assert json.loads(run("explain", "01J001", "--json").out)["ahead"] == {
        "tasks": 2,
        "by_priority": {"5": 2},
    }


def test_a_task_is_shown_with_its_error(run, daemon):
    daemon.add("talk\x07.mp3", "failed")
    lines = run("show", "01J001").lines

    assert "error      the worker exited with -11 (worker_crashed)" in lines
    assert r"file       talk\x07.mp3" in lines
    assert json.loads(run("show", "01J001", "--json").out)["audio"]["name"] == "talk\x07.mp3"


def test_an_unknown_task_is_an_error_without_traceback(run, daemon):
    outcome = run("show", "nope")

    assert (outcome.status, outcome.out, outcome.err) == (1, "", "whisperd: there is no such task\n")


def test_a_result_is_printed_or_written(run, daemon, tmp_path):
    daemon.add(status="completed")

    assert run("result", "01J001").out == "Ask not.\n"
    assert json.loads(run("result", "01J001", "--json").out) == {"text": "Ask not."}
    assert run("result", "01J001", "-f", "srt", "-o", "talk.srt").out == ""
    assert (tmp_path / "talk.srt").read_text().endswith("Ask not.\n\n")


def test_a_result_that_is_not_there_yet_exits_with_1(run, daemon):
    daemon.add()
    outcome = run("result", "01J001")

    assert (outcome.status, outcome.err) == (1, "whisperd: the task is not finished\n")


def test_a_result_that_cannot_be_written_is_told_with_its_path(run, daemon):
    daemon.add(status="completed")
    outcome = run("result", "01J001", "-o", "nowhere/talk.txt")

    assert outcome.status == 1
    assert "No such file or directory" in outcome.err


def test_a_link_is_printed_alone_and_until_when_it_works_beside_it(run, daemon):
    daemon.add(status="completed")
    outcome = run("link", "01J001", "-f", "vtt", "--seconds", "600")

    assert outcome.out == "https://s3.lan/links/01J001.vtt?X-Amz-Expires=600\n"
    assert outcome.err == "works until 2026-11-29T10:10:00.000Z\n"
    assert json.loads(run("link", "01J001", "--json").out) == {
        "url": "https://s3.lan/links/01J001.text?X-Amz-Expires=3600",
        "expires_at": "2026-11-29T10:10:00.000Z",
    }


def test_a_link_is_redacted_where_that_is_asked_for(run, daemon):
    daemon.add(status="completed")
    run("link", "01J001", "--redacted")

    assert daemon.seen == [("GET", "/tasks/01J001/link?format=text&redacted=true")]


def test_several_tasks_are_cancelled_and_run_again(run, daemon):
    daemon.add()
    daemon.add(status="completed")
    daemon.add(status="processing")

    cancelled = run("cancel", "01J001", "01J002", "01J003")
    assert (cancelled.status, cancelled.lines) == (1, ["01J001\tcancelled", "01J003\tcancelled"])
    assert cancelled.err == "whisperd: 01J002: the task is completed\n"
    retried = run("retry", "01J001", "--json")
    assert (retried.status, json.loads(retried.out)[0]["status"]) == (0, "queued")


def failures(daemon):
    daemon.add("old.mp3", "failed", finished_at="2020-01-01T00:00:00Z")
    daemon.add("new.mp3", "failed", finished_at=datetime.now(UTC).isoformat())
    other = {"code": "no_audio", "message": "there is no audio stream in it"}
    daemon.add("mute.mp4", "failed", finished_at=datetime.now(UTC).isoformat(), error=other)
    daemon.add("fine.mp3", "completed")


@pytest.mark.parametrize(
    ("narrowed", "ids"),
    [
        ([], ["01J001", "01J002", "01J003"]),
        (["--since", "1h"], ["01J002", "01J003"]),
        (["--since", "2019-12-31"], ["01J001", "01J002", "01J003"]),
        (["--code", "no_audio"], ["01J003"]),
        (["--since", "1h", "--code", "worker_crashed"], ["01J002"]),
        (["--code", "nothing"], []),
    ],
)
def test_all_that_failed_or_some_of_it_runs_again(run, daemon, narrowed, ids):
    failures(daemon)
    outcome = run("retry", "--all-failed", *narrowed)

    assert (outcome.status, outcome.lines) == (0, ids)
    assert [task["task_id"] for task in daemon.tasks.values() if task["status"] == "queued"] == ids


def test_a_hundred_that_failed_are_one_request_and_each_refusal_is_told(run, daemon):
    """It was a request a task."""
    for n in range(150):
        daemon.add("gone.mp3" if n == 120 else "talk.mp3", "failed")
    outcome = run("retry", "--all-failed")

    assert len(outcome.lines) == 149
    assert (outcome.status, outcome.err) == (1, "whisperd: 01J121: audio_gone\n")
    assert [path for method, path in daemon.seen if method == "POST"] == ["/tasks/bulk"] * 2
    daemon.tasks["01J121"]["audio"]["name"] = "talk.mp3"
    again = json.loads(run("retry", "--all-failed", "--json").out)
    assert again == {"retried": ["01J121"], "refused": {}}


@pytest.mark.parametrize(("answer", "status"), [(b"y\n", 0), (b"n\n", 1)])
def test_running_all_again_asks_first_on_a_terminal(daemon, answer, status):
    failures(daemon)
    steps = [("Run 3 failed tasks again? [y/N]", answer)]
    drawn, ended = on_a_terminal("retry", "--all-failed", url=daemon.url, steps=steps)

    assert ended == status
    assert ("01J003" in drawn) == (status == 0)
    assert on_a_terminal("retry", "--all-failed", "--yes", url=daemon.url)[1] == 0


def test_a_list_can_be_narrowed(run, daemon):
    daemon.add("a.mp3", created_at="2020-01-01T00:00:00Z")
    daemon.add("b.mp3", created_at=datetime.now(UTC).isoformat())
    run("list", "--status", "queued", "--kind", "transcription", "--tenant", "acme", "--text", "inter view")

    asked = "/tasks?status=queued&kind=transcription&tenant=acme&q=inter+view&limit=100"
    assert ("GET", asked) in daemon.seen
    assert [line.split("\t")[0] for line in run("list", "--since", "2h").lines] == ["01J002"]


def test_a_list_on_a_terminal_says_when_there_are_more(daemon):
    for _ in range(3):
        daemon.add()

    assert "There are more: --limit 20 shows them" in on_a_terminal("list", "-n", "2", url=daemon.url)[0]
    assert "There are more" not in on_a_terminal("list", "-n", "3", url=daemon.url)[0]


def test_a_wide_list_shows_more_columns(daemon):
    daemon.add(status="failed", priority=7)
    wide, _ = on_a_terminal("list", url=daemon.url, columns=160)

    assert all(name in wide for name in ("PRIORITY", "TENANT", "ERROR", "worker_crashed"))
    assert "PRIORITY" not in on_a_terminal("list", url=daemon.url, columns=119)[0]


def test_a_task_on_a_terminal_is_laid_out_beside_its_names(daemon):
    daemon.add("word " * 40, metadata={"episode": 7})
    drawn, _ = on_a_terminal("show", "01J001", url=daemon.url, environ={"NO_COLOR": "1"}, columns=60)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in drawn.splitlines()]

    assert any(re.fullmatch(r"metadata +\{\"episode\": 7\}", line) for line in lines)
    assert all(len(line) <= 60 for line in lines)
    assert sum("word word" in line for line in lines) > 1
    assert "" in lines[:-1]


def test_the_shell_completes_ids_and_states(run, daemon, monkeypatch):
    daemon.add("talk.mp3")

    def completed(line):
        monkeypatch.setenv("_WHISPERD_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        return run().lines

    daemon.add("other.mp3")
    assert completed("whisperd show 01") == ["01J002", "01J001"]  # by so few letters the daemon finds none
    assert completed("whisperd show 01J001") == ["01J001"]
    assert completed("whisperd show talk") == [""]
    assert "failed" in completed("whisperd list --status ")
    assert "failed,queued" in completed("whisperd list --status failed,")
    assert "retry" in completed("whisperd re")


def test_stats_are_told_in_words(run, daemon):
    daemon.add()
    lines = run("stats").lines

    assert "queued      1" in lines
    assert "priorities  0: 1" in lines
    assert "success     75.0%" in lines
    assert "speed       21.5 times real time" in lines
    assert "wait        4 ms; 95 % within 2 s" in lines
    assert json.loads(run("stats", "--json").out)["queued"] == 1


def test_old_tasks_are_cleared_and_counted(run, daemon):
    assert run("clear", "--hours", "24").lines == ["deleted 12 tasks"]
    outcome = run("clear", "--hours", "0.5", "--status", "failed, cancelled,failed", "--json")

    assert json.loads(outcome.out) == {"deleted": 12}
    assert daemon.cleared == [(["completed"], 24), (["failed", "cancelled"], 0.5)]


@pytest.mark.parametrize(("answer", "deleted"), [(b"y\n", True), (b"n\n", False), (b"\n", False)])
def test_clearing_on_a_terminal_asks_first(daemon, answer, deleted):
    drawn, status = on_a_terminal("clear", "--hours", "24", url=daemon.url, keys=answer, when="[y/N]")

    assert "Delete all completed tasks that finished 24 hours ago or earlier" in drawn
    assert (daemon.cleared == [(["completed"], 24)]) is deleted
    assert (status == 0) is deleted


def test_clearing_on_a_terminal_may_be_told_not_to_ask(daemon):
    drawn, status = on_a_terminal("clear", "--hours", "24", "--yes", url=daemon.url)

    assert (drawn.strip(), status) == ("deleted 12 tasks", 0)


def test_a_daemon_is_drained_and_what_is_left_is_told_meanwhile(run, daemon):
    daemon.drains = [{"processing": 1, "queued": 2}, {"processing": 1}, {"drained": True}]

    outcome = run("drain", "--timeout", "60")

    assert (outcome.lines, outcome.status) == (["drained"], 0)
    assert outcome.err.splitlines() == ["waiting: 1 processing, 2 queued", "waiting: 1 processing, 0 queued"]
    assert daemon.seen[0] == ("POST", "/admin/drain?timeout_seconds=60")


def test_a_drain_of_a_paused_daemon_is_not_waited_for(run, daemon):
    daemon.drains = [{"processing": 1}, {"queued": 2, "paused": True}]

    outcome = run("drain")

    told = "not drained: 0 processing, 2 queued, and it is paused: `whisperd resume`"
    assert (outcome.lines, outcome.status) == ([told], 1)


def test_a_drain_that_somebody_ends_has_failed(run, daemon):
    daemon.drains = [{"processing": 1}, {"draining": False}]

    outcome = run("drain")

    assert (outcome.lines, outcome.status) == (["not drained: somebody has ended it"], 1)


def test_a_drained_daemon_takes_work_again(run, daemon):
    outcome = run("drain", "--off", "--json")

    assert json.loads(outcome.out)["draining"] is False
    assert outcome.status == 0
    assert daemon.seen == [("POST", "/admin/undrain")]


def test_the_daemon_is_paused_and_goes_on(run, daemon):
    assert run("pause").lines == ["paused"]
    assert "paused      yes" in run("stats").lines
    assert json.loads(run("resume", "--json").out) == {"paused": False}
    assert not daemon.paused


def test_no_daemon_is_told_with_what_to_do(run):
    outcome = run("stats", url="http://127.0.0.1:9")

    assert outcome.status == 1
    assert outcome.err.startswith(
        "whisperd: no daemon answers at http://127.0.0.1:9. Start it with `whisperd serve`"
    )


def test_the_old_name_of_the_url_still_works(run, daemon, monkeypatch):
    monkeypatch.setenv("QUEUE_SERVICE_URL", daemon.url)

    assert run("stats", url="").status == 0


def test_the_settings_in_force_are_shown_with_their_source(run, tmp_path):
    (tmp_path / "config.toml").write_text("[http]\nport = 9000")

    assert "port = 9000  # config.toml" in run("config", "show").lines
    assert json.loads(run("config", "show", "--json").out)["http"]["port"] == 9000
    assert run("config", "show", "--defaults").out == to_toml(Config())


def test_a_file_of_settings_is_checked(run, tmp_path):
    (tmp_path / "good.toml").write_text("[http]\nport = 9000")
    (tmp_path / "bad.toml").write_text("[http]\nprt = 1\nport = -1")

    assert run("config", "check", "good.toml").lines == ["good.toml: right; 1 settings are set"]
    bad = run("config", "check", "bad.toml")
    assert (bad.status, len(bad.err.splitlines())) == (1, 2)
    assert "whisperd: bad.toml: unknown key http.prt; did you mean http.port?" in bad.err


def test_wrong_settings_exit_with_2(run, tmp_path):
    (tmp_path / "config.toml").write_text("[http]\nport = -1")

    assert run("config", "show").status == 2
    assert run("serve").status == 2


def test_another_programs_config_toml_hinders_no_command_but_serve(run, tmp_path):
    (tmp_path / "config.toml").write_text("[tool.other]\nport = -1")

    assert run("models", "list").status == 0
    assert "no file" in run("doctor").out
    assert run("serve").status == run("config", "show").status == 2


def test_models_are_listed_and_verified(run, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "ggml-mine.bin").write_bytes(b"no model")

    rows = {
        line.split("\t")[0]: line.split("\t")[1:]
        for line in run("models", "list", "--models-dir", folder).lines
    }
    assert rows["tiny.en"] == ["-", "78 MB", "English"]
    verified = run("models", "verify", "--models-dir", folder)
    assert (verified.status, verified.lines) == (1, ["mine\tcorrupt"])
    assert run("models", "verify", "--models-dir", folder, "tiny.en", "--json").status == 1


def test_a_model_that_is_not_published_is_told_with_near_names(run, tmp_path):
    outcome = run("models", "pull", "tiny.eng", "--models-dir", tmp_path)

    assert outcome.status == 1
    assert "tiny.en" in outcome.err


def test_a_traceback_is_shown_when_asked_for(run, monkeypatch):
    monkeypatch.setenv("WHISPERD_DEBUG", "1")

    with pytest.raises(Exception, match="no daemon answers"):
        run("stats", url="http://127.0.0.1:9")


def test_a_terminal_without_utf8_is_no_crash(daemon):
    daemon.add("ü€.mp3")
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii", "WHISPERD_URL": daemon.url}
    command = [sys.executable, "-m", "whisperd", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert r"\xfc\u20ac.mp3" in done.stdout


def test_a_bar_is_drawn_on_a_terminal(daemon, audio, tmp_path):
    audio("talk.mp3", "other.mp3")
    drawn, status = on_a_terminal(
        "transcribe", str(tmp_path / "talk.mp3"), str(tmp_path / "other.mp3"), url=daemon.url
    )

    assert status == 0
    assert "all files" in drawn
    assert drawn.count("Ask not.") == 2


def test_a_daemon_that_dies_meanwhile_is_told_with_how_to_get_the_transcript(run, audio):
    with standing_in() as dying:
        dying.die_on_wait = True
        outcome = run("transcribe", *audio("talk.mp3"), url=dying.url)

    assert outcome.status == 1
    assert "stopped answering" in outcome.err
    assert "`whisperd result 01J001` has it when the daemon is back" in outcome.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_call_cancels_its_task(daemon, audio, number):
    environment = {**ENVIRONMENT, "WHISPERD_URL": daemon.url}
    command = [sys.executable, "-m", "whisperd", "transcribe", *map(str, audio("slow.mp3"))]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while not any("wait=" in path for _, path in daemon.seen) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        _, complaint = process.communicate(timeout=10)

    assert process.returncode != 0
    assert daemon.tasks["01J001"]["status"] == "cancelled"
    assert "Traceback" not in complaint
