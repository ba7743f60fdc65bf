"""The way to a broker: how soon it is tried again, and what ends it."""

import asyncio
import contextlib
import sys

import pytest

from whisperd.brokers import post
from whisperd.brokers.identity import BrokersMissing
from whisperd.brokers.kafka import Kafka
from whisperd.brokers.post import Post, post_for
from whisperd.brokers.rabbit import _short
from whisperd.config import Brokers, Config


class Tried(Exception):
    """Often enough."""


class Breaks:
    """A way that each message ends, as one that the library cannot read does."""

    async def watch(self):
        await asyncio.Event().wait()

    async def take(self, settle, pause):
        raise ValueError


def test_what_ends_each_connection_at_once_is_tried_ever_more_seldom(monkeypatch):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 4:
            raise Tried

    @contextlib.asynccontextmanager
    async def connected(settings):
        yield Breaks()

    async def main():
        monkeypatch.setattr(post.asyncio, "sleep", sleep)
        await Post(Config(brokers=Brokers(url="kafka://a")), connected, bytes).run(None)

    with pytest.raises(Tried):
        asyncio.run(main())

    assert waited == [1, 2, 4, 8]


def test_who_may_not_join_the_group_hears_of_it():
    class Refused(Exception):
        pass

    class Subscriber:
        consumer = property(lambda self: self)
        _coordinator = property(lambda self: self)

        async def start(self):
            pass

        async def stop(self):
            pass

        def check_errors(self):
            raise Refused

    class Lanes:
        def open(self, group, settle, pause):
            return asyncio.Event()

    kafka = Kafka(None, Brokers(url="kafka://a"))
    kafka._tasks, kafka._lanes = Subscriber(), Lanes()

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(asyncio.wait_for(kafka.take(None, float), 10))

    assert raised.group_contains(Refused)


@pytest.mark.parametrize(("url", "library"), [("amqp://a", "rabbit"), ("kafka://a", "kafka")])
def test_where_the_library_is_missing_it_is_named_at_the_start(monkeypatch, url, library):
    monkeypatch.setitem(sys.modules, f"faststream.{library}", None)

    with pytest.raises(BrokersMissing, match=r"whisperd\[brokers\]"):
        post_for(Config(brokers=Brokers(url=url)), bytes)


def test_an_id_that_is_too_long_for_amqp_is_cut():
    assert _short("é" * 200) == "é" * 127
    assert _short(None) is None
