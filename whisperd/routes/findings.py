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
from whisperd.routes import Json, Services, services, task_of
from whisperd.routes.call import Answer, Call
from whisperd.routes.errors import Refusal
from whisperd.routes.hiding import Redacted, is_hidden
from whisperd.task import Kind, Task


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

    Redacted, findings quote nothing that rules want out, nor that those of an earlier one did.
    """
    here, task = services(request), await task_of(request)
    looks = task.kind is Kind.RISK_DETECTION
    kept = await (here.detections.kept(task.id) if looks else here.detections.newest(task.id))
    if kept is None:
        message = "no risk detection of it is completed: see GET /tasks?kind=risk_detection"
        raise Refusal(404, "not_found", message)
    return await answer(request, kept, query.redacted, looks=looks)


async def answer(request: Request, kept: Kept, redacted: bool | None, *, looks: bool = True) -> Response:
    """Written beside the loop: there may be thousands of findings. Raises Refusal, TaskNotFound.

    `looks`: asked of the task that looks.
    """
    here = services(request)
    said = await quoted(here, kept)
    possible = UNSET if looks or said is kept.task else await here.redacting.is_possible(said)
    document = await found(here, kept, said, hidden=is_hidden(request, said, redacted))
    return await asyncio.to_thread(lambda: Json(_view(kept, document, possible)))


async def quoted(here: Services, kept: Kept) -> Task:
    """The task of what it quotes, its transcript or its own text, and is shown as. Raises TaskNotFound."""
    return kept.task if kept.task.transcript is None else await here.queue.get(kept.task.transcript)


async def found(here: Services, kept: Kept, said: Task, *, hidden: bool) -> Document:
    """With the places that redaction needs; `hidden`: without what is to be out of `said`."""
    if hidden and said is not kept.task:
        return await here.redacting.unquoted(said, kept)
    document = await asyncio.to_thread(msgspec.json.decode, kept.report, type=Document)
    return unquoted(document) if hidden else document


def _view(kept: Kept, document: Document, redactable: bool | UnsetType) -> RiskView:
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
