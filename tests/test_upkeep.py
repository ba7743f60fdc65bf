"""The jobs of a running daemon, on a real database, with a schedule that the test drives."""

import asyncio
import time

import pytest

from tests.conftest import a_task
from whisperd import gpu
from whisperd.clock import Clock
from whisperd.config import Config, with_values
from whisperd.machine import machine
from whisperd.minutes import Minutes
from whisperd.task import QueueFull, StorageFull
from whisperd.upkeep import Upkeep

DAY = 86_400


@pytest.fixture
def run(tmp_path, weights):
    """Run an async test body with an Upkeep and the machine it keeps."""

    def run(body, **values):
        folders = {"storage.data_dir": str(tmp_path / "data"), "storage.models_dir": str(weights)}
        config = with_values(Config(), {**folders, **values})

        async def main():
            async with machine(config) as parts:
                await body(Upkeep(parts), parts)

        asyncio.run(main())

    return run


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for knows of no event
            await asyncio.sleep(0.01)


def test_what_has_changed_is_backed_up_on_its_interval(run):
    async def body(upkeep, parts):
        with upkeep.scheduled():
            await until(lambda: parts.backups.last)

        assert parts.backups.last.reason == "interval"

    run(body, **{"backup.interval_seconds": 1})


def test_an_idle_daemon_writes_no_second_backup_and_its_first_does_not_grow_old(run):
    async def body(upkeep, parts):
        await upkeep.back_up("interval")
        first, taken_at = parts.backups.last, parts.backups.current_at

        await upkeep.back_up("interval")

        assert parts.backups.last is first
        assert parts.backups.current_at > taken_at

    run(body)


def test_a_daemon_that_did_something_backs_it_up(run):
    async def body(upkeep, parts):
        await upkeep.back_up("interval")
        await parts.queue.submit(a_task())

        await upkeep.back_up("interval")

        assert parts.backups.last.tasks == 1

    run(body)


def test_a_backup_that_somebody_removed_is_made_again(run):
    async def body(upkeep, parts):
        await upkeep.back_up("interval")
        parts.backups.last.path.unlink()

        await upkeep.back_up("interval")

        assert parts.backups.last.path.exists()

    run(body)


def test_what_a_lost_database_still_holds_goes_into_a_backup_once(run):
    async def body(upkeep, parts):
        await parts.queue.submit(a_task())
        (parts.config.data_dir / "whisperd.db-wal").unlink()

        await upkeep.watch_the_files()

        assert (parts.backups.last.reason, parts.backups.last.tasks) == ("emergency", 1)
        assert "whisperd.db-wal" in parts.db.broken

    run(body)


class Wall:
    """A wall clock that somebody sets."""

    def __init__(self):
        self.set_by = 0.0

    def __call__(self):
        return time.time() + self.set_by


def test_a_clock_that_is_set_does_not_move_the_schedule(run):
    """APScheduler waits for a time of day: set back by a day, its next backup would be a day away."""

    async def body(upkeep, parts):
        parts.clock = Clock(wall := Wall())
        with upkeep.scheduled():
            due = {job.id: job.next_run_time.timestamp() for job in upkeep._scheduler.get_jobs()}
            following = asyncio.create_task(upkeep.follow_the_clock())
            wall.set_by = DAY
            await until(lambda: upkeep._scheduler.get_job("sweep").next_run_time.timestamp() > due["sweep"])
            following.cancel()

            for job in upkeep._scheduler.get_jobs():
                assert abs(job.next_run_time.timestamp() - (due[job.id] + DAY)) < 1

    run(body)


def test_a_reload_moves_only_the_job_whose_interval_changed(run):
    """A reload each minute would otherwise keep every longer interval from ever ending."""

    async def body(upkeep, parts):
        with upkeep.scheduled():
            due = {job.id: job.next_run_time for job in upkeep._scheduler.get_jobs()}
            parts.config = with_values(parts.config, {"backup.interval_seconds": 7})
            upkeep.reload()

            moved = {job.id for job in upkeep._scheduler.get_jobs() if job.next_run_time != due[job.id]}
            assert moved == {"backup"}

    run(body)


def test_the_sweep_leaves_alone_what_the_pool_holds(run):
    async def body(upkeep, parts):
        await parts.queue.submit(a_task())
        chunk = await parts.queue.claim()
        parts.clock = Clock(lambda: time.time() + DAY)  # its lease has run out long ago
        parts.pool.held = lambda: [chunk]
        assert await upkeep.sweep() == []

        parts.pool.held = list
        assert len(await upkeep.sweep()) == 1

    run(body)


def test_the_file_of_a_submission_outlives_the_first_look(run):
    async def body(upkeep, parts):
        clean = upkeep._jobs()["clean"][0]
        parts.spool.audio("arriving").touch()

        await clean()
        assert parts.spool.audio("arriving").exists()
        await clean()
        assert not parts.spool.audio("arriving").exists()

    run(body)


def test_a_reload_reaches_queue_spool_and_backups(run):
    async def body(upkeep, parts):
        values = {"queue.max_queued": 1, "http.max_upload_bytes": 7, "backup.keep_newest": 3}
        parts.reload(with_values(parts.config, {**values, "storage.min_free_mb": 2**30}))

        await parts.queue.submit(a_task())
        with pytest.raises(QueueFull):
            await parts.queue.submit(a_task())
        with pytest.raises(StorageFull):
            parts.spool.check_room()
        assert parts.backups.keep.newest == 3

    run(body)


def test_a_job_that_fails_runs_again(run):
    async def body(upkeep, parts):
        parts.backups.folder.touch()  # a file where the folder should be
        with upkeep.scheduled():
            await until(lambda: parts.backup_results["failed"])
            parts.backups.folder.unlink()
            await until(lambda: parts.backup_results["ok"])

        assert parts.backups.trouble is None

    run(body, **{"backup.interval_seconds": 1})


def test_a_minute_has_the_memory_that_is_used_on_all_gpus_if_there_are_any(run, monkeypatch):
    async def recorded(upkeep, parts, *gpus):
        monkeypatch.setattr(gpu, "memory", lambda: gpus)
        await upkeep._record()
        _, points = await Minutes(parts.db, parts.clock.now).points(1, 60)
        return points[-1]["gpu_bytes"]

    async def body(upkeep, parts):
        await parts.queue.submit(a_task())
        assert await recorded(upkeep, parts) is None
        assert await recorded(upkeep, parts, gpu.GpuMemory(0, 5, 80, 75), gpu.GpuMemory(2, 7, 80, 73)) == 12

    run(body)
