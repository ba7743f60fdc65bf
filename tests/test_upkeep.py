"""The jobs of a running daemon, on a real database, with a schedule that the test drives."""

import asyncio
import time

import pytest

from tests.conftest import a_task
from whisperd.config import Config, with_values
from whisperd.machine import machine
from whisperd.upkeep import Upkeep


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
        jobs = upkeep._jobs()
        back_up = jobs["backup"][0]
        await back_up()
        first, taken_at = parts.backups.last, parts.backups.current_at

        await back_up()

        assert parts.backups.last is first
        assert parts.backups.current_at > taken_at

        await parts.queue.submit(a_task())
        await back_up()

        assert parts.backups.last.tasks == 1

    run(body)


def test_a_backup_that_somebody_removed_is_made_again(run):
    async def body(upkeep, parts):
        back_up = upkeep._jobs()["backup"][0]
        await back_up()
        parts.backups.last.path.unlink()

        await back_up()

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


def test_a_clock_that_is_set_does_not_stop_the_schedule(run):
    """APScheduler waits for a time of day: set back by a day, its next backup would be a day away."""

    async def body(upkeep, parts):
        jobs = upkeep._scheduler
        with upkeep.scheduled():
            for job in jobs.get_jobs():
                job.modify(next_run_time=job.next_run_time.replace(year=2100))

            upkeep.reschedule()

            soon = time.time() + 1000
            assert all(job.next_run_time.timestamp() < soon for job in jobs.get_jobs())

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
