"""What becomes of messages: how long none is taken while they are refused."""

import asyncio
import json

from whisperd.brokers.inbox import Answer, Inbox

FULL = Answer(503, json.dumps({"error": {"code": "queue_full", "message": "it is full"}}).encode())


class Letter:
    body, id = b"", "one"

    async def ack(self):
        pass


def refuse(inbox, times=1):
    for _ in range(times):
        assert not asyncio.run(inbox.settle(Letter(), None))


async def full(body, headers):
    return FULL


def test_what_is_refused_at_the_same_time_makes_the_pause_no_shorter():
    inbox = Inbox(full, "")
    paused = []
    for _ in range(7):
        refuse(inbox)
        paused.append(inbox.pause())
        refuse(inbox, times=2)
        inbox._until -= paused[-1]  # as long as it takes

    assert paused == [2, 4, 8, 16, 32, 60, 60]


def test_a_pause_may_be_asked_to_be_longer():
    inbox = Inbox(full, "")
    refuse(inbox)

    assert [inbox.pause(300), inbox.pause()] == [300, 60]
    assert "it is full" in inbox.trouble
