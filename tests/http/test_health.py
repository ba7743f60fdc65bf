"""/health: what it says when something is wrong, and that it takes it back."""

import asyncio
import os
import threading
import time
from types import SimpleNamespace

from tests.http_server import until
from whisperd import __version__
from whisperd.arrival import Arrival
from whisperd.backup import Copies
from whisperd.condition import Condition
from whisperd.config import with_values
from whisperd.lag import Lag
from whisperd.restarts import LATELY, Restarts
from whisperd.spool import Spool
from whisperd.task import Problem

DAY = 86_400.0


def test_all_is_well(with_idle_server):
    async def body(server):
        answer = await server.get("/health")
        view = answer.json()

        assert (answer.status_code, view["status"], view["version"]) == (200, "ok", __version__)
        assert view["uptime_seconds"] >= 0
        assert view["checks"] == {
            **{
                name: {"status": "ok", "message": None}
                for name in (
                    "database",
                    "workers",
                    "canary",
                    "model",
                    "disk",
                    "loop",
                    "backup",
                    "recovery",
                    "keys",
                )
            },
            "rules": {"status": "ok", "message": None},
            "redis": {"status": "ok", "message": "not configured"},
            "broker": {"status": "ok", "message": "not configured"},
        }
        for path in ("/health/live", "/health/ready"):
            answer = await server.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})

    with_idle_server(body)


async def health(server):
    answer = await server.get("/health")
    ready = await server.get("/health/ready")
    live = await server.get("/health/live")
    return answer.status_code, answer.json(), ready.status_code, live.status_code


def test_a_daemon_whose_workers_have_not_started_is_alive_and_not_ready(with_server):
    async def body(server):
        status, view, ready, live = await health(server)

        assert (status, view["status"], ready, live) == (503, "down", 503, 200)
        assert view["checks"]["workers"] == {"status": "down", "message": "0 of 2 workers are up"}

    with_server(body, workers=2)


def test_a_daemon_with_one_of_two_workers_is_degraded_and_ready(with_server):
    async def body(server):
        server.services.pool._slots[0]._state = "idle"  # as when its child has started
        status, view, ready, _ = await health(server)

        assert (status, view["status"], ready) == (200, "degraded", 200)
        assert view["checks"]["workers"]["message"] == "1 of 2 workers are up"

    with_server(body, workers=2)


def test_a_daemon_whose_database_failed_is_down_and_says_so(with_server):
    async def body(server):
        server.db._broken = "the database reported: disk I/O error"  # as after a commit that failed so
        status, view, ready, live = await health(server)

        assert (status, view["status"], ready, live) == (503, "down", 503, 200)
        assert view["checks"]["database"] == {"status": "down", "message": server.db.broken}

    with_server(body)


def test_a_database_that_does_not_answer_is_degraded_and_nothing_new_is_taken(with_server):
    async def body(server):
        server.services.pulse_trouble = lambda: "another program holds the database"
        status, view, ready, live = await health(server)

        assert (status, view["status"], ready, live) == (200, "degraded", 503, 200)
        assert view["checks"]["database"] == {
            "status": "degraded",
            "message": "another program holds the database",
        }

    with_server(body)


def test_a_database_that_failed_for_good_is_down_whatever_the_last_look_said(with_server):
    async def body(server):
        server.db._broken = "the database reported: disk I/O error"
        server.services.pulse_trouble = lambda: "the database does not answer"
        status, view, ready, _ = await health(server)

        assert (status, ready) == (503, 503)
        assert view["checks"]["database"]["message"] == server.db.broken

    with_server(body)


def test_a_model_that_is_gone_is_said_and_nothing_is_promised_until_it_is_back(with_server):
    async def body(server):
        server.services.config = with_values(server.config, {"workers.model": "tiny"})
        file = server.config.models_dir / "ggml-tiny.bin"
        content = file.read_bytes()
        for harm in (file.unlink, lambda: file.write_bytes(b"no model")):
            harm()
            status, view, ready, _ = await health(server)

            assert (status, view["status"], ready) == (200, "degraded", 503)
            assert "whisperd models pull tiny" in view["checks"]["model"]["message"]
            assert str(server.config.models_dir) not in view["checks"]["model"]["message"]
            file.write_bytes(content)
            assert await check(server, "model") == ("ok", None)

    with_server(body)


