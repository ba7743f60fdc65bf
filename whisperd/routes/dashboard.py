"""The dashboard: a page, and what it is made of. Anybody may load it: what it shows, it asks for itself."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from whisperd.routes.call import TAGGED, Call
from whisperd.routes.web import PAGE, PART, Folder

# Nothing written into a page is run or styled by it, and nothing comes from elsewhere or goes there: a
# transcript or a file name that were taken for HTML would find no way out.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "media-src 'self' blob:; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_FOLDER = Folder("dashboard", _POLICY)


async def show_dashboard(request: Request) -> Response:
    """The dashboard, a page for browsers."""
    return await _FOLDER.answer(request, "index.html")


async def show_part(request: Request) -> Response:
    """A part of the dashboard."""
    return await _FOLDER.answer(request, str(request.path_params["path"]))


calls = [
    Call(method="GET", path="/", handler=show_dashboard, right="public", answers=PAGE, headers=TAGGED),
    Call(
        method="GET", path="/ui/{path:path}", handler=show_part, right="public", answers=PART, headers=TAGGED
    ),
]
