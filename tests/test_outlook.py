"""When tasks are thought to be over: what is measured, kept and said of it."""

import asyncio
import time

import pytest

from tests.conftest import a_task
from tests.pool import over, run_beside_a_pool, until
from tests.test_queue import a_plan, said
from whisperd import outlook as outlooks
from whisperd.aside import LITTLE
from whisperd.forecast.line import Line, Standing
from whisperd.forecast.speeds import REMEMBERED, Measurements, Speed
from whisperd.outlook import Outlook
from whisperd.task import Audio, Effort


def effort(seconds, threads=1):
    return Effort(worker=1, seconds=seconds, device="cpu", threads=threads)


async def eta(queue, outlook, task):
    task = await queue.get(task.id)
    return (await outlook.foretold([task], await queue.positions([task])))[0].eta


def thought_of(name="a.wav", size=1, seconds=None):
    return Standing(
        seq=1,
        tenant="a",
        priority=0,
        started=False,
        lined_at=0.0,
        model="tiny.en",
        name=name,
        size=size,
        seconds=seconds,
    )


def test_a_short_chunk_costs_its_window_and_one_that_loads_its_model_counts_for_nothing():
    pairs = [(audio, 1.0 + audio / 20) for audio in (2.0, 5.0, 11.0, 20.0, 28.0)] * 3
    speed = Speed([(12.0, 30.0), *pairs])

    assert speed.seconds(3.0) == pytest.approx(1.15)
    assert speed.seconds(26.0) == pytest.approx(2.3)


def test_work_that_strays_is_foretold_by_its_mean_since_a_line_takes_the_sum():
    speed = Speed([(10.0, seconds) for seconds in (1.0, 1.0, 1.0, 2.0, 2.5)] * 4)

    assert speed.seconds(10.0) == pytest.approx(1.5)
    assert speed.seconds(10.0, slow=True) == pytest.approx(2.5)


def test_work_that_goes_on_for_longer_than_usual_is_thought_to_take_what_such_work_took():
    speed = Speed([(10.0, seconds) for seconds in (1.0,) * 17 + (1.5, 10.0, 20.0)])

    assert speed.left(10.0, 0.0) == pytest.approx(speed.seconds(10.0))
    assert speed.left(10.0, 1.1) == pytest.approx(0.4)
    assert speed.left(10.0, 5.0) == pytest.approx(10.0)
    assert speed.left(10.0, 30.0) == pytest.approx(speed.seconds(10.0) / 10)
    assert speed.left(10.0, 1.1, slow=True) >= speed.left(10.0, 1.1)


def test_work_that_took_no_time_is_foretold_all_the_same():
    assert Speed([(1.0, 0.0), (2.0, 0.0)]).seconds(1.0, slow=True) == 0.0


@pytest.mark.parametrize(
    ("hours", "is_little"), [([0.002] * 32, True), ([0.002] * 33, False), ([10.0], False), ([1.0] * 4, False)]
)
def test_a_line_of_a_few_short_tasks_is_played_where_it_is_asked_for(hours, is_little):
    line = Line(now=0.0, tasks=[thought_of(seconds=3600 * length) for length in hours])
    picture = outlooks._Picture(line, Measurements().speeds(), 1, {})

    assert (picture.pieces <= LITTLE) is is_little


def test_what_was_measured_survives_a_restart(with_queue):
    async def work(queue):
        await queue.submit(a_task())
        await queue.plan(await queue.claim(), a_plan(1, seconds=10), effort(0.5))
        await queue.finish(await queue.claim(), said("one"), effort=effort(2.0))
        await queue.keep_measured()

    async def afterwards(queue):
        assert not queue.measurements.speeds().known
        await queue.remember()
        work = queue.measurements.speeds().work(thought_of(seconds=10.0))

        assert (work.plan, work.chunks, work.each, work.audio) == (0.5, 1, 2.0, 10.0)
        assert queue.measurements.unkept() == []

    with_queue(work)
    with_queue(afterwards)


def test_only_the_last_measurements_of_a_kind_count_and_only_so_many_kinds_are_kept(with_queue):
    async def body(queue):
        for number in range(100):
            task, _ = await queue.submit(a_task(name=f"a.{number}", model=f"m{number}"))
            chunk = await queue.claim()
            for _ in range(3):
                queue.measurements.planned(chunk.task, a_plan(1), effort(1.0))
            await queue.cancel(task.id)
        for _ in range(2 * REMEMBERED):
            queue.measurements.planned(chunk.task, a_plan(1), effort(1.0))
        kept = queue.measurements.unkept()

        assert len(kept) == 64
        assert max(len(one.pairs) for one in kept) == REMEMBERED

    with_queue(body)


def test_how_long_work_takes_is_thought_of_anew_once_a_twentieth_of_what_it_goes_by_is_new(with_queue):
    async def body(queue):
        await queue.submit(a_task())
        task, seen = (await queue.claim()).task, []
        for times, seconds in ((1, 2.0), (1, 4.0), (98, 3.0), (3, 6.0), (1, 6.0)):
            for _ in range(times):
                queue.measurements.planned(task, a_plan(1, seconds=10), effort(seconds))
            seen.append(queue.measurements.speeds().work(thought_of(seconds=10.0)).plan)

        assert seen[:3] == [2.0, 3.0, pytest.approx(3.0, rel=0.05)]
        assert seen[3] == seen[2] < seen[4]

    with_queue(body)


