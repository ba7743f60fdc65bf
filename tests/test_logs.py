"""What a line of the log looks like, by where it goes; and what becomes of many."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from structlog.contextvars import bound_contextvars

from whisperd import logs
from whisperd.config import Logging


@pytest.fixture
def begin(monkeypatch):
    """Begin to log, until the end of the test."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's

    def configure(**settings):
        logs.configure(Logging(**settings), in_files=True)

    yield configure
    logs.close()
    logs.set_levels(Logging())
    structlog.reset_defaults()


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_has_its_time_its_level_its_part_and_whom_it_is_about(begin, capsys):
    begin(format="json")
    with bound_contextvars(request_id="req_1", task_id="01J"):
        structlog.get_logger("whisperd.queue").warning("something", seconds=2)
    (line,) = lines(capsys)

    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "something",
        "seconds": 2,
        "request_id": "req_1",
        "task_id": "01J",
        "level": "warning",
        "part": "queue",
    }


def test_what_libraries_say_comes_out_the_same_way(begin, capsys, monkeypatch):
    """Whatever a server of an earlier test has made of its logger."""
    monkeypatch.setattr(logging.getLogger("uvicorn"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    begin(format="json")
    logging.getLogger("uvicorn.error").warning("odd %s", "client")
    logging.getLogger("apscheduler.scheduler").info("too much")
    (line,) = lines(capsys)

    assert (line["event"], line["level"], line["part"]) == ("odd client", "warning", "uvicorn.error")
    assert "timestamp" in line


def test_an_error_has_its_traceback_without_the_values_of_variables(begin, capsys):
    begin(format="json")
    secret = "what somebody said"
    try:
        raise ValueError(len(secret))
    except ValueError:
        structlog.get_logger("whisperd.slot").exception("it broke")
    told = capsys.readouterr().err

    assert json.loads(told)["level"] == "error"
    assert "Traceback" in json.loads(told)["exception"]
    assert "what somebody said" not in told.replace('secret = \\"what somebody said\\"', "")


def test_each_part_has_a_level_of_its_own_and_loses_it_again(begin, capsys):
    def say():
        for part in ("whisperd.queue", "whisperd.slot", "whisperd.routes.live", "apscheduler"):
            structlog.get_logger(part).debug("debug")
            structlog.get_logger(part).info("info")
        return [(line["part"], line["level"]) for line in lines(capsys)]

    begin(format="json", level="warning", levels={"queue": "debug", "routes": "info", "apscheduler": "info"})

    assert say() == [
        ("queue", "debug"),
        ("queue", "info"),
        ("routes.live", "info"),
        ("apscheduler", "info"),
    ]
    logs.set_levels(Logging(level="info"))
    assert say() == [("queue", "info"), ("slot", "info"), ("routes.live", "info")]


def under_the_journal(code, **environ):
    """What a process says to a pipe that it believes to be the journal's."""
    reading, writing = os.pipe()
    found = os.fstat(writing)
    variables = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}", **environ}
    start = "import structlog; from whisperd import logs; from whisperd.config import Logging; "
    subprocess.run([sys.executable, "-c", start + code], stderr=writing, env=variables, check=True)
    os.close(writing)
    with open(reading) as said:
        return said.read()


SAY = "logs.configure(Logging({})); log = structlog.get_logger('whisperd.slot'); "


def test_the_journal_gets_the_level_in_front_no_time_and_no_line_that_another_could_have_written():
    hostile = r"log.warning('worker died', cause='a\nb\n<0>fake level=emerg', worker=2)"
    said = under_the_journal(SAY.format("") + "log.info('well'); " + hostile)

    assert said.splitlines() == [
        "<6>well part=slot",
        '<4>worker died cause="a\\nb\\n<0>fake level=emerg" worker=2 part=slot',
    ]


def test_each_line_of_a_traceback_has_its_level_in_the_journal():
    said = under_the_journal(SAY.format("") + "log.error('it broke', exc_info=ValueError('x'))")

    assert len(said.splitlines()) > 1
    assert all(line.startswith("<3>") for line in said.splitlines())


def test_json_for_the_journal_has_the_level_in_front_too():
    said = under_the_journal(SAY.format("format='json'") + "log.error('it broke')")

    assert json.loads(said.removeprefix("<3>")) == {"event": "it broke", "level": "error", "part": "slot"}


def test_what_was_not_connected_to_the_journal_gets_no_levels_in_front():
    said = under_the_journal(SAY.format("") + "log.info('well')", JOURNAL_STREAM="1:2")

    assert json.loads(said)["event"] == "well"


def test_files_are_put_aside_when_they_are_large_and_only_so_many_kept(begin, tmp_path):
    folder = tmp_path / "log"
    begin(dir=str(folder), max_bytes=4096, keep=2, level="info")
    log = structlog.get_logger("whisperd.queue")
    for number in range(200):
        log.info("a line", number=number)
    logs.close()

    assert sorted(os.listdir(folder)) == ["whisperd.log", "whisperd.log.1", "whisperd.log.2"]
    assert all(path.stat().st_size <= 4096 for path in folder.iterdir())
    newest = [json.loads(line) for line in (folder / "whisperd.log").read_text().splitlines()]
    assert (newest[-1]["event"], newest[-1]["number"]) == ("a line", 199)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_disk_that_takes_no_lines_is_told_once_and_standard_error_goes_on(begin, tmp_path, capsys):
    begin(dir=str(tmp_path), format="json")
    log = structlog.get_logger("whisperd.queue")
    (files,) = [handler._files for handler in logs._handlers if isinstance(handler, logs._Behind)]
    files.stream.close()
    files.stream = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    for number in range(3):
        log.warning("a line", number=number)
    logs.close()

    told = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["number"] for line in told if line.startswith("{")] == [0, 1, 2]
    assert [line for line in told if not line.startswith("{")] == [
        f"whisperd: the log cannot be written to {tmp_path / 'whisperd.log'}"
    ]


def test_a_slow_disk_holds_up_nobody_and_costs_lines_that_are_counted(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "MOST_WAITING", 5)
    os.mkfifo(tmp_path / "whisperd.log")
    reading = os.open(tmp_path / "whisperd.log", os.O_RDONLY | os.O_NONBLOCK)
    begin(dir=str(tmp_path), max_bytes=2**40)
    log = structlog.get_logger("whisperd.queue")
    for number in range(2000):  # more than the pipe holds
        log.warning("a line", number=number, padding="x" * 200)
    os.set_blocking(reading, True)
    said = b""
    while b"lines were lost" not in said:
        log.warning("a line")
        said += os.read(reading, 2**16)
    while logs._handlers[1]._waiting.qsize():
        os.read(reading, 2**16)
    logs.close()
    os.close(reading)


def test_a_folder_that_cannot_be_made_is_an_error_at_the_start(begin, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        begin(dir=str(tmp_path / "file" / "log"))


def test_a_setting_names_parts_as_lines_do():
    parts = {path.stem for path in Path(logs.__file__).parent.glob("*.py")}

    assert {"slot", "access", "queue"} <= parts
    assert logs._logger_name("slot") == "whisperd.slot"
    assert logs._logger_name("routes.interactive") == "whisperd.routes.interactive"
    assert logs._logger_name("uvicorn") == "uvicorn"
