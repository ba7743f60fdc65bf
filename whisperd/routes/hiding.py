"""Who is shown what rules want out of a transcript: the rule of every call that shows what was said.

A task that was submitted with `redact` is shown without it; all of it is shown to whom may submit, and asks
for it. Everything else is shown as it is, unless the request asks otherwise.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from starlette.requests import Request

from whisperd.routes.rights import admit
from whisperd.task import Task

Redacted = Annotated[
    bool,
    Meta(
        description="Without what rules want out of it. So by default if it was submitted with `redact`; "
        "`false` takes the scope `submit` then."
    ),
]


def is_hidden(request: Request, task: Task, asked: bool | None) -> bool:
    """Whether it is to be redacted for this caller. Raises Refusal."""
    if asked is None:
        return task.redact is not None
    if not asked and task.redact is not None:
        admit(request, "submit")
    return asked
