"""What clients of OpenAI's audio API send, read as the submit options that it means here.

Their forms come with the file first or last, with `name[]` or `name` for what may be repeated, and with
fields that mean nothing here: those are passed over. Beside them every submit option of the task API holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta
from msgspec.structs import fields, replace

from whisperd.routes.submission import Submission, checked_form

# The names that its clients know, without the date that may stand behind them: whatever model is the default.
ALIASES = (
    *("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize"),
    "gpt-transcribe",
)
LONGEST_PROMPT = 4000  # characters; of a longer one Whisper hears the end only, wherever it runs
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_BRACKETS = re.compile(r"\[\d*\]$")


class OpenAIForm(Submission, frozen=True, kw_only=True):
    """A transcription as OpenAI's API asks for it."""

    prompt: Annotated[str, Meta(description="Of a long one the end counts.")] | None = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] = "json"
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    include: tuple[str, ...] = ()  # "logprobs"
    stream: bool = False
    keywords: tuple[str, ...] = ()  # words that are likely to be said
    languages: tuple[str, ...] = ()  # that are likely to be spoken

    @property
    def wants_logprobs(self) -> bool:
        return "logprobs" in self.include and self.response_format == "json"


_LISTS = {"timestamp_granularities", "include", "keywords", "languages"}
_FIELDS = {field.encode_name for field in fields(OpenAIForm)} - {"audio_path", "audio_url"}


def takes(name: str) -> bool:
    """Whether a field means something here."""
    return _plain(name) in _FIELDS


def understood(sent: Sequence[tuple[str, str]]) -> OpenAIForm:
    """The form with our options set to what its own fields mean. Raises Refusal."""
    form = checked_form(_gathered(sent), OpenAIForm)
    return replace(form, **_meant(form))


def is_alias(model: str) -> bool:
    return _DATE.sub("", model) in ALIASES


def _gathered(sent: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """By name, a list of values for what may be repeated; of anything else the last one holds."""
    found: dict[str, Any] = {}
    for name, value in ((_plain(name), value) for name, value in sent):
        if name in _LISTS:
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    if "prompt" in found:
        found["prompt"] = found["prompt"][-LONGEST_PROMPT:]
    if found.get("response_format") == "diarized_json":
        found.setdefault("channels", "split")
    return found


def _plain(name: str) -> str:
    return _BRACKETS.sub("", name)


def _meant(form: OpenAIForm) -> dict[str, Any]:
    meant: dict[str, Any] = {}
    if form.model is not None and is_alias(form.model):
        meant["model"] = None
    if form.wants_logprobs or (
        "word" in form.timestamp_granularities and form.response_format == "verbose_json"
    ):
        meant["word_timestamps"] = True
    if form.keywords:
        meant["prompt"] = " ".join([", ".join(form.keywords) + ".", form.prompt or ""]).strip()
    return meant
