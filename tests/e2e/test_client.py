"""The Python client with a daemon that is killed under it."""

import asyncio

from tests.flaky import Flaky
from whisperd.client import AsyncClient, SegmentEvent, TaskEvent


def test_a_client_outlives_the_daemon_without_a_gap_and_without_a_double(new_daemon, minutes_of_speech):
    daemon = new_daemon(WORKERS__COUNT=1).start()

    async def body():
        async with (
            Flaky(port(daemon)).listening() as line,
            AsyncClient(line.url, retries=60, retry_delay=0.1) as client,
            asyncio.TaskGroup() as group,
        ):
            task = await client.submit(minutes_of_speech(2), beam_size=1)
            waiting = group.create_task(client.wait(task.task_id), name="wait")
            events, killed = [], False
            async for event in client.events(task.task_id):
                events.append(event)
                if isinstance(event, SegmentEvent) and not killed:
                    killed = True
                    await asyncio.to_thread(daemon.kill)
                    await asyncio.to_thread(daemon.start)
                    line.to(port(daemon))
            return events, await waiting, await client.result(task.task_id)

    events, task, transcript = asyncio.run(body())

    assert said_in(events) == [(said.start, said.text) for said in transcript.segments]
    assert len(transcript.segments) > 4
    assert task.status == "completed"
    assert [e.task.status for e in events if isinstance(e, TaskEvent)][-1] == "completed"


def said_in(events):
    return [(e.segment.start, e.segment.text) for e in events if isinstance(e, SegmentEvent)]


def port(daemon):
    return int(daemon.url.rpartition(":")[2])
