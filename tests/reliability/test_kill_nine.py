"""Promises 1 and 3: kill -9 at random moments under load. What was acknowledged is kept, once, in order."""

import heapq
import json
import random
import time
from dataclasses import dataclass, field

import pytest

from tests.reliability.clients import Clients

pytestmark = pytest.mark.timeout(3600)
MOST_SECONDS = 1200  # of a long form; what was reached by then is reported, and too little fails
MIX = {"silence": 96, "half a second": 2.5, "words": 1, "sentence": 0.5}  # speech costs a second
ORDERS = random.sample(["lifo", "fifo"], 2)
PLENTY = {
    "QUEUE__MAX_RETRIES": 100,  # a kill counts as a failure of the chunks in work
    "QUEUE__RETRY_DELAY_MS": 0,
    "WORKERS__SILENCE_SECONDS": 3600,  # no sweep makes up for what a start has missed
    "WORKERS__NICE": 0,
    "LOGGING__LEVEL": "warning",
}


@dataclass
class Aftermath:
    """What clients were told, and what is in the database after the last task."""

    order: str
    clients: Clients
    undisturbed: dict  # (name of a clip, number of a chunk) → its segments
    kills: int = 0
    missing: set = field(default_factory=set)  # acknowledged before a kill, and not there after it
    tasks: list = field(default_factory=list)
    chunks: list = field(default_factory=list)
    stray: list = field(default_factory=list)  # files of the spool that belong to nothing


def pytest_generate_tests(metafunc):
    """Both orders; one by chance in the short form."""
    if "aftermath" in metafunc.fixturenames:
        chosen = ORDERS if metafunc.config.getoption("--long") else ORDERS[:1]
        metafunc.parametrize("aftermath", chosen, indirect=True, scope="module")


@pytest.fixture(scope="module")
def aftermath(request, daemons, clips, size, chance, report, tmp_path_factory):
    """One daemon, sixteen clients, and a kill now and then; then everything runs to its end."""
    kills = size(2, 100)
    daemon = daemons(QUEUE__ORDER=request.param, **PLENTY).start()
    clients = Clients(daemon, clips, MIX, pause=size(0.3, 0.16), seed=chance.name)
    found = Aftermath(request.param, clients, undisturbed(daemon, clips, tmp_path_factory.mktemp("clips")))
    ends = time.monotonic() + MOST_SECONDS / 2
    with clients:
        while found.kills < kills and time.monotonic() < ends:
            live_until_killed(daemon, chance)
            found.kills += 1
            found.missing |= told(clients) - {row[0] for row in daemon.left("select id from task")[0]}
            note(report, found, chance)
            launch(daemon, chance)
        running(daemon)
        daemon.until(lambda: len(clients.acknowledged) >= size(10, 5_000), 900)
    daemon.all_over(size(60, 1200))
    assert daemon.stop() == 0
    found.tasks, found.chunks = daemon.left(TASKS, CHUNKS)
    kept = {row[0] for row in found.tasks}
    found.stray = [name for name in daemon.spool() if name.removesuffix(".audio") not in kept]
    note(report, found, chance)
    return found


def live_until_killed(daemon, chance):
    """Mostly at work; one time in five somewhere in its start."""
    if daemon.url:
        time.sleep(chance.uniform(0.02, 1.2))
    daemon.kill()


def launch(daemon, chance):
    if chance.random() < 0.2:
        daemon.launch()
        time.sleep(chance.uniform(0.0, 1.5))
    else:
        daemon.start()


def running(daemon):
    if not daemon.url:
        daemon.kill()
        daemon.start()


def told(clients):
    return {task_id for task_id, _ in list(clients.acknowledged.values())}


TASKS = "select id, seq, priority, state, created_at, started_at, attempt, audio_name from task order by seq"
CHUNKS = """
    select id, audio_name, number, chunk.state, claims, failures, segments
    from chunk join task on task.seq = chunk.task order by id, number
"""


