"""/admin: backups, the sweep, clearing, pausing."""

import pytest

from tests.http_server import LEASE_SECONDS, the_error
from whisperd import archive
from whisperd.archive import BackupError
from whisperd.backup import Copies
from whisperd.task import PLAN, Problem, StorageFull, StorageReadOnly

HOUR = 3600.0
BOOM = Problem("worker_crashed", "boom")


def test_a_backup_is_taken_when_asked_for(with_server):
    async def body(server):
        await server.submit()
        answer = await server.client.post("/admin/backup")
        backup = answer.json()

        assert answer.status_code == 200
        assert (backup["tasks"], backup["verified"], backup["reason"]) == (1, True, "manual")
        assert backup["bytes"] > 0
        assert 0 < backup["seconds"] < 60
        assert archive.verify(server.services.backups.list()[0].path).tasks == 1
        assert backup["path"].endswith(backup["name"])

    with_server(body)


def test_backups_are_listed_newest_first(with_server):
    async def body(server):
        assert (await server.get("/admin/backups")).json() == {"backups": [], "elsewhere": None}
        first, second = [(await server.client.post("/admin/backup")).json() for _ in range(2)]
        listed = (await server.get("/admin/backups")).json()["backups"]

        assert [backup["name"] for backup in listed] == [second["name"], first["name"]]
        assert set(listed[0]) == set(first)
        assert listed[0]["taken_at"].endswith("Z")
        assert not listed[0]["restored"]

    with_server(body)


def test_the_copies_elsewhere_are_told_with_the_backups(with_server):
    async def body(server):
        assert (await server.get("/admin/backups")).json()["elsewhere"] is None
        server.services.copies = lambda: Copies("b.zst", 60.0, "it is away", "it is away", 61.5, behind=True)

        assert (await server.get("/admin/backups")).json()["elsewhere"] == {
            "last": "b.zst",
            "last_at": "1970-01-01T00:01:00.000Z",
            "error": "it is away",
            "error_at": "1970-01-01T00:01:01.500Z",
            "behind": True,
        }

    with_server(body)


def test_a_broken_backup_is_listed_as_one(with_server):
    async def body(server):
        await server.client.post("/admin/backup")
        (backup,) = server.services.backups.list()
        backup.path.write_bytes(backup.path.read_bytes()[:-1])
        (listed,) = (await server.get("/admin/backups")).json()["backups"]

        assert not listed["verified"]
        assert listed["problem"]

    with_server(body)


def test_a_folder_of_backups_that_cannot_be_read_is_said_with_what_to_do(with_server):
    async def body(server):
        server.services.backups.folder.touch()  # a file in its place
        listed = await server.get("/admin/backups")
        taken = await server.client.post("/admin/backup")

        for answer in (listed, taken):
            assert the_error(answer) == (503, "backup_failed", None)
            assert "backup.folder" in answer.json()["error"]["message"]
        assert (await server.get("/health")).status_code == 200

    with_server(body)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StorageFull("no disk space is left for the backup"), 507, "storage_full"),
        (StorageReadOnly("the database cannot be written"), 507, "storage_read_only"),
        (BackupError("the disk gave back something else"), 503, "backup_failed"),
    ],
)
def test_a_backup_that_fails_says_why(with_server, error, status, code):
    async def body(server):
        async def fails():
            raise error

        server.services.back_up = fails
        answer = await server.client.post("/admin/backup")

        assert the_error(answer) == (status, code, None)
        assert answer.json()["error"]["message"] == str(error)

    with_server(body)


def test_a_sweep_counts_the_tasks_that_it_queues_again_and_those_that_fail(with_server, clock):
    async def body(server):
        await server.submit(max_retries=0)
        await server.queue.claim()
        await server.submit()
        await server.plan(2)
        assert [(await server.queue.claim()).number for _ in range(2)] == [1, 2]
        quiet = await server.client.post("/admin/cleanup-stuck-tasks")
        clock.now += LEASE_SECONDS + 1
        answer = await server.client.post("/admin/cleanup-stuck-tasks")

        assert quiet.json() == {"requeued": 0, "failed": 0}
        assert answer.json() == {"requeued": 1, "failed": 1}

    with_server(body, now=clock)


async def clear(server, states, hours):
    return await server.client.post("/admin/clear", json={"status": states, "older_than_hours": hours})


def test_clearing_takes_old_tasks_with_their_audio(with_server, clock):
    async def body(server):
        old = await server.completed()
        clock.now += 2 * HOUR
        new = await server.completed()
        await server.submit()
        await server.queue.fail(await server.queue.claim(), BOOM, final=True)

        assert (await clear(server, ["completed"], 1)).json() == {"deleted": 1}
        assert (await server.get(f"/tasks/{old['task_id']}")).status_code == 404
        assert not server.spool.audio(old["task_id"]).exists()
        assert server.spool.audio(new["task_id"]).exists()
        assert (await server.left())["task"] == 2

    with_server(body, now=clock)


