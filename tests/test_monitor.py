import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console, Group

from tests.stand_in import WORKER, standing_in
from tests.terminal import ENVIRONMENT, on_a_terminal, resize
from whisperd.client import Client, DaemonAway, Stats, Worker
from whisperd.monitor.courier import carry_out, look
from whisperd.monitor.keyboard import struck
from whisperd.monitor.keys import press
from whisperd.monitor.lines import line
from whisperd.monitor.model import REMEMBERED, Look, Model, Order, Wish
from whisperd.monitor.view import in_ascii, screen, sparkline

SIZES = [(80, 24), (120, 40), (200, 50), (40, 12), (20, 5), (1, 1)]


@pytest.fixture(scope="module")
def server():
    with standing_in() as server:
        yield server


@pytest.fixture
def daemon(server):
    server.reset()
    return server


def model_of(daemon, **wish):
    model = Model("http://127.0.0.1:8002")
    with Client(daemon.url) as client:
        model.saw(look(client, Wish(**wish)))
    return model


def drawn(model, width=80, height=24):
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(Group(*screen(model, width, height)))
    return [line.rstrip() for line in console.file.getvalue().removesuffix("\n").split("\n")]


def text_of(model, **size):
    return "\n".join(drawn(model, **size))


def busy(daemon, many):
    for number in range(many):
        daemon.add(f"interview-{number}.mp3", "processing", started_at="2026-11-22T10:00:00.000Z")
        daemon.add(f"waiting-{number}.mp3", "queued", position=many - number, attempt=1 + number)
        daemon.add(f"broken-{number}.mp3", "failed", finished_at="2026-11-22T10:00:00.000Z")
    return model_of(daemon)


def pressed(model, *keys):
    """The orders that come of it."""
    return [order for order in [press(model, key) for key in keys] if order is not None]


def test_a_screen_shows_what_is_going_on(daemon):
    text = text_of(busy(daemon, 2))

    assert "2 queued   2 processing   0 completed   2 failed   0 cancelled" in text
    assert "12 a minute, 21.5× real time" in text
    assert "wait 4 ms, 95 % within 2 s   oldest 61 s" in text
    assert "by priority   0: 2" in text
    assert "1  busy  tiny.en  20.0×  210 MB  interview-0.mp3  chunk 2  3 done" in text
    assert " 42%" in text
    assert "the worker exited with -11" in text


def test_the_priorities_are_of_all_that_wait_not_of_what_is_seen(daemon):
    for number in range(60):
        daemon.add(priority=number // 50)

    assert "by priority   1: 10   0: 50" in text_of(model_of(daemon))


def test_a_wide_screen_shows_more_of_each_task(daemon):
    text = text_of(busy(daemon, 3), width=200, height=50)

    assert "━━━━╌╌╌╌╌╌  42%" in text
    assert "default  tiny.en  01J005  attempt 2" in text


def test_the_next_to_run_stands_first(daemon):
    model = busy(daemon, 3)
    pressed(model, "f")
    lines = drawn(model)
    start = lines.index("QUEUED  3")

    assert [line.split()[0] for line in lines[start + 1 : start + 4]] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "keys", [(), ("down",), ("end",), ("f", "f", "f"), ("?",), ("down", "enter"), ("p",)]
)
@pytest.mark.parametrize("many", [0, 1, 40])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_screen_fits_the_terminal(daemon, many, width, height, keys):
    daemon.workers = [dict(WORKER, id=number) for number in range(many)]
    model = busy(daemon, many)
    pressed(model, *keys)
    lines = drawn(model, width, height)

    assert len(lines) == height
    assert all(len(line) <= width for line in lines)


def test_every_section_has_its_share_of_a_full_screen(daemon):
    daemon.workers = [dict(WORKER, id=number) for number in range(40)]
    text = text_of(busy(daemon, 40))

    assert "WORKERS  40  (3 shown)" in text
    assert "OPEN  80  (8 shown)" in text
    assert "FAILED LAST  40  (2 shown)" in text


def test_a_long_name_keeps_its_end(daemon):
    daemon.add("interview " * 20 + "part 7.mp3", "processing")

    assert any("interview" in line and "t 7.mp3" in line and "…" in line for line in drawn(model_of(daemon)))


