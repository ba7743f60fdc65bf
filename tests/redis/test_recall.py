"""A Redis that has lost its data is told again what a host knows; against a real one, without workers."""

import asyncio
import contextlib
import hashlib
from types import SimpleNamespace

import msgspec
import pytest
from msgspec.structs import replace

from tests.conftest import a_task
from tests.test_queue import a_plan
from whisperd import config
from whisperd.config import Config
from whisperd.counts import Counts
from whisperd.db import Database
from whisperd.events import Events
from whisperd.history import History
from whisperd.job import Finished
from whisperd.look import after
from whisperd.queue import SqliteQueue
from whisperd.redis_queue.board import Board, LostJob
from whisperd.redis_queue.boards import Boards
from whisperd.redis_queue.bridge import Bridge
from whisperd.redis_queue.checkpoints import Checkpoints
from whisperd.redis_queue.follower import Follower
from whisperd.redis_queue.intake import Intake
from whisperd.redis_queue.ledger import Ledger
from whisperd.redis_queue.link import Link
from whisperd.redis_queue.parts import Common, Own
from whisperd.redis_queue.recall import Recall
from whisperd.redis_queue.reports import Reports
from whisperd.redis_queue.shared_queue import SharedQueue
from whisperd.redis_queue.storage import Storage
from whisperd.routes.interactive import finished
from whisperd.spool import Spool
from whisperd.task import PLAN, Audio, Change, Detection, QueueAway, Segment, State, TaskNotFound
from whisperd.transcript import Transcript
from whisperd.usage import UsageQuery

LOCK_SECONDS = 2.0


class Host:
    """All of a host that knows of the shared queue, but for what works by itself."""

    def __init__(self, folder, db, settings):
        self.config, events = settings, Events()
        self.link = Link(settings.redis)
        theirs = settings.redis
        self.boards = Boards(theirs, lambda name: Board(self.link, theirs, (1, 1), name))
        self.board = self.boards.each()[theirs.queue]
        self.storage = Storage(settings)
        self.counts, self.history = Counts(), History(db)
        self.local = SqliteQueue(db, events, counts=self.counts)
        own = Own(self.local, Ledger(db), events, Spool(folder / "spool", max_bytes=10**6))
        common = self.common = Common(
            self.boards, self.storage, Checkpoints(self.storage, own.ledger, events)
        )
        self.own, self.ledger, self.spool = own, own.ledger, own.spool
        self.holds = set()  # tasks
        self.queue = SharedQueue(own, common, lambda task_id: task_id in self.holds, 3600)
        self.held = {}
        self.recall = Recall(own, common, lambda: self.held, LOCK_SECONDS)
        self.follower = Follower(self.boards, own.ledger, events, lambda task_id: False)

    async def submits(self, **fields):
        new = a_task(**fields)
        self.spool.audio(new.id).write_bytes(b"a sound")
        task, _ = await self.queue.submit(new)
        return task.id

    async def takes(self):
        """As the bridge does: the first job of those that wait."""
        taken = await self.board.take()
        self.held[taken.job.id] = taken.job
        return taken.job

    async def works_until(self, condition, slots=1):
        """What `condition` returns, once it is there; so long this host takes jobs, and has no workers."""

        async def is_there(model):
            return True

        intake = Intake(self.own, self.storage, None, is_there, self.config)
        bridge = Bridge(self.own, self.common, intake, lambda: slots, 0.5)
        working = asyncio.create_task(bridge.run())
        try:
            async with asyncio.timeout(30):
                while True:
                    with contextlib.suppress(TaskNotFound):
                        return await condition()
                    await asyncio.sleep(0.02)
        finally:
            working.cancel()
            await asyncio.wait([working])

    async def remembers(self):
        return [job.id for job in await self.ledger.submissions("", 100)]

    async def finds_redis(self):
        """Until it is asked with success."""
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(QueueAway):
                    return await self.board.identify()
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def a_host(folder, redis):
    folder.mkdir(exist_ok=True)
    (folder.parent / "shared").mkdir(exist_ok=True)
    theirs = config.Redis(
        url=redis.url,
        storage=str(folder.parent / "shared"),
        lock_seconds=LOCK_SECONDS,
        stalled_seconds=0.5,
    )
    async with Database(folder / "q.db") as db:
        host = Host(folder, db, Config(redis=theirs))
        try:
            await host.finds_redis()
            yield host
        finally:
            await host.link.close()


