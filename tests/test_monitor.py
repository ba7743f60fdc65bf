import io

import pytest
from rich.console import Console

from tests.stand_in import WORKER, standing_in
from tests.terminal import on_a_terminal
from whisperd.client import Client, DaemonAway, Stats, Worker
from whisperd.monitor import Look, look, screen, tried


@pytest.fixture(scope="module")
def server():
    with standing_in() as server:
        yield server


@pytest.fixture
def daemon(server):
    server.reset()
    return server


def drawn(seen, width=80, height=24, trouble=""):
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(screen(seen, "http://127.0.0.1:8002", height, trouble))
    return console.file.getvalue().rstrip("\n").split("\n")


def seen_by(daemon):
    with Client(daemon.url) as client:
        return look(client)


def busy(daemon, many):
    for number in range(many):
        daemon.add(f"interview-{number}.mp3", "processing", started_at="2026-11-22T10:00:00.000Z")
        daemon.add(f"waiting-{number}.mp3", "queued", position=many - number, attempt=1 + number)
        daemon.add(f"broken-{number}.mp3", "failed", finished_at="2026-11-22T10:00:00.000Z")
    return seen_by(daemon)


def test_a_screen_shows_what_is_going_on(daemon):
    text = "\n".join(drawn(busy(daemon, 2)))

    assert "2 queued   2 processing   0 completed   2 failed   0 cancelled" in text
    assert "12 a minute, 21.5x real time" in text
    assert "wait 4 ms, 95 % within 2 s   the oldest for 61 s" in text
    assert "1  busy  tiny.en  20.0x  210 MB  interview-0.mp3" in text
    assert " 42%" in text
    assert "the worker exited with -11" in text


def test_the_next_to_run_stands_first(daemon):
    lines = drawn(busy(daemon, 3))
    start = lines.index("WAITING  3")

    assert [line[0] for line in lines[start + 1 : start + 4]] == ["1", "2", "3"]
    assert "attempt 3" in lines[start + 1]


@pytest.mark.parametrize("many", [0, 1, 3, 40])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 50), (40, 12)])
def test_a_screen_fits_the_terminal(daemon, many, width, height):
    daemon.workers = [dict(WORKER, id=number) for number in range(many)]
    lines = drawn(busy(daemon, many), width, height)

    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)


def test_every_section_has_its_share_of_a_full_screen(daemon):
    lines = drawn(busy(daemon, 40))

    assert "IN WORK  40  (4 shown)" in lines
    assert "WAITING  40  (4 shown)" in lines
    assert any(line.startswith("FAILED  40  (") for line in lines)


def test_names_cannot_steer_the_terminal(daemon):
    daemon.add("\x1b[2J[bold]x\n.mp3", "processing")
    text = "\n".join(drawn(seen_by(daemon)))

    assert "\x1b" not in text
    assert r"\x1b[2J[bold]x\n.mp3" in text


def test_a_paused_queue_without_figures_is_drawn():
    paused = Stats(paused=True, delayed=2)
    text = "\n".join(drawn(Look(paused, [Worker(id=1, state="starting")], [], [], [])))

    assert "PAUSED" in text
    assert "(2 delayed)" in "\n".join(drawn(Look(Stats(delayed=2), [], [], [], [])))
    assert "starting" in text


def test_what_was_seen_last_stays_while_the_daemon_is_away(daemon):
    lines = drawn(busy(daemon, 1), trouble="no daemon answers")

    assert "waiting for the daemon: no daemon answers" in lines
    assert any("interview-0.mp3" in line for line in lines)
    assert "waiting for the daemon: away" in drawn(None, trouble="away")


def test_a_look_at_no_daemon_is_an_error():
    with Client("http://127.0.0.1:9", retries=0) as client, pytest.raises(DaemonAway):
        look(client)


def test_q_quits_and_gives_the_terminal_back(daemon):
    daemon.add("talk.mp3", "processing")
    text, status = on_a_terminal("watch", "--interval", "3600", url=daemon.url, keys=b"q", when="talk.mp3")

    assert status == 0
    assert text.endswith("\x1b[?25h\x1b[?1049l")  # the cursor is back, and what was on the screen before


def test_a_daemon_that_goes_away_and_comes_back_is_waited_for():
    with standing_in() as daemon:
        url = daemon.url
    with Client(url, retries=0) as client:
        away, trouble = tried(client, None)
        with standing_in(int(url.rpartition(":")[2])) as daemon:
            daemon.add("after.mp3", "processing")
            back, well = tried(client, away)
        gone, again = tried(client, back)

    assert (away, well) == (None, "")
    assert trouble == again == f"no daemon answers at {url}"
    assert back.processing[0].audio.name == "after.mp3"
    assert gone is back