@pytest.mark.parametrize("name", ["会议记录" * 30, "🎙️" * 60, "e\u0301" * 100, "א" * 100])
@pytest.mark.parametrize("width", [80, 81, 40])
def test_wide_letters_fit_too(daemon, name, width):
    daemon.add(f"{name}.mp3", "processing")
    lines = screen(model_of(daemon), width, 24)

    assert max(line.cell_len for line in lines) <= width
    assert any(".mp3" in line.plain for line in lines) or width < 80


def test_names_cannot_steer_the_terminal(daemon):
    daemon.add("\x1b[2J[bold]x\n.mp3", "processing")
    text = text_of(model_of(daemon))

    assert "\x1b" not in text
    assert r"\x1b[2J[bold]x\n.mp3" in text


def test_a_paused_queue_without_figures_is_drawn():
    model = Model("")
    model.saw(
        Look(datetime.now(UTC), Stats(paused=True, delayed=2, workers=(Worker(id=1, state="starting"),)))
    )
    text = text_of(model)

    assert "PAUSED" in text
    assert "(2 delayed)" in text
    assert "starting" in text


def test_the_time_that_is_left_is_shown_where_it_is_known(daemon):
    daemon.add(status="processing", eta_seconds=31.5)
    daemon.add(status="queued", eta_seconds=240.0)
    text = text_of(model_of(daemon))

    assert "32 s left" in text
    assert "in 4 min" in text


def test_what_was_seen_last_stays_while_the_daemon_is_away(daemon):
    model = busy(daemon, 1)
    model.trouble = "no daemon answers"
    lines = drawn(model)

    assert lines[-1] == "waiting for the daemon: no daemon answers"
    assert any("interview-0.mp3" in line for line in lines)
    assert "waiting for the daemon: away" in drawn(Model("", trouble="away"))


def test_a_look_at_no_daemon_is_an_error():
    with Client("http://127.0.0.1:9", retries=0) as client, pytest.raises(DaemonAway):
        look(client)


def test_a_sparkline_is_of_the_newest_looks():
    assert sparkline([9.0, 0.0, 1.0, 2.0], 3) == "▁▄█" or sparkline([9.0, 0.0, 1.0, 2.0], 3) == "▁▅█"
    assert sparkline([0.0, 0.0], 10) == "▁▁"
    assert sparkline([1.0], 0) == sparkline([1.0], -5) == sparkline([], 5) == ""


def test_no_look_is_kept_for_ever(daemon):
    model, now = Model(""), datetime(2026, 11, 28, tzinfo=UTC)
    for second in range(REMEMBERED + 10):
        model.saw(Look(now + timedelta(seconds=second), Stats(completed=17 * second)))

    assert list(model.pace) == [17 * 60.0] * REMEMBERED


def test_a_clear_is_no_throughput():
    model, now = Model(""), datetime(2026, 11, 28, tzinfo=UTC)
    model.saw(Look(now, Stats(completed=100)))
    model.saw(Look(now + timedelta(seconds=1), Stats(completed=3)))

    assert list(model.pace) == [0.0]


def test_a_terminal_without_unicode_gets_as_wide_a_screen(daemon):
    model = busy(daemon, 3)
    model.pace.extend([1.0, 2.0])
    plain = [in_ascii(line) for line in screen(model, 130, 40)]

    assert all(line.plain.isascii() for line in plain)
    assert [line.cell_len for line in plain] == [line.cell_len for line in screen(model, 130, 40)]


def test_nothing_is_done_to_a_task_that_nobody_selected(daemon):
    model = busy(daemon, 2)

    assert pressed(model, "c", "y", "r", "+", "enter") == []
    assert "no task is selected" in model.said


def test_the_selection_follows_its_task(daemon):
    model = busy(daemon, 2)
    pressed(model, "down", "down", "down")
    assert model.chosen.audio.name == "waiting-1.mp3"
    assert model.row == 2
    daemon.tasks["01J001"]["status"] = "completed"
    with Client(daemon.url) as client:
        model.saw(look(client))

    assert model.chosen.audio.name == "waiting-1.mp3"
    assert model.row == 1


def test_what_takes_the_place_of_a_task_that_is_gone_is_selected(daemon):
    model = busy(daemon, 2)
    pressed(model, "end")
    gone = model.selected
    del daemon.tasks[gone]
    with Client(daemon.url) as client:
        model.saw(look(client))

    assert model.row == 2
    assert model.selected == model.tasks[2].task_id != gone


