"""/tasks/{id}/link: the transcript in S3, for programs without a key, be it ours or that of the bucket."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from whisperd.routes import Json, services, task_of
from whisperd.routes.call import Answer, Call
from whisperd.routes.errors import Refusal
from whisperd.routes.result import check_result
from whisperd.shown import timestamp
from whisperd.task import Kind


class Wanted(Struct, frozen=True, kw_only=True):
    format: Literal["json", "text", "srt", "vtt", "tsv"] = "json"
    seconds: (
        Annotated[int, Meta(ge=1, description="How long it works; at most, and else, `s3.link_seconds`.")]
        | None
    ) = None
    redacted: Annotated[
        bool,
        Meta(
            description="Without what rules want out of it, also where it was not submitted with `redact`. "
            "What was submitted so is never linked to otherwise."
        ),
    ] = False


class LinkView(Struct, frozen=True, kw_only=True):
    url: str  # GET it without any key; whoever has it can
    expires_at: str | None


async def link(request: Request, query: Wanted) -> Response:
    """A URL of the transcript in S3 that whoever has it can read, without a key, until it expires.

    It shows the transcript as it is at this moment: what is corrected or found later takes another link. It
    needs a bucket: that of `s3.links`, or the one that hosts share.
    """
    here, task = services(request), await task_of(request)
    if task.kind is Kind.RISK_DETECTION:
        raise Refusal(422, "not_supported", "what risk detection found cannot be linked to")
    if here.links is None:
        message = "there is no bucket for links: see s3.links, or redis.storage where hosts share a queue"
        raise Refusal(422, "not_supported", message)
    check_result(task)
    longest = here.config.s3.link_seconds
    if (seconds := query.seconds or longest) > longest:
        raise Refusal(422, "invalid_field", f"a link works for {longest} seconds at most", "seconds")
    # Not as for other calls that show what was said: nobody knows who will have the link.
    hidden = query.redacted or task.redact is not None
    made = await here.links.make(task, query.format, hidden=hidden, seconds=seconds)
    return Json(LinkView(url=made.url, expires_at=timestamp(made.expires_at)))


calls = [
    Call(
        method="GET",
        path="/tasks/{task_id}/link",
        handler=link,
        right="read",
        query=Wanted,
        answers={200: Answer(about="The link.", body=LinkView)},
        refusals=(409, 410, 503),
    ),
]
