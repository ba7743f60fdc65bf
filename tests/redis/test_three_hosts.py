"""Three hosts, one Redis: what is submitted to all and by Node is done once, in order, and shown by each."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.listeners import silence
from tests.redis.conftest import until

HOSTS = 3


@pytest.fixture
def hosts(new_host):
    """They take requests, and no jobs yet."""
    hosts = [new_host().start() for _ in range(HOSTS)]
    for host in hosts:
        host.http.post("/admin/pause").raise_for_status()
    return hosts


@pytest.fixture
def each(request):
    """How many tasks of each of four who submit: of silence, which costs no more than what is to be shown."""
    return 750 if request.config.getoption("--long") else 75


def by_node(host, submitted, path, tasks):
    """Added by Node's BullMQ: {job: (task, our priority)}."""
    jobs = [(f"node-{n}", 1 + n % 11) for n in range(tasks)]
    return {submitted(host, name, path, priority=theirs): (name, 11 - theirs) for name, theirs in jobs}


def by_http(host, path, tasks):
    ids = [(host.queued(path, priority=n % 11), n % 11) for n in range(tasks)]
    return {task_id: (task_id, priority) for task_id, priority in ids}


@pytest.mark.timeout(1200)
def test_each_task_is_done_once_by_priority_and_every_host_answers_for_all(
    hosts, node, submitted, each, tmp_path
):
    path = tmp_path / "silence.wav"
    path.write_bytes(silence())
    jobs = by_node(hosts[0], submitted, path, each)
    with ThreadPoolExecutor(HOSTS) as pool:
        for some in pool.map(lambda host: by_http(host, path, each), hosts):
            jobs |= some

    for host in hosts:
        host.http.post("/admin/resume").raise_for_status()
    until(lambda: node.counts()["completed"] == len(jobs) == 4 * each, 900)

    ended = [job for kind, job, _ in node.heard() if kind == "completed"]
    assert Counter(ended) == Counter(list(jobs))
    begun = [jobs[job][1] for kind, job, _ in node.heard() if kind == "active"]
    assert begun == sorted(begun, reverse=True)
    assert len(begun) == len(jobs)
    tasks = sorted(task for task, _ in jobs.values())
    done = [{task for (task,) in host.rows("select id from task")} for host in hosts]
    assert sorted(task for some in done for task in some) == tasks  # none of them by two
    assert all(done)
    with ThreadPoolExecutor(HOSTS) as pool:
        assert all(pool.map(lambda host: answers_for(host, tasks), hosts))


def answers_for(host, tasks):
    """Whether it shows all of them as completed, one by one and in its list, and gives their transcripts."""
    for task in tasks:
        assert host.task(task)["status"] == "completed"
        assert host.result(task).strip() == ""
    assert sorted(listed(host)) == tasks
    return True


def listed(host):
    cursor = {}
    while True:
        page = host.get("/tasks", limit=100, **cursor)
        yield from (task["task_id"] for task in page["tasks"])
        if not page["next_cursor"]:
            return
        cursor = {"cursor": page["next_cursor"]}