def test_a_cancel_asks_first_and_is_about_the_task_it_was_asked_for(daemon):
    model = busy(daemon, 2)
    pressed(model, "down", "c")
    assert drawn(model)[-1] == "Cancel interview-1.mp3?  y/n"
    del daemon.tasks["01J004"]
    with Client(daemon.url) as client:
        model.saw(look(client))

    assert pressed(model, "y") == [Order("cancel", "01J004", "interview-1.mp3")]


@pytest.mark.parametrize("key", ["n", "escape", "enter", "q", "down"])
@pytest.mark.parametrize("asks", ["c", "p"])
def test_anything_but_yes_is_no(daemon, asks, key):
    model = busy(daemon, 1)

    assert pressed(model, "down", asks, key) == []
    assert model.said == "nothing was done"
    assert not model.over


def test_a_paused_queue_goes_on_without_a_question(daemon):
    daemon.paused = True

    assert pressed(model_of(daemon), "p") == [Order("resume")]


def test_a_priority_is_changed_by_one(daemon):
    daemon.add(priority=7)
    model = model_of(daemon)

    assert [order.priority for order in pressed(model, "down", "+", "-")] == [8, 6]


def test_a_priority_stays_in_its_bounds(daemon):
    daemon.add(priority=100)
    model = model_of(daemon)

    assert pressed(model, "down", "+") == []
    assert "from -100 to 100" in model.said


def test_the_list_can_be_of_one_state_or_of_all(daemon):
    model = busy(daemon, 2)
    daemon.add("done.mp3", "completed")
    names = []
    for _ in range(5):
        with Client(daemon.url) as client:
            model.saw(look(client, model.wish))
        names.append({task.audio.name.partition("-")[0].partition(".")[0] for task in model.tasks})
        pressed(model, "f")

    assert names == [
        {"interview", "waiting"},
        {"waiting"},
        {"interview"},
        {"broken"},
        {"interview", "waiting", "broken", "done"},
    ]


def test_the_details_of_a_task_stay_while_it_goes_on(daemon):
    model = busy(daemon, 1)
    assert pressed(model, "down", "enter") == [Order("look")]
    daemon.tasks["01J001"]["status"] = "completed"
    with Client(daemon.url) as client:
        model.saw(look(client, model.wish))

    assert "status     completed" in drawn(model)
    del daemon.tasks["01J001"]
    with Client(daemon.url) as client:
        model.saw(look(client, model.wish))
    assert "it is not there any more" in drawn(model)


def test_the_keys_are_explained(daemon):
    model = busy(daemon, 1)
    pressed(model, "?")

    assert "raise, lower its priority while it is queued" in text_of(model)
    pressed(model, "escape")
    assert "interview-0.mp3" in text_of(model)


def test_orders_are_carried_out_by_the_daemon(daemon):
    daemon.add("a.mp3")
    with Client(daemon.url) as client:
        said = [
            carry_out(client, Order("priority", "01J001", "a.mp3", 3)),
            carry_out(client, Order("cancel", "01J001", "a.mp3")),
            carry_out(client, Order("retry", "01J001", "a.mp3")),
            carry_out(client, Order("pause")),
        ]

    assert said == [
        "a.mp3 has priority 3 now",
        "cancelled a.mp3",
        "a.mp3 runs again",
        "paused: what runs is finished, nothing more is handed out",
    ]
    assert (daemon.tasks["01J001"]["priority"], daemon.tasks["01J001"]["status"]) == (3, "queued")
    assert daemon.paused


@pytest.mark.parametrize(
    ("sent", "names"),
    [
        (b"jq", ["j", "q"]),
        (b"\x1b[A\x1bOB\x1b[5~", ["up", "down", "page up"]),
        (b"\x1b", ["escape"]),
        (b"\x1b[1;5Aj", ["\x1b[1;5A", "j"]),
        (b"\x1b[", ["\x1b["]),
        (b"\r", ["enter"]),
        (b"\xff", ["\ufffd"]),
        (b"", ["gone"]),
    ],
)
def test_keys_have_names(sent, names):
    read, write = os.pipe()
    os.write(write, sent)
    os.close(write)
    keys = struck(read)
    os.close(read)

    assert keys == names


