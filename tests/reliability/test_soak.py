"""Promise 19: thousands of tasks later it is as large as before: memory, open files, spool, processes."""

import os
from pathlib import Path

import pytest

from tests.reliability.clients import Clients

pytestmark = pytest.mark.timeout(2400)
WORKER_MB = 700
MIX = {"silence": 950, "half a second": 40, "words": 9, "sentence": 1}
FROM_OFF = 400  # tasks until caches are full: statements, buffers, arenas of the allocator


def test_memory_files_and_spool_are_back_where_they_began(daemons, clips, size, chance, report):
    daemon = daemons(WORKERS__NICE=0, LOGGING__LEVEL="warning").start()
    through(daemon, clips, size(20, FROM_OFF), chance)
    assert daemon.http.post("/admin/backup").status_code == 200  # and what a backup leaves behind once
    before = measured(daemon)
    through(daemon, clips, size(100, 10_000), chance)
    after = measured(daemon)
    growth = (after["rss"] - before["rss"]) / 2**20
    report.update(
        tasks=daemon.get("/stats")["completed"],
        daemon_mb=f"{before['rss'] / 2**20:.1f}->{after['rss'] / 2**20:.1f}",
        workers_mb=[round(rss / 2**20) for rss in after["workers"]],
        files=f"{before['files']}->{after['files']}",
        seed=chance.name,
    )

    assert growth <= 10
    assert max(after["workers"]) <= (WORKER_MB + 50) * 2**20
    assert after["files"] <= before["files"] + 2  # a keep-alive connection of ours may be among them
    assert after["zombies"] == 0
    assert after["unfinished"] == []
    assert after["audio"] == daemon.get("/stats")["total"]
    assert daemon.stop() == 0


def through(daemon, clips, number, chance):
    """So many tasks in, by eight clients, and all of them to their end."""
    with Clients(daemon, clips, MIX, pause=0.01, number=8, seed=chance.random()) as clients:
        daemon.until(lambda: len(clients.acknowledged) >= number, 1200)
    daemon.all_over(1200)
    assert clients.surprises == []
    assert daemon.get("/stats")["failed"] == 0


def measured(daemon):
    pid = daemon.process.pid
    return {
        "rss": daemon.rss_bytes(),
        "workers": [worker["rss_bytes"] for worker in daemon.workers()],
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "zombies": sum(" Z " in stat(child) for child in children(pid)),
        "unfinished": [name for name in daemon.spool() if not name.endswith(".audio")],
        "audio": len(daemon.spool()),
    }


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def stat(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