@pytest.fixture
def body(tmp_path, redis):
    """Runs an async test with a host."""

    def run(test):
        async def main():
            async with a_host(tmp_path / "host", redis) as host:
                await test(host)

        asyncio.run(main())

    return run


async def comes_back_empty(redis, host):
    redis.stop()
    redis.forget()
    await asyncio.to_thread(redis.start)
    await host.finds_redis()


def test_a_job_at_work_is_put_back_under_its_lock_and_ends_as_ever(body, redis):
    async def test(host):
        task_id = await host.submits()
        job = await host.takes()
        await comes_back_empty(redis, host)
        assert await host.board.beat(job) == "gone"

        await host.recall.look()

        assert (await host.board.look(task_id)).state == "active"
        assert await host.board.beat(job) == "held"
        await host.board.complete(job, {"words": 1})
        assert (await host.board.look(task_id)).state == "completed"

    body(test)


def test_what_waits_is_added_again_with_its_priority_and_its_age(body, redis):
    async def test(host):
        ids = [await host.submits(priority=priority) for priority in (3, 9)]
        before = [await host.queue.get(task_id) for task_id in ids]
        await comes_back_empty(redis, host)
        with pytest.raises(TaskNotFound):
            await host.queue.get(ids[0])

        await host.recall.look()

        assert [await host.queue.get(task_id) for task_id in ids] == before
        assert [(await host.board.take()).job.id for _ in ids] == ids[::-1]

    body(test)


def test_what_the_last_start_was_at_work_on_is_put_back_by_the_first_look_of_the_next(body, redis):
    async def test(host):
        task_id = await host.submits()
        job = await host.takes()
        await host.local.take(a_task(id=task_id), job)
        host.held.clear()  # as it is until the bridge has read what is written
        await comes_back_empty(redis, host)

        await host.recall.look()

        assert await host.board.beat(job) == "held"

    body(test)


def test_an_end_that_is_told_before_the_look_is_told_of_a_job_that_is_put_back(body, redis):
    async def test(host):
        task_id = await host.submits()
        task = await host.queue.get(task_id)
        job = await host.takes()
        await comes_back_empty(redis, host)

        reports = Reports(host.boards, host.storage, host.local, host.ledger)
        await reports.tell(job, msgspec.structs.replace(task, state=State.CANCELLED))

        assert (await host.board.look(task_id)).state == "failed"

    body(test)


def test_what_is_at_work_is_not_added_a_second_time_by_who_submitted_it(body, redis, tmp_path):
    async def test(host):
        async with a_host(tmp_path / "worker", redis) as worker:
            task_id = await host.submits()
            job = await worker.takes()
            await comes_back_empty(redis, host)
            await worker.finds_redis()

            await asyncio.gather(host.recall.look(), worker.recall.look())

            assert await worker.board.beat(job) == "held"
            assert await host.board.take() is None
            assert await host.remembers() == [task_id]

    body(test)


def test_who_comes_back_when_another_has_begun_its_job_anew_has_lost_it(body, redis, tmp_path):
    async def test(host):
        async with a_host(tmp_path / "other", redis) as other:
            await host.submits()
            job = await host.takes()
            await comes_back_empty(redis, host)
            await other.finds_redis()
            data = (await host.ledger.submissions("", 1))[0]
            await other.board.add(data.id, "transcription", data.data, **data.options)
            await other.takes()
            await other.board.hand_back(other.held[job.id], 0)
            await asyncio.sleep(0)
            await other.takes()

            await host.recall.look()

            assert await host.board.beat(job) == "lost"
            with pytest.raises(LostJob):
                await host.board.complete(job, {})

    body(test)


def test_what_has_its_transcript_is_not_added_again(body, redis):
    async def test(host):
        task_id = await host.submits()
        await host.storage.keep_result(task_id, b"{}")
        await comes_back_empty(redis, host)

        await host.recall.look()

        assert await host.board.look(task_id) is None
        assert await host.remembers() == []

    body(test)


def test_what_the_same_redis_does_not_know_was_removed_and_stays_so(body, redis):
    async def test(host):
        task_id = await host.submits()
        redis.cli("del", f"bull:transcription:{task_id}")
        redis.cli("zrem", "bull:transcription:prioritized", task_id)

        await host.recall.look()

        assert await host.board.look(task_id) is None
        assert await host.remembers() == []

    body(test)


