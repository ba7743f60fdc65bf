"""A transcript as the bodies of OpenAI's audio API: https://platform.openai.com/docs/api-reference/audio."""

from __future__ import annotations

import math
from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from whisperd.routes import Json
from whisperd.routes.openai_form import OpenAIForm
from whisperd.task import Segment
from whisperd.transcript import Transcript, render

PLAIN = "text/plain; charset=utf-8"
JSON = "application/json"
JSON_FORMATS = {"json", "verbose_json", "diarized_json"}


class Usage(Struct, frozen=True, kw_only=True):
    type: Literal["duration"] = "duration"
    seconds: int  # of audio, rounded up


class Logprob(Struct, frozen=True, kw_only=True):
    """Of a word: it is words that are kept here, not Whisper's tokens."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class WordView(Struct, frozen=True, kw_only=True):
    word: str
    start: float
    end: float


class SegmentView(Struct, frozen=True, kw_only=True):
    """Of verbose_json: all but the last two; of diarized_json: those that both have, `type` and `speaker`."""

    id: int | str
    start: float
    end: float
    text: str
    seek: int | UnsetType = UNSET
    tokens: tuple[int, ...] | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    avg_logprob: float | UnsetType = UNSET
    compression_ratio: float | UnsetType = UNSET
    no_speech_prob: float | UnsetType = UNSET
    type: Literal["transcript.text.segment"] | UnsetType = UNSET
    speaker: str | UnsetType = UNSET


class TranscriptionBody(Struct, frozen=True, kw_only=True):
    """A transcription: `text` and `usage`, and what the response_format has besides."""

    task: Literal["transcribe", "translate"] | UnsetType = UNSET
    language: str | UnsetType = UNSET  # its English name
    duration: float | UnsetType = UNSET
    text: str
    segments: tuple[SegmentView, ...] | UnsetType = UNSET
    words: tuple[WordView, ...] | UnsetType = UNSET
    logprobs: tuple[Logprob, ...] | UnsetType = UNSET
    usage: Usage


def written(transcript: Transcript, form: OpenAIForm) -> Response:
    """In the response_format of the form."""
    match form.response_format:
        case "json":
            return Json(_json(transcript, form))
        case "diarized_json":
            return Json(_diarized(transcript))
        case "verbose_json":
            return Response(render(transcript, "verbose_json")[0], media_type=JSON)
        case other:
            return Response(render(transcript, other)[0], media_type=PLAIN)


def usage(transcript: Transcript) -> Usage:
    return Usage(seconds=math.ceil(transcript.duration))


def _json(transcript: Transcript, form: OpenAIForm) -> TranscriptionBody:
    return TranscriptionBody(
        text=transcript.text,
        usage=usage(transcript),
        logprobs=_logprobs(transcript) if form.wants_logprobs else UNSET,
    )


def _logprobs(transcript: Transcript) -> tuple[Logprob, ...]:
    words = [word for segment in transcript.segments for word in segment.words]
    texts = [(transcript.space if number else "") + word.word.strip() for number, word in enumerate(words)]
    return tuple(
        Logprob(
            token=text, logprob=round(math.log(max(word.probability, 1e-10)), 4), bytes=tuple(text.encode())
        )
        for word, text in zip(words, texts, strict=True)
    )


def _diarized(transcript: Transcript) -> TranscriptionBody:
    return TranscriptionBody(
        task="translate" if transcript.task.options.translate else "transcribe",
        duration=round(transcript.duration, 3),
        text=transcript.text,
        segments=tuple(diarized_segment(n, segment) for n, segment in enumerate(transcript.segments, 1)),
        usage=usage(transcript),
    )


def diarized_segment(number: int, segment: Segment) -> SegmentView:
    """`number` counts from 1. A file of one channel has one speaker."""
    return SegmentView(
        type="transcript.text.segment",
        id=f"seg_{number:03d}",
        start=round(segment.start, 3),
        end=round(segment.end, 3),
        speaker=segment.speaker or "A",
        text=segment.text,
    )