def test_a_full_disk_is_degraded_since_accepted_tasks_go_on(with_server):
    async def body(server):
        status, view, ready, _ = await health(server)

        assert (status, view["status"], view["checks"]["disk"]["status"]) == (200, "degraded", "degraded")
        assert ready == 503  # nothing new is accepted

    with_server(body, storage={"min_free_mb": 2**30})


def test_a_disk_that_cannot_be_written_is_degraded_and_nothing_new_is_taken(with_server, monkeypatch):
    async def body(server):
        found = os.statvfs(server.folder)
        as_it_is = {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}
        mounted = SimpleNamespace(**as_it_is | {"f_flag": found.f_flag | os.ST_RDONLY})
        monkeypatch.setattr(os, "statvfs", lambda path: mounted)
        status, view, ready, _ = await health(server)
        metrics = (await server.get("/metrics")).text

        assert (status, ready) == (200, 503)
        assert "cannot be written" in view["checks"]["disk"]["message"]
        assert "\nwhisperd_database_up 0.0\n" in metrics

    with_server(body)


def test_a_spool_that_is_gone_is_said_and_breaks_no_look(with_server):
    async def body(server):
        server.folder.rmdir()
        status, view, ready, live = await health(server)
        metrics = await server.get("/metrics")

        assert (status, view["status"], ready, live) == (503, "down", 503, 200)
        assert view["checks"]["disk"]["status"] == "down"
        assert "storage.data_dir" in view["checks"]["disk"]["message"]
        assert metrics.status_code == 200
        assert "whisperd_disk_free_bytes" not in metrics.text
        assert "\nwhisperd_database_up 1.0\n" in metrics.text

    with_server(body)


def test_the_only_worker_may_be_replaced_without_an_alarm(with_server):
    async def body(server):
        server.services.pool.ready.set()  # as when its first child has started
        status, view, ready, _ = await health(server)

        assert (status, view["status"], ready) == (200, "degraded", 200)
        assert view["checks"]["workers"]["message"] == "0 of 1 workers are up"

    with_server(body, workers=1)


def test_no_worker_for_longer_than_a_restart_takes_is_down(with_server):
    async def body(server):
        server.services.pool.ready.set()
        await health(server)
        server.services.none_up_since -= 31
        assert [(await health(server))[n] for n in (0, 2)] == [503, 503]

        server.services.pool._slots[0]._state = "idle"
        assert (await health(server))[0] == 200
        server.services.pool._slots[0]._state = "starting"  # again: its time begins anew
        assert (await health(server))[0] == 200

    with_server(body, workers=1)


def test_workers_that_have_stopped_do_not_come_back(with_server):
    async def body(server):
        server.services.pool.ready.set()
        server.services.pool._slots[0]._state = "stopped"
        status, _, ready, _ = await health(server)

        assert (status, ready) == (503, 503)

    with_server(body, workers=1)


def test_while_no_worker_can_do_a_second_of_sound_the_daemon_is_not_ready(with_server):
    async def body(server):
        server.services.pool.ready.set()
        slots = server.services.pool._slots
        for slot in slots:
            slot._state = "idle"
        for slot, expected in zip(slots, (200, 503), strict=True):
            slot.canary._failed(Problem("worker_hung", "child 7 gave no sign of life"))
            status, view, ready, _ = await health(server)
            assert (status, view["checks"]["canary"]["status"], ready) == (200, "degraded", expected)

        slots[0].canary.well()
        assert (await health(server))[2] == 200

    with_server(body, workers=2)


def test_a_daemon_that_is_stopping_is_alive_and_not_ready(with_server):
    async def body(server):
        server.services.draining = True
        _, _, ready, live = await health(server)

        assert (ready, live) == (503, 200)

    with_server(body)


async def check(server, name):
    status, view, ready, _ = await health(server)
    assert (status, ready) == (200, 200)
    assert view["status"] == view["checks"][name]["status"]
    return view["checks"][name]["status"], view["checks"][name]["message"]


def test_a_daemon_that_was_paused_is_degraded_until_somebody_resumes(with_server):
    async def body(server):
        server.services.pool.pause()
        status, message = await check(server, "workers")
        assert status == "degraded"
        assert "whisperd resume" in message

        server.services.pool.resume()
        assert await check(server, "workers") == ("ok", None)

    with_server(body)


def test_a_backup_that_failed_is_said(with_server):
    async def body(server):
        server.services.backups.trouble = "the backup failed: Input/output error"

        assert await check(server, "backup") == ("degraded", "the backup failed: Input/output error")

    with_server(body)


