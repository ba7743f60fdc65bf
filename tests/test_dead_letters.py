"""Dead letters on their way to Kafka: which of them are cut, and which are not."""

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
)

from whisperd.brokers.kafka import Kafka
from whisperd.config import Brokers

LETTER = SimpleNamespace(body=b"b" * 99999, id="one", key=b"k" * 9999, place={"offset": "4711"})


class Broker:
    """Refuses the first so many messages with this."""

    def __init__(self, error, times=1):
        self.sent, self._errors = [], [error] * times

    async def publish(self, body, topic, headers, key):
        self.sent.append((body, headers, key))
        if self._errors:
            raise self._errors.pop()


def bury(broker):
    return asyncio.run(Kafka(broker, Brokers(url="kafka://a")).bury(LETTER, {"message": "m" * 9999}))


def test_what_is_too_large_for_its_topic_is_cut_and_says_of_what_it_is_a_part():
    broker = Broker(MessageSizeTooLargeError())

    bury(broker)

    whole, (body, headers, key) = broker.sent
    assert whole[0] == LETTER.body
    assert body == b"b" * 16384
    assert headers == {"message": "m" * 1000, "message_id": "one", "offset": "4711", "body_bytes": "99999"}
    assert len(key) == 1000


@pytest.mark.parametrize("error", [KafkaConnectionError, NotLeaderForPartitionError, TimeoutError])
def test_while_the_broker_is_away_nothing_is_cut(error):
    broker = Broker(error())

    with pytest.raises(error):
        bury(broker)

    assert len(broker.sent) == 1


def test_what_a_topic_does_not_take_even_cut_is_not_given_up():
    broker = Broker(TopicAuthorizationFailedError(), times=2)

    with pytest.raises(TopicAuthorizationFailedError):
        bury(broker)
