"""What risk detection found: the result of such a task, and GET /tasks/{id}/risk of a transcription."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from whisperd.look import Kept
from whisperd.risk.detection import Finding, Missing
from whisperd.risk.report import Document, unquoted
from whisperd.routes import Json, services, task_of
from whisperd.routes.call import Answer, Call
from whisperd.routes.errors import Refusal
from whisperd.routes.hiding import Redacted, is_hidden
from whisperd.task import Kind


class RiskView(Struct, frozen=True, kw_only=True):
    """Places are characters of the texts of all segments with a space between them, and seconds."""

    task_id: str
    transcript_task_id: str | None  # null: the text was sent
    packs: tuple[dict[str, Any], ...]
    risk: dict[str, Any]  # score, level
    summary: dict[str, dict[str, Any]]  # by category: count, max_score, max_severity
    findings: tuple[Finding, ...]
    missing: tuple[Missing, ...]
    redacted_text: str | None
    rules_errors: tuple[str, ...]
    redactable: bool | UnsetType = UNSET  # of a transcription: whether `redacted=true` can be answered now


class Quoted(Struct, frozen=True, kw_only=True):
    redacted: Redacted | None = None


async def risk(request: Request, query: Quoted) -> Response:
    """What was found in the transcript, by the newest risk detection of it that is completed.

    Redacted, findings quote nothing that rules want out.
    """
    here, task = services(request), await task_of(request)
    looks = task.kind is Kind.RISK_DETECTION
    kept = await (here.detections.kept(task.id) if looks else here.detections.newest(task.id))
    if kept is None:
        message = "no risk detection of it is completed: see GET /tasks?kind=risk_detection"
        raise Refusal(404, "not_found", message)
    hidden = is_hidden(request, task, query.redacted)
    return await answer(kept, hidden, UNSET if looks else await here.redacting.is_possible(task))


async def answer(kept: Kept, hidden: bool = False, redactable: bool | UnsetType = UNSET) -> Response:
    """Written beside the loop: there may be thousands of findings."""
    return await asyncio.to_thread(lambda: Json(_view(kept, hidden, redactable)))


def found(kept: Kept) -> Document:
    """With the places that redaction needs."""
    return msgspec.json.decode(kept.report, type=Document)


def _view(kept: Kept, hidden: bool, redactable: bool | UnsetType) -> RiskView:
    document = found(kept)
    if hidden and document.redacted_text is None:  # else they are as they were asked for
        document = unquoted(document)
    return RiskView(
        task_id=kept.task.id,
        transcript_task_id=kept.task.transcript,
        packs=document.packs,
        risk=document.risk,
        summary=document.summary,
        findings=document.findings,
        missing=document.missing,
        redacted_text=document.redacted_text,
        rules_errors=document.rules_errors,
        redactable=redactable,
    )


calls = [
    Call(
        method="GET",
        path="/tasks/{task_id}/risk",
        handler=risk,
        right="read",
        query=Quoted,
        answers={200: Answer(about="What was found.", body=RiskView)},
    )
]