def test_the_length_of_audio_is_thought_of_by_the_bytes_of_such_files(with_queue):
    async def body(queue):
        for name, size in (("a.wav", 320_000), ("b.MP3", 80_000)):
            await queue.submit(a_task(audio=Audio(name=name, size=size, sha256="0")))
            queue.measurements.planned((await queue.claim()).task, a_plan(1), effort(1.0))
        speeds = queue.measurements.speeds()

        assert speeds.length(thought_of("long.mp3", 800_000)) == pytest.approx(100.0)
        assert speeds.length(thought_of("long.wav", 800_000)) == pytest.approx(25.0)
        assert Measurements().speeds().length(thought_of("a.xyz", 16_000)) == 1.0

    with_queue(body)


def test_an_end_is_foretold_once_a_chunk_was_measured_and_while_work_is_handed_out(tmp_path):
    async def body(queue, pool):
        outlook = Outlook(queue, pool)
        pool.pause()
        await asyncio.sleep(0)
        first, _ = await queue.submit(a_task())
        assert await eta(queue, outlook, first) is None
        pool.resume()
        await over(queue, first)
        assert await eta(queue, outlook, first) is None

        later, _ = await queue.submit(a_task(run_at=time.time() + 1000))
        outlook = Outlook(queue, pool)
        assert 990 < await eta(queue, outlook, later) < 1010
        pool.pause()
        assert await eta(queue, Outlook(queue, pool), later) is None

    run_beside_a_pool(tmp_path, body, "")


def test_who_submits_into_a_line_now_and_then_is_told_an_end_each_time(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(outlooks, "PATIENCE", 60.0)  # however busy this machine is
    monkeypatch.setattr(outlooks, "REST", 0)  # only the clock moves, not the time

    async def body(queue, pool):
        await over(queue, (await queue.submit(a_task()))[0])
        queue._now = clock
        outlook = Outlook(queue, pool, clock)
        painting = asyncio.create_task(outlook.paint())
        told = []
        for _ in range(3):
            task, _ = await queue.submit(a_task(run_at=clock.now + 1000))
            told.append((await outlook.foretold_soon(task, None)).eta)
            clock.now += outlooks.OLD + 1
        painting.cancel()

        assert [990 < eta < 1010 for eta in told] == [True, True, True]

    run_beside_a_pool(tmp_path, body, "")


def test_who_submits_waits_for_a_forecast_only_so_long_and_not_while_none_is_made(tmp_path, monkeypatch):
    async def body(queue, pool):
        await over(queue, (await queue.submit(a_task()))[0])
        outlook = Outlook(queue, pool)
        task, _ = await queue.submit(a_task(run_at=time.time() + 1000))
        assert (await outlook.foretold_soon(task, None)).eta is None  # nobody paints

        monkeypatch.setattr(outlooks, "PATIENCE", 3600.0)
        outlook._rests_until = time.monotonic() + 3600
        assert (await outlook.foretold_soon(task, None)).eta is None
        outlook._rests_until = 0.0
        pool.pause()
        assert (await outlook.foretold_soon(task, None)).eta is None
        pool.resume()
        queue.measurements = Measurements()
        assert (await outlook.foretold_soon(task, None)).eta is None

    run_beside_a_pool(tmp_path, body, "")


def test_a_forecast_that_is_old_says_nothing_but_of_what_is_next(tmp_path, clock):
    async def body(queue, pool):
        await over(queue, (await queue.submit(a_task()))[0])
        outlook = Outlook(queue, pool, clock)
        task, _ = await queue.submit(a_task())
        assert (await outlook.foretold([task], [1]))[0].eta is not None
        clock.now = outlook._forecast.now + 3600
        later, _ = await queue.submit(a_task())

        assert (await outlook.foretold_soon(later, 2)).eta is None
        assert 0 < (await outlook.foretold_soon(later, 1)).eta < 60

    run_beside_a_pool(tmp_path, body, "")


def test_how_late_it_may_be_is_played_once_for_all_who_ask(tmp_path, monkeypatch):
    monkeypatch.setattr(outlooks, "REST", 1e9)

    async def body(queue, pool):
        await over(queue, (await queue.submit(a_task()))[0])
        outlook = Outlook(queue, pool)
        pool.pause()
        tasks = [(await queue.submit(a_task()))[0] for _ in range(2)]
        pool.resume()
        first, second = await asyncio.gather(*(outlook.prospect(task, 1) for task in tasks))
        played = outlook._slow
        await outlook.prospect(tasks[0], 1)

        assert first.likely.ends <= first.late.ends
        assert second is not None
        assert played is not None
        assert outlook._slow is played

    run_beside_a_pool(tmp_path, body, "")


def test_promises_that_are_never_settled_make_room_for_later_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(outlooks, "MOST_PROMISES", 2)

    async def body(queue, pool):
        missed = []
        outlook = Outlook(queue, pool, missed=missed.append)
        for number in range(5):
            outlook.promise(f"lost-{number}", 1.0)
        following = asyncio.create_task(outlook.follow(queue._events))
        pool.pause()
        task, _ = await queue.submit(a_task())
        outlook.promise(task.id, 1000.0)
        pool.resume()
        await over(queue, task)
        await until(lambda: missed)
        following.cancel()

    run_beside_a_pool(tmp_path, body, "")


def test_what_was_promised_is_held_against_what_came(tmp_path):
    async def body(queue, pool):
        missed = []
        outlook = Outlook(queue, pool, missed=missed.append)
        following = asyncio.create_task(outlook.follow(queue._events))
        for promised in (1000.0, None):
            pool.pause()
            task, _ = await queue.submit(a_task())
            outlook.promise(task.id, promised)
            pool.resume()
            task = await over(queue, task)
        await until(lambda: missed)
        following.cancel()

        assert len(missed) == 1
        assert missed[0] > 1

    run_beside_a_pool(tmp_path, body, "")
