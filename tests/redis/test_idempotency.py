"""An Idempotency-Key holds over all hosts: of what is sent with it only one becomes a task."""

import asyncio

import pytest

from tests.redis.test_forgetting import held
from tests.redis.test_limits import run  # noqa: F401 - a fixture
from whisperd import config
from whisperd.redis_queue import shared_queue
from whisperd.task import IdempotencyConflict, QueueAway, QueueFull


async def sends(host, **fields):
    return await host.submits(**{"idempotency_key": "k", "body_sha256": "b", **fields})


def stores_slowly(host):
    """Its storage takes what is sent once the second event is set; the first says that it was asked to."""
    begun, gate, keep = asyncio.Event(), asyncio.Event(), host.storage.keep_audio

    async def slow(*what):
        begun.set()
        await gate.wait()
        return await keep(*what)

    host.queue._storage.keep_audio = slow
    return begun, gate


async def key(host):
    (name,) = await host.link.client.keys("*whisperd:key:*")
    return name


async def leased(host, **fields):
    """A submission that has the key, and is stored once the event is set."""
    begun, gate = stores_slowly(host)
    sending = asyncio.create_task(sends(host, **fields))
    await begun.wait()
    return sending, gate


def test_of_many_that_come_at_once_to_two_hosts_one_becomes_a_task(run, rounds):  # noqa: F811
    async def test(*hosts):
        for n in range(5 * rounds):
            asked = [sends(host, idempotency_key=f"k{n}") for _ in range(5) for host in hosts]
            ids = set(await asyncio.gather(*asked))
            assert [(await hosts[1].takes()).id] == [*ids]
            assert await hosts[0].board.take() is None

    run(test)


def test_who_comes_while_the_first_is_being_stored_waits_for_it(run):  # noqa: F811
    async def test(one, other):
        sending, gate = await leased(one)
        repeats = [asyncio.create_task(sends(other, body_sha256=body)) for body in ("b", "another")]
        await asyncio.sleep(0.5)
        assert not any(repeat.done() for repeat in repeats)

        gate.set()
        same, another = await asyncio.gather(*repeats, return_exceptions=True)

        assert same == await sending
        assert isinstance(another, IdempotencyConflict)
        assert await held(one.storage) == [f"audio/http-{same}"]

    run(test)


def test_who_was_too_slow_is_answered_with_the_task_of_another(run):  # noqa: F811
    async def test(one, other):
        sending, gate = await leased(one)
        await one.link.client.delete(await key(one))  # as when the lease has run out
        first = await sends(other)
        gate.set()

        assert await sending == first
        assert await held(one.storage) == [f"audio/http-{first}"]
        assert [(await one.takes()).id, await one.board.take()] == [first, None]

    run(test)


def test_who_was_too_slow_is_not_added_while_another_is_being_stored(run):  # noqa: F811
    async def test(one, other):
        sending, gate = await leased(one)
        await one.link.client.delete(await key(one))
        faster, theirs = await leased(other)
        gate.set()
        await asyncio.sleep(0.5)
        assert await one.board.take() is None

        theirs.set()

        assert await sending == await faster

    run(test)


def test_a_host_that_died_holds_a_key_only_for_as_long_as_it_is_leased(run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(shared_queue, "LEASE_SECONDS", 1)

    async def test(one, other):
        sending, _ = await leased(one)
        sending.cancel()
        with pytest.raises(QueueAway, match="still being stored"):
            await sends(other)
        assert 0 < await one.link.client.ttl(await key(one)) <= 30
        await one.link.client.pexpire(await key(one), 500)

        assert (await other.queue.get(await sends(other))).state == "queued"
        assert await one.link.client.ttl(await key(one)) > 3000

    run(test)


def test_what_is_refused_gives_its_key_back_at_once(run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(shared_queue, "LEASE_SECONDS", 1)

    async def test(one, other):
        first = await one.submits()
        with pytest.raises(QueueFull):
            await sends(one)
        await one.queue.cancel(first)

        assert await sends(other)

    run(test, queue=config.Queue(max_queued=1))


def test_a_key_whose_task_is_forgotten_is_free_again(run, node):  # noqa: F811
    async def test(one, other):
        await asyncio.to_thread(node.remove, await sends(one))

        again = {await sends(other), await sends(one)}

        assert len(again) == 1

    run(test)
