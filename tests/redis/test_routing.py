"""Several queues: a task goes into the one for its model and tenant, and a host takes what fits it."""

import pytest

from tests.redis.conftest import over, until
from tests.redis_server import Node
from whisperd.config import Redis as Settings
from whisperd.redis_queue.boards import Boards

ROUTES = "tenant:acme=acme"


@pytest.fixture
def elsewhere(redis):
    """Node's view of the queue of one tenant."""
    node = Node(redis, "acme")
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def api(new_host):
    return new_host(REDIS__ROLE="api", REDIS__ROUTES=ROUTES).start()


def redis_check(host):
    return host.health()["checks"]["redis"]


@pytest.mark.parametrize(
    ("model", "tenant", "queue"),
    [
        ("large", "acme", "both"),
        ("large", "other", "large"),
        ("tiny.en", "acme", "acme"),
        ("tiny.en", "other", "transcription"),
    ],
)
def test_a_task_goes_by_the_first_route_that_it_has_all_tags_of(model, tenant, queue):
    routes = {"model:large tenant:acme": "both", "model:large": "large", "tenant:acme": "acme"}
    boards = Boards(Settings(routes=routes), lambda name: name)

    assert boards.queue_for({"model": model, "tenant": tenant}) == queue


def test_a_host_takes_only_from_its_queues_and_every_host_answers_for_all(
    new_host, api, elsewhere, node, jfk
):
    ours, theirs = api.queued(jfk), api.queued(jfk, tenant="acme")
    assert elsewhere.look(theirs)["state"] == "prioritized"
    assert node.look(theirs) is None

    plain = new_host(REDIS__ROLE="worker").start()
    assert api.finished(ours)["status"] == "completed"
    assert plain.rows("select id from task") == [(ours,)]
    assert api.task(theirs)["status"] == "queued"
    assert [task["task_id"] for task in api.get("/tasks")["tasks"]] == [theirs, ours]

    new_host(REDIS__TAKE_FROM="acme").start()
    assert api.finished(theirs)["status"] == "completed"
    assert elsewhere.look(theirs)["returnvalue"]["words"] > 0


def test_of_its_queues_a_host_empties_the_first_one_first(new_host, elsewhere, submitted, node):
    host = new_host(REDIS__TAKE_FROM="acme,transcription")
    host.folder.mkdir()
    first = submitted(host, "second-in-time", priority=1)
    data = node.look(first)["data"] | {"transcriptionId": "before-it"}
    (host.shared / "audio" / "before-it").write_bytes((host.shared / "audio" / "second-in-time").read_bytes())
    urgent = elsewhere.add(data | {"s3AudioUrl": "shared://audio/before-it"}, {"priority": 9})
    host.start()

    assert over(elsewhere, urgent)["processedOn"] < over(node, first)["processedOn"]


def test_jobs_of_one_id_in_two_queues_are_two(new_host, elsewhere, submitted, node):
    host = new_host(REDIS__TAKE_FROM="acme,transcription", WORKERS__COUNT=2)
    one = submitted(host, "one")
    data = node.look(one)["data"]
    other = elsewhere.add(data | {"transcriptionId": "other"}, {"priority": 5})
    assert one == other == "1"
    host.start()

    assert over(node, one)["returnvalue"]["s3ResultUrl"].endswith("results/one.json")
    assert over(elsewhere, other)["returnvalue"]["s3ResultUrl"].endswith("results/other.json")


def test_a_task_of_another_queue_is_cancelled_changed_and_retried_by_any_host(new_host, api, elsewhere, jfk):
    task_id = api.queued(jfk, tenant="acme")

    assert api.http.patch(f"/tasks/{task_id}", json={"priority": 7}).json()["priority"] == 7
    assert elsewhere.look(task_id)["priority"] == 4
    assert api.http.delete(f"/tasks/{task_id}").json()["status"] == "cancelled"
    assert api.http.post(f"/tasks/{task_id}/retry").json()["status"] == "queued"

    new_host(REDIS__TAKE_FROM="acme").start()
    assert api.finished(task_id)["status"] == "completed"


def test_a_queue_from_which_nobody_takes_is_said_until_somebody_does(new_host, api, jfk):
    task_id = api.queued(jfk, tenant="acme")

    until(lambda: redis_check(api)["status"] == "degraded")
    assert "1 in acme" in redis_check(api)["message"]
    assert 'whisperd_redis_unserved_jobs{queue="acme"} 1.0' in api.http.get("/metrics").text

    new_host(REDIS__TAKE_FROM="acme").start()
    assert api.finished(task_id)["status"] == "completed"
    until(lambda: redis_check(api)["status"] == "ok")


@pytest.mark.parametrize(
    "settings", [{"REDIS__QUEUE": "a:b"}, {"REDIS__ROUTES": "gpu=large"}, {"REDIS__TAKE_FROM": "one two"}]
)
def test_what_can_be_no_queue_and_no_tag_is_refused(new_host, settings):
    status, said = new_host(**settings).refused()

    assert status == 2
    assert "expected" in said
