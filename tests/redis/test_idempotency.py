"""An Idempotency-Key holds over all hosts: of what is sent with it only one becomes a task."""

import asyncio

import pytest

from tests.redis.test_forgetting import held
from tests.redis.test_limits import run  # noqa: F401 - a fixture
from whisperd import config
from whisperd.redis_queue import shared_queue
from whisperd.s3 import S3Error
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


async def nobody(hold):
    pass


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


def test_who_is_stored_first_is_the_task_though_another_has_the_lease_by_then(run):  # noqa: F811
    """Else each repeat of what takes longer to store than a lease would throw away the one before."""

    async def test(one, other):
        sending, gate = await leased(one)
        await one.link.client.delete(await key(one))
        repeat, theirs = await leased(other)
        gate.set()
        first = await sending
        theirs.set()

        assert await repeat == first
        assert [(await one.takes()).id, await one.board.take()] == [first, None]
        assert await held(one.storage) == [f"audio/http-{first}"]

    run(test)


def test_a_host_that_died_holds_a_key_only_for_as_long_as_it_is_leased(run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(shared_queue, "LEASE_SECONDS", 1)

    async def test(one, other):
        sending, _ = await leased(one)
        one.queue._keys.give_back = nobody  # it has died
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


@pytest.mark.parametrize("trouble", [S3Error("the storage is away"), asyncio.CancelledError()])
def test_what_could_not_be_stored_gives_its_key_back_at_once(run, monkeypatch, trouble):  # noqa: F811
    monkeypatch.setattr(shared_queue, "LEASE_SECONDS", 1)

    async def fails(*what):
        raise trouble

    async def test(one, other):
        keep, one.queue._storage.keep_audio = one.queue._storage.keep_audio, fails
        with pytest.raises((QueueAway, asyncio.CancelledError)):
            await sends(one)
        one.queue._storage.keep_audio = keep

        assert await sends(other)

    run(test)


def test_a_key_is_that_of_its_tenant_whatever_both_are_called(run):  # noqa: F811
    async def test(one, other):
        ours = await sends(one, tenant="acme:eu", idempotency_key="k")
        theirs = await sends(other, tenant="acme", idempotency_key="eu:k")

        assert ours != theirs

    run(test)


def test_a_key_whose_task_is_forgotten_is_free_again(run, node):  # noqa: F811
    async def test(one, other):
        await asyncio.to_thread(node.remove, await sends(one))

        again = {await sends(other), await sends(one)}

        assert len(again) == 1

    run(test)