def test_q_quits_and_gives_the_terminal_back(daemon):
    daemon.add("talk.mp3", "processing")
    text, status = on_a_terminal("watch", "--interval", "3600", url=daemon.url, keys=b"q", when="talk.mp3")

    assert status == 0
    assert text.endswith("\x1b[?25h\x1b[?1049l")  # the cursor is back, and what was on the screen before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(daemon, number):
    daemon.add("talk.mp3", "processing")
    steps = [("talk.mp3", lambda process, terminal: process.send_signal(number))]
    text, status = on_a_terminal("watch", "--interval", "3600", url=daemon.url, steps=steps)

    assert status == 0
    assert text.endswith("\x1b[?25h\x1b[?1049l")
    assert "Traceback" not in text


def test_a_crash_gives_the_terminal_back_and_is_told(daemon, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import whisperd.monitor.model as model\n"
        "def saw(self, look): raise RuntimeError('a fault of ours')\n"
        "model.Model.saw = saw\n"
    )
    text, status = on_a_terminal(
        "watch", url=daemon.url, environ={"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    )

    assert status == 1
    assert text.endswith("\x1b[?25h\x1b[?1049lwhisperd: a fault of ours\r\n")


def test_a_task_is_cancelled_from_the_screen(daemon):
    daemon.add("talk.mp3", "processing")
    steps = [("talk.mp3", b"j"), (">", b"c"), ("Cancel talk.mp3?", b"y"), ("cancelled talk.mp3", b"q")]
    _, status = on_a_terminal("watch", "--interval", "3600", url=daemon.url, steps=steps)

    assert status == 0
    assert daemon.tasks["01J001"]["status"] == "cancelled"


def test_what_the_daemon_refuses_is_told_on_the_screen(daemon):
    daemon.add("talk.mp3", "processing")
    steps = [("talk.mp3", b"\x1b[B"), (">", b"r"), ("refused: the task is processing", b"q")]

    assert on_a_terminal("watch", "--interval", "3600", url=daemon.url, steps=steps)[1] == 0


def test_another_size_is_drawn_at_once(daemon):
    daemon.add("talk.mp3", "processing")

    def widen(process, terminal):
        resize(terminal, 200, 50)
        process.send_signal(signal.SIGWINCH)  # it has no controlling terminal to tell it

    steps = [("talk.mp3", widen), ("01J001", b"q")]  # an id stands in wide rows alone

    assert on_a_terminal("watch", "--interval", "3600", url=daemon.url, steps=steps)[1] == 0


def test_a_daemon_that_goes_away_and_comes_back_is_waited_for():
    with standing_in() as daemon:
        url = daemon.url
    steps = [("waiting for the daemon", lambda *_: started.append(stack.enter_context(back(url))))]
    steps.append(("after.mp3", lambda *_: stack.close()))
    steps.append(("waiting for the daemon", b"q"))
    started = []
    with contextlib.ExitStack() as stack:
        _, status = on_a_terminal("watch", "--interval", "0.2", url=url, steps=steps)

    assert status == 0


@contextlib.contextmanager
def back(url):
    with standing_in(int(url.rpartition(":")[2])) as daemon:
        daemon.add("after.mp3", "processing")
        yield daemon


def test_without_a_terminal_a_line_is_printed_each_time(daemon):
    daemon.add("talk.mp3", "processing")
    command = [sys.executable, "-m", "whisperd", "watch", "--interval", "0.2"]
    environment = {**ENVIRONMENT, "WHISPERD_URL": daemon.url}
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) as process:
        lines = [process.stdout.readline().rstrip("\n").split("\t") for _ in range(3)]
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()

    for _, state, *figures in lines:
        assert state == "running"
        assert figures == [
            *("queued=0", "processing=1", "completed=0", "failed=0", "cancelled=0"),
            *("tasks_per_minute=12", "real_time=21.5x", "workers_busy=1/1"),
        ]
    assert "Traceback" not in errors


def test_a_line_says_that_the_daemon_is_away():
    with Client("http://127.0.0.1:9", retries=0) as client:
        assert line(client).split("\t")[1:] == ["away", "no daemon answers at http://127.0.0.1:9"]


def test_one_look_is_printed_as_json(daemon):
    daemon.add("talk.mp3", "processing")
    command = [sys.executable, "-m", "whisperd", "watch", "--json"]
    environment = {**ENVIRONMENT, "WHISPERD_URL": daemon.url}
    said = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    assert said["stats"]["processing"] == 1
    assert said["processing"][0]["audio"]["name"] == "talk.mp3"
