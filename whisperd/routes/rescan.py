"""POST /risk/rescan: look through transcripts that are there already, by other rules: a task for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from ulid import ULID

from whisperd.look import RULES
from whisperd.risk.rules import MOST_RULES, Category, Severity
from whisperd.routes import Json, caller, services
from whisperd.routes.admission import admit, admit_caller, admit_one_more
from whisperd.routes.bulk import seconds
from whisperd.routes.call import Answer, Call
from whisperd.routes.detection import check_detection, check_possible, looking_through
from whisperd.routes.errors import stopping
from whisperd.routes.risk import MOST_BODY, RiskSubmission
from whisperd.routes.submission import Moment, PackName, checked_callback, checked_priority
from whisperd.task import Kind, ListQuery, NewTask, State, Task, TaskError

MOST = 500  # transcripts of one call
LATER = -10  # its priority: what is new goes before it


class Rescan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which transcripts, all without a filter; and what to look for, as in `POST /tasks/risk-detection`."""

    tenant: str | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST, description="Transcripts of this call.")] = 100
    cursor: Annotated[str, Meta(pattern=r"^[0-9]{1,18}\Z", description="A `next_cursor`.")] | None = None
    packs: list[PackName] | None = None
    rules: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MOST_RULES)] | None = None
    categories: tuple[Category, ...] = ()
    min_score: Annotated[float, Meta(ge=0, le=1)] = 0.0
    min_severity: Severity = Severity.INFO
    redact: Literal["none", "tag", "mask"] = "none"
    alert_url: str | None = None
    alert_severity: Severity = Severity.HIGH
    priority: Annotated[int, Meta(ge=-100, le=100)] = LATER

    @property
    def look(self) -> RiskSubmission:
        both = set(self.__struct_fields__) & set(RiskSubmission.__struct_fields__)
        return RiskSubmission(**{name: getattr(self, name) for name in both})


class RescanView(Struct, frozen=True, kw_only=True):
    """`next_cursor`: there may be older transcripts, with which it goes on."""

    task_ids: list[str]
    next_cursor: str | None


async def rescan(request: Request, wanted: Rescan) -> Response:
    """Look through completed transcripts once more, the newest first: a task of risk detection for each.

    Each counts as a submission. Where no more are accepted in the midst of it, `next_cursor` goes on behind
    those that were.
    """
    here, own = services(request), caller(request).tenant
    check_possible(here)
    if here.draining:
        raise stopping()
    checked_callback(wanted.alert_url, here.config, "alert_url")
    checked_priority(wanted.priority, caller(request), here.config, "priority")
    await admit_caller(request)
    if own is not None and wanted.tenant not in (None, own):
        return Json(RescanView(task_ids=[], next_cursor=None), 202)
    page = await here.queue.list(_query(wanted, own))
    transcripts = [task for task in page if not task.options.detect_only]  # which has none
    done: list[str] = []
    if transcripts:
        tasks = _tasks(wanted, transcripts)
        await check_detection(here, tasks[0])
        done = await _submitted(request, tasks)
    return Json(RescanView(task_ids=done, next_cursor=_cursor(wanted, page, transcripts, done)), 202)


def _cursor(
    wanted: Rescan, page: Sequence[Task], transcripts: Sequence[Task], done: Sequence[str]
) -> str | None:
    """Behind what was accepted; None where there is no more."""
    if len(done) < len(transcripts):
        return str(transcripts[len(done) - 1].seq)
    return str(page[-1].seq) if len(page) == wanted.limit else None


def _query(wanted: Rescan, own: str | None) -> ListQuery:
    return ListQuery(
        states=frozenset({State.COMPLETED}),
        kind=Kind.TRANSCRIPTION,
        tenant=own or wanted.tenant,
        created_after=seconds(wanted.created_after),
        created_before=seconds(wanted.created_before),
        before=int(wanted.cursor) if wanted.cursor else None,
        limit=wanted.limit,
    )


def _tasks(wanted: Rescan, transcripts: Sequence[Task]) -> list[NewTask]:
    look = wanted.look
    asked, rules = look.detection(), look.rules_json()  # once: rules may be long
    return [
        NewTask(
            id=str(ULID()),
            kind=Kind.RISK_DETECTION,
            audio=transcript.audio,
            model=RULES,
            priority=wanted.priority,
            tenant=transcript.tenant,
            detection=looking_through(asked, transcript),
            transcript=transcript.id,
            rules=rules,
        )
        for transcript in transcripts
    ]


async def _submitted(request: Request, tasks: Sequence[NewTask]) -> list[str]:
    """The ids of those that were accepted; raises why none was.

    One after the other, up to the first that is refused: so none is accepted that nobody is told of.
    """
    done: list[str] = []
    try:
        for new in tasks:
            await (admit_one_more if done else admit)(request, new)
            await services(request).queue.submit(new)
            done.append(new.id)
    except TaskError:
        if not done:
            raise
    return done


calls = [
    Call(
        method="POST",
        path="/risk/rescan",
        handler=rescan,
        right="submit",
        body=Rescan,
        body_bytes=MOST_BODY,
        answers={202: Answer(about="The tasks, queued.", body=RescanView)},
        refusals=(429, 503),
    )
]