def test_a_redis_that_loses_its_data_during_a_look_is_looked_at_again(body, redis):
    async def test(host):
        task_id = await host.submits()
        host.link.server = ""
        looking = asyncio.create_task(Recall(host.own, host.common, dict, 5.0).look())
        async with asyncio.timeout(30):
            while not host.link.server:  # noqa: ASYNC110 - it signals nothing
                await asyncio.sleep(0.01)
        await comes_back_empty(redis, host)

        with pytest.raises(QueueAway):
            await looking
        assert await host.remembers() == [task_id]
        await host.recall.look()
        assert (await host.queue.get(task_id)).state is State.QUEUED

    body(test)


def test_a_redis_that_lost_its_data_after_the_look_at_the_start_is_told_again_too(body, redis):
    async def test(host):
        removed = await host.submits()
        redis.cli("del", f"bull:transcription:{removed}")
        looking = asyncio.create_task(host.recall.run())
        async with asyncio.timeout(60):
            while await host.remembers():  # noqa: ASYNC110 - the look at the start, which signals nothing
                await asyncio.sleep(0.02)
            task_id = await host.submits()
            await comes_back_empty(redis, host)

            while await host.board.look(task_id) is None:  # noqa: ASYNC110 - it signals nothing
                await asyncio.sleep(0.02)
        looking.cancel()

    body(test)


def test_what_ended_need_not_be_remembered(body, redis):
    async def test(host):
        ids = [await host.submits() for _ in range(3)]
        following = asyncio.create_task(host.follower.run())
        async with asyncio.timeout(30):
            while "cmd=xread" not in redis.cli("client", "list"):  # noqa: ASYNC110 - it signals nothing
                await asyncio.sleep(0.02)
        await host.board.cancel(ids[0])
        async with asyncio.timeout(30):
            while await host.remembers() != ids[1:]:  # noqa: ASYNC110 - it signals nothing
                await asyncio.sleep(0.02)
        following.cancel()
        await host.board.cancel(ids[1])  # which nobody tells it of

        await host.recall.look()

        assert await host.remembers() == ids[2:]

    body(test)


def test_what_is_retried_is_remembered_again(body, redis):
    async def test(host):
        task_id = await host.submits(priority=3)
        await host.queue.cancel(task_id)
        await host.recall.look()
        assert await host.remembers() == []

        await host.queue.retry(task_id)
        before = await host.queue.get(task_id)
        await comes_back_empty(redis, host)
        await host.recall.look()

        assert await host.queue.get(task_id) == before

    body(test)


def test_of_a_task_that_another_host_completed_no_old_try_is_shown(body):
    async def test(host):
        task_id = await host.submits()
        await host.local.take(a_task(id=task_id), await host.takes())
        await host.local.plan(await host.local.claim(), a_plan())
        await host.local.finish(await host.local.claim(), [Segment(start=0, end=1, text="an old try")])
        assert await host.queue.segments(task_id) == []

        host.holds = {task_id}
        (_, shown), *_ = await host.queue.segments(task_id)
        assert shown.text == "an old try"

        host.holds = set()
        task = await host.local.get(task_id)
        transcript = Transcript(task=task, segments=(Segment(start=0, end=2, text="the transcript"),))
        await host.storage.keep_result(task_id, msgspec.json.encode(transcript))
        assert [said.text for _, said in await host.queue.segments(task_id)] == ["the transcript"]

    body(test)


def test_who_waits_for_a_task_that_another_host_has_done_hears_of_that_end(body):
    async def test(host):
        task_id = await host.submits()
        job = await host.takes()
        await host.local.take(a_task(id=task_id), job)
        host.holds = {task_id}
        here = SimpleNamespace(events=host.own.events, queue=host.queue)
        waiting = asyncio.create_task(finished(here, task_id, None))
        await asyncio.sleep(0)
        assert (await host.queue.get(task_id)).state is State.QUEUED
        await host.board.complete(job, {"words": 1})

        assert await host.local.drop(task_id, job)

        assert (await waiting).state is State.COMPLETED

    body(test)


def test_a_task_that_went_to_another_host_is_no_end_and_no_cancel_here(body):
    async def test(host):
        task_id = await host.submits()
        job = await host.takes()
        with host.own.events.subscribe(task_id) as heard:
            await host.local.take(a_task(id=task_id), job)
            await host.local.claim()
            await host.local.drop(task_id, job)

            told = [await heard.next(10) for _ in range(3)]
        assert [(event.kind, event.task.state) for event in told] == [
            ("task", State.QUEUED),
            ("task", State.PROCESSING),
            ("left", State.PROCESSING),
        ]
        ended = host.counts.registry.get_sample_value("whisperd_tasks_ended_total", {"state": "cancelled"})
        (usage,) = await host.history.usage(UsageQuery(first="2000-01-01", last="2999-12-31", by=()))
        assert (ended, usage.cancelled) == (0, 0)

    body(test)