def test_a_copy_elsewhere_that_failed_is_said(with_server):
    async def body(server):
        server.services.copies = lambda: Copies(None, None, "the bucket is away", None, None, behind=True)

        assert await check(server, "backup") == ("degraded", "the bucket is away")

    with_server(body)


def test_a_backup_is_overdue_after_three_intervals(with_server, clock):
    async def body(server):
        await server.services.back_up()
        server.services.started_at -= DAY
        clock.now += 900
        assert await check(server, "backup") == ("ok", None)

        clock.now += 60
        verdict, message = await check(server, "backup")
        assert (verdict, message.split(":")[0]) == ("degraded", "the last backup is 16 min old")
        await server.services.back_up()
        assert await check(server, "backup") == ("ok", None)

    with_server(body, now=clock)


def test_a_daemon_that_was_off_for_long_has_time_for_its_first_backup(with_server, clock):
    async def body(server):
        assert await check(server, "backup") == ("ok", None)
        await server.services.back_up()
        clock.now += DAY
        assert await check(server, "backup") == ("ok", None)

        server.services.started_at -= 1000
        assert (await check(server, "backup"))[0] == "degraded"
        server.services.backups.last = None
        assert (await check(server, "backup"))[1].startswith("there is no backup: `whisperd backup`")

    with_server(body, now=clock)


def test_a_recovery_is_said_for_a_day(with_server):
    async def body(server):
        arrival = Arrival(Condition.TORN, "the newest backup was restored", 0.0, recovered=True)
        server.services.arrival = arrival
        assert await check(server, "recovery") == ("degraded", arrival.message)

        server.services.started_at -= DAY
        await server.services.back_up()
        assert await check(server, "recovery") == ("ok", None)

    with_server(body)


def test_a_loop_that_was_blocked_is_said_for_a_minute(with_server):
    async def body(server):
        later = 0.0
        server.services.lag = lag = Lag(now=lambda: time.monotonic() + later)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(lag.follow())
            await asyncio.sleep(0)
            assert lag.worst() == 0
            asyncio.get_running_loop().call_soon(time.sleep, 2.0)  # as a handler that computes
            await until(lambda: lag.worst() > 0.3)
            following.cancel()
        verdict, message = await check(server, "loop")
        assert verdict == "degraded"
        assert "s late" in message

        later = 61.0
        assert await check(server, "loop") == ("ok", None)

    with_server(body)


def test_workers_that_die_again_and_again_are_said_until_they_have_not_for_a_while(with_server, clock):
    async def body(server):
        pool = server.services.pool
        pool._shared.restarts = died = Restarts(clock)
        pool._slots[0]._state = "idle"
        for _ in range(20):
            died.note("memory")  # replaced for their size, as it was asked for
            died.note("cancelled")  # ended with their tasks, as CTranslate2 makes it the rule
            died.note("timeout")
        for cause in ("crashed", "crashed", "hung", "crashed", "crashed"):
            died.note(cause)
        assert await check(server, "workers") == ("ok", None)

        clock.now += LATELY - 1
        died.note("crashed")
        verdict, message = await check(server, "workers")
        assert verdict == "degraded"
        assert "6 worker processes died within 15 minutes (crashed 5, hung 1)" in message

        clock.now += 2
        assert await check(server, "workers") == ("ok", None)

    with_server(body, workers=1)


def test_no_look_at_the_disk_holds_up_the_loop(with_server, monkeypatch):
    threads = {}

    def noted(name):
        ask = getattr(Spool, name)

        def asked(spool, *given):
            threads.setdefault(name, []).append(threading.get_ident())
            return ask(spool, *given)

        monkeypatch.setattr(Spool, name, asked)

    async def body(server):
        over = (await server.submit())["task_id"]
        await server.client.delete(f"/tasks/{over}")
        for name in ("free_bytes", "has_audio", "is_read_only"):
            noted(name)
        for path in ("/health", "/health/ready", "/metrics", f"/tasks/{over}/explain"):
            assert (await server.get(path)).status_code == 200
        await server.client.post("/tasks/estimate", json={"size_bytes": 1})
        await server.client.post("/tasks/bulk", json={"action": "retry", "task_ids": [over]})

        assert {name: len(asked) for name, asked in threads.items()} == {
            "free_bytes": 5,
            "has_audio": 2,
            "is_read_only": 4,
        }
        assert threading.get_ident() not in {thread for asked in threads.values() for thread in asked}

    with_server(body)
