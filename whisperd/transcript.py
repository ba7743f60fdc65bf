"""Transcript: a task's finished segments, and how each result format writes them.

Pure. Segment texts come stripped and in order of time. What a format cannot hold (a line break in a cue, the
arrow of its timing line, a control character) is taken out here, so that every file parses back.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from whisperd.engine.languages import LANGUAGES
from whisperd.task import Mark, Segment, Task


class Transcript(Struct, frozen=True, kw_only=True):
    """What a task yielded. Complete when the task is; else as far as it has come."""

    task: Task
    segments: tuple[Segment, ...]
    edited: bool = False  # by a person

    @classmethod
    def of(cls, task: Task, marked: Iterable[tuple[Mark, Segment]]) -> Transcript:
        """What the queue has of a task, by time: the chunks of split channels overlap."""
        return cls(task=task, segments=tuple(sorted((s for _, s in marked), key=lambda s: s.start)))

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        return self.task.audio.duration or 0.0

    @property
    def language(self) -> str | None:
        """ISO 639-1 code of what was spoken."""
        return self.task.language

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.task.warnings

    @property
    def text(self) -> str:
        """All that was said, in one line."""
        return self.join(segment.text for segment in self.segments)

    def join(self, texts: Iterable[str]) -> str:
        """Joins texts as the written language does: with spaces, or without in Chinese, Japanese, Thai, …"""
        return self.space.join(line for text in texts if (line := _line(text)))

    @property
    def space(self) -> str:
        """What stands between two words of the written language: a space or nothing."""
        return "" if self.language in _SPACELESS and not self.task.options.translate else " "


def render(transcript: Transcript, format: str) -> tuple[str, str]:
    """The transcript in one of FORMATS, and its media type. Raises ValueError for another format."""
    if format not in _RENDERERS:
        raise ValueError(f"unknown format {format!r}: one of {', '.join(FORMATS)}")
    renderer, media_type = _RENDERERS[format]
    return renderer(transcript), media_type


def language_name(code: str | None) -> str:
    """The English name, as the OpenAI API has it: "de" -> "german". An unknown code as it is."""
    return LANGUAGES.get(code or "", code or "")


def language_code(text: str) -> str | None:
    """The code of a language that is given by code or English name, in any case; None for what is neither.

    "auto" stays as it is: the language is to be found out.
    """
    wanted = text.strip().lower()
    return wanted if wanted in LANGUAGES or wanted == "auto" else _CODES.get(wanted)


def language_refusal(language: str, model: str, multilingual: bool) -> str | None:
    """Why `model` cannot transcribe the language of this code; None when it can."""
    if multilingual or language in ("en", "auto"):
        return None
    return f"the model {model} knows English only"


def _json(transcript: Transcript) -> str:
    return _encode(
        {
            "task_id": transcript.task.id,
            "text": transcript.text,
            "language": transcript.language,
            "duration": _seconds(transcript.duration),
            "segments": [_segment(number, segment) for number, segment in enumerate(transcript.segments)],
            "warnings": transcript.warnings,
            **_edited(transcript),
        }
    )


def _edited(transcript: Transcript) -> dict[str, Any]:
    """Said only where it is so: what a machine wrote looks as it always did."""
    return {"edited": True} if transcript.edited else {}


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": number,
        "start": _seconds(segment.start),
        "end": _seconds(segment.end),
        "text": segment.text,
    }
    if segment.speaker is not None:
        shown["speaker"] = segment.speaker
    if segment.words:
        shown["words"] = [
            {**word, "probability": round(source.probability, 4)}
            for word, source in zip(_words([segment]), segment.words, strict=True)
        ]
    return shown


def _verbose_json(transcript: Transcript) -> str:
    """OpenAI's verbose_json: a segment has all ten fields, else the AI SDK refuses the whole body."""
    options = transcript.task.options
    shown = {
        "task": "translate" if options.translate else "transcribe",
        "language": language_name("en" if options.translate else transcript.language),
        "duration": _seconds(transcript.duration),
        "text": transcript.text,
        "segments": [
            _openai_segment(number, segment, transcript.space)
            for number, segment in enumerate(transcript.segments)
        ],
        "usage": {"type": "duration", "seconds": math.ceil(transcript.duration)},
        **_edited(transcript),
    }
    if options.word_timestamps:
        shown["words"] = _words(transcript.segments)
    return _encode(shown)


def _openai_segment(number: int, segment: Segment, space: str) -> dict[str, Any]:
    return {
        "id": number,
        "seek": int(segment.start * 100),
        "start": _seconds(segment.start),
        "end": _seconds(segment.end),
        "text": space + segment.text,  # clients join these with nothing between
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": compression_ratio(segment.text),
        "no_speech_prob": segment.no_speech_prob,
    }


