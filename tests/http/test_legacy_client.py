"""The names of the older queues, against the real application."""

import asyncio

import pytest

from tests.http_server import SOUND
from whisperd.client import AsyncClient, Client, WrongState
from whisperd.legacy_client import AsyncTranscriptionQueue, TranscriptionQueue


@pytest.fixture
def with_queue_client(with_server):
    def run(body):
        async def main(server):
            async with AsyncClient(f"http://127.0.0.1:{server.port}") as client:
                await body(server, AsyncTranscriptionQueue(client))

        with_server(main)

    return run


@pytest.fixture
def talk(tmp_path):
    (tmp_path / "talk.wav").write_bytes(SOUND)
    return tmp_path / "talk.wav"


def test_a_job_goes_through_the_states_of_such_a_queue(with_queue_client, talk):
    async def body(server, queue):
        data = {"audioPath": str(talk), "userId": 7, "options": {"language": "en", "beam_size": 2}}
        job = await queue.add_transcription_job(data, 5)
        assert (job["state"], job["progress"], job["returnvalue"]) == ("waiting", 0, None)
        assert (job["data"], job["opts"]["priority"]) == (data, 5)
        assert (await queue.get_queue_stats())["waiting"] == 1
        await server.plan(1)
        assert (await queue.get_job_status(job["id"]))["state"] == "active"
        await server.finish("Ask not.")
        done = await queue.get_job_status(job["id"])

        assert (done["state"], done["progress"], done["failedReason"]) == ("completed", 100, None)
        assert done["returnvalue"]["text"] == "Ask not."
        assert done["timestamp"] <= done["processedOn"] <= done["finishedOn"]

    with_queue_client(body)


def test_a_cancelled_job_is_failed_and_can_be_retried(with_queue_client, talk):
    async def body(server, queue):
        job = await queue.add_transcription_job(talk)
        assert await queue.cancel_job(job["id"])
        assert not await queue.cancel_job(job["id"])
        cancelled = await queue.get_job_status(job["id"])
        assert (cancelled["state"], cancelled["failedReason"]) == ("failed", "cancelled")
        assert (await queue.get_queue_stats())["failed"] == 1

        assert (await queue.retry_failed_job(job["id"]))["state"] == "waiting"
        with pytest.raises(WrongState):
            await queue.retry_failed_job(job["id"])

    with_queue_client(body)


def test_a_job_whose_time_has_not_come_is_delayed(with_queue_client, talk):
    async def body(server, queue):
        job = await queue.add_transcription_job({"path": talk, "run_at": "2999-01-01T00:00:00Z"})

        assert job["state"] == "delayed"
        stats = await queue.get_queue_stats()
        assert (stats["waiting"], stats["delayed"], stats["total"]) == (0, 1, 1)

    with_queue_client(body)


def test_old_jobs_are_cleaned_up(with_queue_client, talk):
    async def body(server, queue):
        await queue.cancel_job((await queue.add_transcription_job(talk))["id"])

        assert await queue.cleanup_old_jobs(24) == 0
        assert await queue.cleanup_old_jobs(0, ["failed"]) == 1

    with_queue_client(body)


def test_a_job_that_is_not_there_is_none(with_queue_client):
    async def body(server, queue):
        assert await queue.get_job_status("gone") is None
        assert not await queue.cancel_job("gone")

    with_queue_client(body)


def test_data_without_audio_are_refused_before_anything_is_sent(with_queue_client):
    async def body(server, queue):
        with pytest.raises(ValueError, match="name no audio: one of audio_path, audioPath"):
            await queue.add_transcription_job({"userId": 7})

    with_queue_client(body)


def test_the_synchronous_queue_does_the_same(with_server, talk):
    def calls(url):
        with Client(url) as client:
            queue = TranscriptionQueue(client)
            job = queue.add_transcription_job(talk, 3)
            assert queue.get_job_status(job["id"])["opts"]["priority"] == 3
            assert queue.get_queue_stats()["waiting"] == 1
            assert queue.cancel_job(job["id"])
            assert queue.retry_failed_job(job["id"])["state"] == "waiting"
            assert queue.cancel_job(job["id"])
            assert queue.get_job_status("gone") is None
            return queue.cleanup_old_jobs(0)

    async def body(server):
        assert await asyncio.to_thread(calls, f"http://127.0.0.1:{server.port}") == 1

    with_server(body)