def test_what_others_have_finished_of_a_job_is_not_heard_again_though_it_counts_as_new(body, tmp_path):
    async def test(host):
        a_sound = Audio(name="a.wav", size=7, sha256=hashlib.sha256(b"a sound").hexdigest())
        task_id = await host.submits(audio=a_sound)
        kept = tmp_path / "shared" / "checkpoints" / task_id / "f"
        kept.mkdir(parents=True)
        done = Finished(segments=(Segment(start=0, end=1, text="from another host"),))
        (kept / str(PLAN)).write_bytes(msgspec.json.encode(a_plan().cuts))
        (kept / "1").write_bytes(msgspec.json.encode(done))

        task = await host.works_until(lambda: host.local.get(task_id))

        assert task.progress == 0.5

    body(test)


def test_what_was_here_before_the_queue_was_shared_is_shown_while_it_runs(body):
    async def test(host):
        task, _ = await host.local.submit(a_task())
        await host.local.plan(await host.local.claim(), a_plan())
        await host.local.finish(await host.local.claim(), [Segment(start=0, end=1, text="so far")])

        assert [said.text for _, said in await host.queue.segments(task.id)] == ["so far"]

    body(test)


def test_a_look_from_before_the_queue_was_shared_is_cancelled_and_runs_again_here(body):
    async def test(host):
        new = a_task(id="old")
        await host.local.submit(replace(new, then=after(new, "old-risk", Detection())))

        assert (await host.queue.cancel("old-risk")).state is State.CANCELLED
        assert (await host.queue.retry("old-risk")).state is State.QUEUED
        assert (await host.queue.change("old-risk", Change(priority=5))).priority == 5

    body(test)


def test_a_number_at_work_is_not_given_to_the_next_job(body, redis):
    async def test(host):
        await host.board.add(None, "transcribe", {"n": 1}, priority=1)
        job = await host.takes()
        await comes_back_empty(redis, host)
        await host.recall.look()

        await host.board.add(None, "transcribe", {"n": 2}, priority=1)

        assert job.id == "1"
        assert (await host.board.take()).job.id == "2"

    body(test)


def test_an_id_that_only_looks_like_a_number_is_not_counted_up_to(body, redis):
    async def test(host):
        await host.board.add("1e3", "transcribe", {"n": 1}, priority=1)
        job = await host.takes()
        await comes_back_empty(redis, host)
        await host.recall.look()

        await host.board.add(None, "transcribe", {"n": 2}, priority=1)

        assert job.id == "1e3"
        assert (await host.board.take()).job.id == "1"

    body(test)


def test_after_a_crash_of_redis_all_is_there_that_it_had_acknowledged(body, redis):
    async def test(host):
        ids = [await host.submits() for _ in range(20)]
        redis.kill()
        await asyncio.to_thread(redis.start)
        await host.finds_redis()

        assert [(await host.queue.get(task_id)).state for task_id in ids] == [State.QUEUED] * 20

    body(test)


def test_locks_that_ran_out_while_redis_was_away_are_for_their_holders(body, redis, tmp_path):
    async def test(host):
        async with a_host(tmp_path / "other", redis) as other:
            await host.submits()
            job = await host.takes()
            await asyncio.sleep(LOCK_SECONDS)  # Redis's own clock; before, nobody looks for stalled jobs
            await host.board.beat(job)
            await other.board.sweep()  # it looks next time whether this one was left
            redis.stop()
            await asyncio.sleep(LOCK_SECONDS + 0.5)
            await asyncio.to_thread(redis.start)
            await other.finds_redis()
            await other.board.sweep()

            assert redis.cli("exists", f"bull:transcription:{job.id}:lock") == "0"
            await host.finds_redis()
            assert await host.board.beat(job) == "held"

    body(test)


def test_a_host_that_takes_what_it_has_just_taken_in_keeps_the_audio_that_it_has_fetched(body):
    async def test(host):
        add = host.boards.add

        async def added_and_taken(job_id, *args, **options):
            await add(job_id, *args, **options)
            assert not host.spool.has_audio(job_id)
            host.spool.audio(job_id).write_bytes(b"fetched")

        host.boards.add = added_and_taken
        task_id = await host.submits()

        assert host.spool.has_audio(task_id)

    body(test)
