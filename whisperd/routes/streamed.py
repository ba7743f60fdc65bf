"""An answer of audio that lies elsewhere: read and sent in pieces, as fast as its listener takes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from whisperd.routes.interactive import CUT, unless_left
from whisperd.s3 import S3Error

log = structlog.get_logger(__name__)


class Streamed(Response):
    """Where the storage goes away in its midst, the connection breaks before all of it was sent."""

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], status: int, media_type: str, headers: Mapping[str, str]
    ) -> None:
        """`headers` has its Content-Length."""
        super().__init__(status_code=status, media_type=media_type, headers=headers)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            return await super().__call__(scope, receive, send)
        try:
            with suppress(ClientDisconnect):
                await unless_left(receive, self._send(send))
        except S3Error as error:
            log.warning("audio was cut off", reason=str(error))
            CUT.set(True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
