"""Tasks of risk detection, made of what a request asks for; and whether there are such rules."""

from __future__ import annotations

from msgspec.structs import replace

from whisperd.risk_protocol import Check, NoMemory, Wrong
from whisperd.routes import Services
from whisperd.routes.errors import Refusal
from whisperd.rulebooks import RiskMissing, need_libraries
from whisperd.searcher import TOO_LONG, SearchFailed
from whisperd.task import Detection, NewTask, Task

CHECK_SECONDS = 30.0
MOST_SHARED = 64 * 1024  # bytes of rules, which the job of a shared queue has with it


def looking_through(asked: Detection, transcription: Task) -> Detection:
    """What shows nothing that its transcript does not show: other rules would not know what to redact."""
    return asked if transcription.redact is None else replace(asked, quotes=False)


async def check_detection(here: Services, new: NewTask | None) -> None:
    """Raises Refusal where risk cannot be detected here, or not by what is asked for."""
    if new is None or new.detection is None:
        return
    check_possible(here)
    _check_size(here, new.rules)
    packs = new.detection.packs or ()
    if not packs and new.rules is None:
        return
    try:
        answer = await here.searcher.ask(Check(packs=packs, rules=new.rules), CHECK_SECONDS)
    except SearchFailed as failed:
        if failed.problem.code == TOO_LONG:
            raise Refusal(422, "invalid_field", "they take too long to be read", "rules") from None
        raise Refusal(503, "risk_unavailable", f"rules cannot be read now: {failed}") from None
    match answer:
        case Wrong(field, message):
            raise Refusal(422, "invalid_field", message, field)
        case NoMemory():
            raise Refusal(422, "invalid_field", "they take too much memory", "rules")


def check_possible(here: Services) -> None:
    """Raises Refusal."""
    try:
        need_libraries()
    except RiskMissing as missing:
        raise Refusal(422, "not_supported", str(missing)) from None


def _check_size(here: Services, rules: str | None) -> None:
    """Raises Refusal."""
    if here.config.redis.url and rules is not None and len(rules.encode()) > MOST_SHARED:
        message = f"hosts that share a queue (redis.url) take at most {MOST_SHARED} bytes"
        raise Refusal(422, "invalid_field", message, "rules")
