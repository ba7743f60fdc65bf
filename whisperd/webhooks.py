"""Webhooks: what is posted to whoever wants to hear of the end of a task, as standardwebhooks.com has it.

Decides what is said, how it is signed, and to which addresses it may go; deliveries.py decides when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from whisperd import config
from whisperd.delivery import ALERT, Delivery, Reply
from whisperd.outbound import Outbound, OutboundError, UrlRefused
from whisperd.shown import timestamp
from whisperd.signing import kept_secret, of_tenant, signed
from whisperd.task import Task

POST_SECONDS = 15.0
View = Callable[[Task], Any]  # the task as the API shows it


class Webhooks:
    """The sender of webhooks, by the settings of its day."""

    def __init__(self, settings: config.Config, view: View, now: Callable[[], float]) -> None:
        self._view = view
        self._now = now
        self.reload(settings)

    def reload(self, settings: config.Config) -> None:
        self._endpoints = frozenset(settings.webhooks.endpoints)
        self._secrets = settings.webhooks.secrets
        self._folder = settings.data_dir
        self._strangers = Outbound(settings.outbound)
        hosts = [urlsplit(url).hostname or "" for url in self._endpoints]
        allowed = (*settings.outbound.allowed_hosts, *hosts)  # the operator's choice: may be private ones
        self._own = Outbound(replace(settings.outbound, allowed_hosts=allowed))

    async def __call__(self, delivery: Delivery) -> Reply:
        own = delivery.url in self._endpoints
        try:
            body, secrets = message(delivery, self._view), await self._signing()
        except OSError as error:
            return Reply(problem=f"no secret can be kept in the data folder: {error.strerror}")
        tenant = None if own else delivery.tenant
        proof = signed([of_tenant(s, tenant) for s in secrets], delivery.id, int(self._now()), body)
        headers = {"content-type": "application/json", **proof}
        return await _posted(self._own if own else self._strangers, delivery.url, body, headers)

    async def _signing(self) -> Sequence[str]:
        """The secrets of the settings; without any, the one that is kept. Raises OSError."""
        if not self._secrets:
            self._secrets = (await asyncio.to_thread(kept_secret, self._folder),)
        return self._secrets


def message(delivery: Delivery, view: View) -> bytes:
    """The body: what happened, when, and the task as it was then."""
    data = view(delivery.task)
    event = {
        "type": delivery.event,
        "timestamp": timestamp(delivery.created_at),
        "data": {"task": data, "findings": delivery.findings} if delivery.event == ALERT else data,
    }
    return msgspec.json.encode(event)


async def _posted(outbound: Outbound, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
    try:
        answer = await outbound.post(url, body, headers, seconds=POST_SECONDS)
    except UrlRefused as error:
        return Reply(problem=str(error))
    except OutboundError as error:
        return Reply(problem=str(error), is_of_place=True)
    return Reply.answered(answer.status, answer.headers)