def test_nothing_that_is_not_over_can_be_cleared(with_server):
    async def body(server):
        waiting = await server.submit()
        running = await server.submit()
        chunk = await server.queue.claim()

        assert (chunk.task.id, chunk.number) == (running["task_id"], PLAN)
        assert (await clear(server, ["completed", "failed", "cancelled"], 0)).json() == {"deleted": 0}
        for state in ("queued", "processing"):
            assert the_error(await clear(server, [state], 0)) == (422, "invalid_field", "status")
        assert (await server.left())["task"] == len([waiting, running])

    with_server(body)


def test_clearing_what_is_older_than_no_time_takes_all_though_the_clock_was_set_back(with_server, clock):
    async def body(server):
        for _ in range(3):
            await server.completed()
        clock.now -= 24 * HOUR

        assert (await clear(server, ["completed"], 0.5)).json() == {"deleted": 0}
        assert (await clear(server, ["completed"], 0)).json() == {"deleted": 3}

    with_server(body, now=clock)


def test_more_than_one_batch_is_cleared(with_server):
    async def body(server):
        ids = [(await server.post_json()).json()["task_id"] for _ in range(3)]
        for task_id in ids:
            await server.queue.cancel(task_id)
        one_by_one, server.queue.clear = server.queue.clear, None
        server.queue.clear = lambda states, before, limit: one_by_one(states, before, limit=1)

        assert (await clear(server, ["cancelled"], 0)).json() == {"deleted": 3}

    with_server(body)


def test_what_is_finished_while_others_are_cleared_stays(with_server):
    async def body(server):
        for _ in range(3):
            await server.queue.cancel((await server.submit())["task_id"])
        late = (await server.submit())["task_id"]
        clear_all = server.queue.clear

        async def clear_one(states, before, limit):
            gone = await clear_all(states, before, 1)
            if (await server.task(late))["status"] == "queued":
                await server.queue.cancel(late)
            return gone

        server.queue.clear = clear_one

        assert (await clear(server, ["cancelled"], 0)).json() == {"deleted": 3}
        assert (await server.task(late))["status"] == "cancelled"

    with_server(body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"older_than_hours": 1}, "status"),
        ({"status": ["completed"]}, "older_than_hours"),
        ({"status": [], "older_than_hours": 1}, "status"),
        ({"status": "completed", "older_than_hours": 1}, "status"),
        ({"status": ["completed", 5], "older_than_hours": 1}, "status"),
        ({"status": ["completed"], "older_than_hours": -1}, "older_than_hours"),
        ({"status": ["completed"], "older_than_hours": "1"}, "older_than_hours"),
        ({"status": ["completed"], "older_than_hours": None}, "older_than_hours"),
        ({"status": ["completed"], "older_than_hours": 1, "hours": 1}, "hours"),
    ],
)
def test_a_clearing_that_is_not_said_clearly_is_refused(with_idle_server, body, param):
    async def check(server):
        answer = await server.client.post("/admin/clear", json=body)

        status, code, named = the_error(answer)
        assert (status, named) == (422, param)
        assert code in ("invalid_field", "unknown_field", "missing_field")

    with_idle_server(check)


def test_a_wrong_state_to_clear_is_told_the_right_ones_and_a_missing_field_its_name(with_idle_server):
    async def check(server):
        wrong = await clear(server, ["queued"], 1)
        missing = await server.client.post("/admin/clear", json={"status": ["completed"]})

        assert wrong.json()["error"]["message"] == "must be one of completed, failed, cancelled"
        assert missing.json()["error"]["message"] == "older_than_hours has to be given"

    with_idle_server(check)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"older_than_hours=1"])
def test_a_body_that_is_no_json_object_is_refused(with_idle_server, content):
    async def check(server):
        answer = await server.client.post("/admin/clear", content=content)

        assert the_error(answer) == (400, "malformed_json", None)

    with_idle_server(check)


def test_the_pool_is_paused_and_goes_on(with_server):
    async def body(server):
        for _ in range(2):  # a second time changes nothing
            assert (await server.client.post("/admin/pause")).json() == {"paused": True}
        assert (await server.get("/stats")).json()["paused"]
        assert server.services.pool.paused
        assert (await server.post()).status_code == 202

        assert (await server.client.post("/admin/resume")).json() == {"paused": False}
        assert not (await server.get("/stats")).json()["paused"]

    with_server(body)


@pytest.mark.parametrize("path", ["backup", "cleanup-stuck-tasks", "clear", "pause", "resume", "undrain"])
def test_what_changes_something_is_not_done_by_a_link(with_idle_server, path):
    async def body(server):
        answer = await server.get(f"/admin/{path}")

        assert the_error(answer) == (405, "method_not_allowed", None)
        assert answer.headers["allow"] == "POST"

    with_idle_server(body)


def test_a_page_of_another_site_may_not_clear(with_idle_server):
    async def body(server):
        body, origin = {"status": ["completed"], "older_than_hours": 0}, {"Origin": "https://evil.example"}
        answer = await server.client.post("/admin/clear", json=body, headers=origin)

        assert answer.status_code == 403

    with_idle_server(body)