def whisper_json(transcript: Transcript) -> str:
    """As openai-whisper's command line writes JSON, on which other programs' parsers are built."""
    segments = [
        {**_openai_segment(number, segment, transcript.space), **_whisper_words(segment, transcript.space)}
        for number, segment in enumerate(transcript.segments)
    ]
    return _encode({"text": transcript.text, "segments": segments, "language": transcript.language})


def _whisper_words(segment: Segment, space: str) -> dict[str, Any]:
    words = [
        {**shown, "word": space + shown["word"], "probability": round(word.probability, 4)}
        for shown, word in zip(_words([segment]), segment.words, strict=True)
    ]
    return {"words": words} if words else {}


def whisper_text(transcript: Transcript) -> str:
    """As openai-whisper's command line writes text: a line a segment."""
    return "".join(f"{cue.text}\n" for cue in _cues(transcript))


def compression_ratio(text: str) -> float:
    """UTF-8 bytes a zlib byte, as Whisper counts them: above 2.4 the text repeats itself."""
    raw = text.encode()
    return round(len(raw) / len(zlib.compress(raw)), 4)


def _words(segments: Iterable[Segment]) -> list[dict[str, Any]]:
    return [
        {"word": word.word.strip(), "start": _seconds(word.start), "end": _seconds(word.end)}
        for segment in segments
        for word in segment.words
    ]


def _text(transcript: Transcript) -> str:
    """One line; or, where channels are speakers, a line a turn."""
    turns = groupby(transcript.segments, key=lambda segment: segment.speaker)
    lines = [
        (f"{_line(speaker)}: " if speaker else "") + transcript.join(segment.text for segment in said)
        for speaker, said in turns
    ]
    return "\n".join(lines) + "\n"


class _Cue(NamedTuple):
    start: int  # milliseconds; whole, so that no carry is lost between the fields of a time
    end: int
    text: str
    speaker: str | None


def _cues(transcript: Transcript) -> Iterator[_Cue]:
    """The segments that have text. Starts never go back, and every cue lasts: WebVTT wants end > start."""
    last = 0
    for segment in transcript.segments:
        if text := _line(segment.text):
            last = max(last, _milliseconds(segment.start))
            yield _Cue(last, max(last + 1, _milliseconds(segment.end)), text, segment.speaker)


def _srt(transcript: Transcript) -> str:
    return "".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_srt_text(cue)}\n\n"
        for number, cue in enumerate(_cues(transcript), 1)
    )


def _srt_text(cue: _Cue) -> str:
    said = f"{_line(cue.speaker)}: {cue.text}" if cue.speaker else cue.text
    return re.sub("-{2,}>", "->", said)  # the arrow of a timing line


def _vtt(transcript: Transcript) -> str:
    cues = "".join(
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_vtt_text(cue)}\n\n"
        for cue in _cues(transcript)
    )
    return f"WEBVTT\n\n{cues}"


def _vtt_text(cue: _Cue) -> str:
    voice = f"<v {_escape(_line(cue.speaker))}>" if cue.speaker else ""
    return voice + _escape(cue.text)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _tsv(transcript: Transcript) -> str:
    """Times in milliseconds, as openai-whisper writes it."""
    lines = [f"{cue.start}\t{cue.end}\t{cue.text}\n" for cue in _cues(transcript)]
    return "".join(["start\tend\ttext\n", *lines])


def _clock(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{rest:03d}"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _seconds(seconds: float) -> float:
    return round(seconds, 3)


def _line(text: str) -> str:
    """One line without control characters: no break, no tab, nothing that moves a terminal's cursor."""
    if not text.isprintable():
        text = "".join(
            char for char in text if char.isspace() or unicodedata.category(char) not in _UNWRITTEN
        )
    return " ".join(text.split())


def _encode(shown: dict[str, Any]) -> str:
    return msgspec.json.encode(shown).decode()


_PLAIN = "text/plain; charset=utf-8"
_RENDERERS: dict[str, tuple[Callable[[Transcript], str], str]] = {
    "json": (_json, "application/json"),
    "text": (_text, _PLAIN),
    "srt": (_srt, _PLAIN),
    "vtt": (_vtt, "text/vtt; charset=utf-8"),
    "tsv": (_tsv, "text/tab-separated-values; charset=utf-8"),
    "verbose_json": (_verbose_json, "application/json"),
}
FORMATS = tuple(_RENDERERS)

_SPACELESS = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})  # written without spaces

_UNWRITTEN = ("Cc", "Cs")  # control characters, halves of surrogate pairs

_CODES = {name: code for code, name in LANGUAGES.items()}
