"""ETags: who has what is asked for already is told so (304), and sent nothing."""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response

from whisperd.routes.reading import has_already


def tag_of(content: bytes) -> str:
    """A strong one: of other bytes it is another."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def unless_known(request: Request, response: Response, tag: str) -> Response:
    """The response with this ETag, or a 304 with its headers if the client names the tag."""
    response.headers["ETag"] = tag
    if not has_already(request, tag):
        return response
    headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
    return Response(status_code=304, headers=headers)