def note(report, found, chance):
    total = report.setdefault(found.order, {})
    total.update(
        kills=found.kills,
        acknowledged=len(found.clients.acknowledged),
        lost=len(lost(found)),
        doubled=len(found.tasks) - len(found.clients.acknowledged) if found.tasks else "?",
        out_of_order=len(overtaken(found)),
        seed=chance.name,
    )


def lost(found):
    return found.missing | (told(found.clients) - {row[0] for row in found.tasks} if found.tasks else set())


def test_no_acknowledged_task_is_lost(aftermath):
    assert lost(aftermath) == set()


def test_the_attack_was_as_large_as_promised(aftermath, size):
    assert aftermath.kills == size(2, 100)
    assert len(aftermath.clients.acknowledged) >= size(10, 5_000)


def test_what_is_sent_again_with_its_key_after_a_kill_is_the_same_task(aftermath, size):
    again = aftermath.clients.answered_twice

    assert len(again) >= size(0, 50)  # of two kills, both may come while nobody waits for an answer
    assert [row for row in again if row[1] != row[2]] == []
    assert len(aftermath.tasks) == len(aftermath.clients.acknowledged)  # and no key has two


def test_clients_were_told_nothing_but_yes(aftermath):
    assert aftermath.clients.surprises == []


def test_every_task_ends_well(aftermath):
    assert {row[3] for row in aftermath.tasks} == {"completed"}
    assert {row[3] for row in aftermath.chunks} == {"done"}
    assert aftermath.stray == []


def test_a_chunk_that_was_done_was_not_run_again(aftermath):
    """A claim is a failure of it (a kill in between) or its last."""
    again = [row for row in aftermath.chunks if row[2] > 0 and row[4] != row[5] + 1]

    assert again == []


def test_a_result_is_what_an_undisturbed_run_gives(aftermath):
    undisturbed = aftermath.undisturbed
    wrong = [row[:3] for row in aftermath.chunks if row[6] and row[6] != undisturbed[row[1], row[2]]]
    numbers = {}
    for _, name, number, *_ in aftermath.chunks:
        numbers[name] = max(number, numbers.get(name, 0))

    assert wrong == []
    assert numbers == {name: max(n for other, n in undisturbed if other == name) for name in numbers}


def undisturbed(daemon, clips, folder):
    """What each clip gives before the attack; then the daemon forgets them."""
    for name, sound in clips.items():
        (folder / f"{name}.wav").write_bytes(sound)
        daemon.queued(folder / f"{name}.wav", beam_size="1")
    daemon.all_over()
    found = {(row[1], row[2]): row[6] for row in daemon.rows(CHUNKS)}
    assert "ask" in json.dumps(list(found.values())).lower()
    everything = {"status": ["completed"], "older_than_hours": 0}
    assert daemon.http.post("/admin/clear", json=everything).json() == {"deleted": len(clips)}
    return found


def test_what_waited_ran_in_its_order_over_all_kills(aftermath):
    assert overtaken(aftermath) == []


def overtaken(found, tolerance=1.0):
    """Tasks that started although one before them in line had waited for a second or more.

    The second: a time is taken before its transaction waits for its turn.
    """
    place = {row[0]: (-row[2], -row[1] if found.order == "lifo" else row[1]) for row in found.tasks}
    begun = sorted((row for row in found.tasks if row[5]), key=lambda row: row[5])
    coming = sorted(begun, key=lambda row: row[4])
    waiting, gone, wrong = [], set(), []
    for row in begun:
        while coming and coming[0][4] < row[5] - tolerance:
            arrived = coming.pop(0)
            heapq.heappush(waiting, (place[arrived[0]], arrived[5], arrived[0]))
        while waiting and waiting[0][2] in gone:
            heapq.heappop(waiting)
        gone.add(row[0])
        if waiting and waiting[0][2] != row[0] and waiting[0][0] < place[row[0]] and waiting[0][1] > row[5]:
            wrong.append((row[0], waiting[0][2]))
    return wrong
