"""/asr and /detect-language: what Bazarr and the other clients of whisper-asr-webservice send.

Options stand in the query, the audio in the form field `audio_file`; the answer waits for the transcript.
With `encode=false` the audio is raw: 16 bits, little-endian, mono, 16 kHz. It gets a WAV header in front, so
that everything behind takes it for what it is.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Annotated, Literal
from urllib.parse import quote

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from ulid import ULID

from whisperd.routes import Json, caller, services, submission
from whisperd.routes.admission import admit, admit_caller
from whisperd.routes.call import Answer, Call, Form
from whisperd.routes.errors import Refusal
from whisperd.routes.interactive import WhenOver, check_completed, submit_or_join
from whisperd.routes.submission import Submission
from whisperd.routes.tasks import check_model
from whisperd.spool import Incoming
from whisperd.task import SAMPLE_RATE, Audio, Task
from whisperd.transcript import Transcript, language_name, render, whisper_json, whisper_text

PLAIN = "text/plain; charset=utf-8"  # of every output, as there
ENDLESS = 2**32 - 1  # the length that the header of a stream has
_WAV = (b"RIFF", ENDLESS, b"WAVE", b"fmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16, b"data", ENDLESS)
WAV_HEADER = struct.pack("<4sI4s4sIHHIIHH4sI", *_WAV)  # PCM, one channel, two bytes a sample

_Encode = Annotated[bool, Meta(description="false: the audio is raw PCM of 16 bits, mono, 16 kHz.")]


class Asked(Struct, frozen=True, kw_only=True):
    task: Literal["transcribe", "translate"] = "transcribe"
    language: submission.Language = "auto"
    output: Literal["txt", "json", "srt", "vtt", "tsv"] = "txt"
    encode: _Encode = True
    initial_prompt: Annotated[str, Meta(max_length=4000)] | None = None
    word_timestamps: bool = False
    vad_filter: Annotated[bool, Meta(description="Leave out what is no speech.")] = True

    def submission(self) -> Submission:
        return Submission(
            language=submission.language_of(self.language),
            translate=self.task == "translate",
            prompt=self.initial_prompt,
            word_timestamps=self.word_timestamps,
            vad=self.vad_filter,
        )


class AskedLanguage(Struct, frozen=True, kw_only=True):
    encode: _Encode = True


class AudioFile(Struct, frozen=True, kw_only=True):
    """The audio is the form field `audio_file`; others are passed over."""


class LanguageView(Struct, frozen=True, kw_only=True):
    detected_language: str  # its English name, in lower case
    language_code: str
    confidence: float  # 0 to 1; 0 where nothing is said


async def asr(request: Request, query: Asked) -> Response:
    """Transcribe audio and answer with the transcript (whisper-asr-webservice, Bazarr)."""
    here = services(request)

    async def written(task: Task) -> Response:
        check_completed(task)
        marked = await here.queue.segments(task.id)
        text = await asyncio.to_thread(lambda: _written(Transcript.of(task, marked), query.output))
        return Response(text, media_type=PLAIN, headers=_headers(task, query))

    task = await _submitted(request, query.submission(), raw=not query.encode)
    return WhenOver(here, task, written, PLAIN if query.output == "json" else None)


async def detect_language(request: Request, query: AskedLanguage) -> Response:
    """Find out which language is spoken, and how sure that is (whisper-asr-webservice, Bazarr)."""
    task = await _submitted(request, Submission(detect_only=True), raw=not query.encode)
    return WhenOver(services(request), task, _language, Json.media_type)


async def _language(task: Task) -> Response:
    check_completed(task)
    return Json(
        LanguageView(
            detected_language=language_name(task.language),
            language_code=task.language or "",
            confidence=task.language_probability or 0.0,
        )
    )


async def _submitted(request: Request, options: Submission, *, raw: bool) -> Task:
    here = services(request)
    await admit_caller(request)
    task_id = str(ULID())
    async with here.spool.receive(task_id, submission.declared_bytes(request)) as incoming:
        audio = await _received(request, incoming, raw=raw)
        wanted = submission.interactive(options, caller(request), here.config)
        new = submission.new_task(task_id, wanted, audio, here.config, caller(request), None)
        await check_model(new, here)
        await admit(request, new)
    return await submit_or_join(here, new)


async def _received(request: Request, incoming: Incoming, *, raw: bool) -> Audio:
    if raw:
        await incoming.write(WAV_HEADER)
    config = services(request).config
    form = await submission.receive_form(request, incoming, config, lambda name: False, "audio_file")
    if raw and incoming.size == len(WAV_HEADER):
        raise Refusal(422, "no_audio", "the file is empty", "audio_file")
    return Audio(name=form.file_name, size=incoming.size, sha256=incoming.sha256)


def _written(transcript: Transcript, output: str) -> str:
    match output:
        case "txt":
            return whisper_text(transcript)
        case "json":
            return whisper_json(transcript)
        case _:
            return render(transcript, output)[0]


def _headers(task: Task, query: Asked) -> dict[str, str]:
    name = quote(f"{task.audio.name}.{query.output}")
    return {"Asr-Engine": "whisper.cpp", "Content-Disposition": f'attachment; filename="{name}"'}


calls = [
    Call(
        method="POST",
        path="/asr",
        handler=asr,
        right="submit",
        query=Asked,
        form=Form(fields=AudioFile, file="audio_file", open=True),
        answers={
            200: Answer(
                about="The transcript, as `output` asks.",
                media_types=(PLAIN,),
                headers={"Asr-Engine": "whisper.cpp", "Content-Disposition": "a file name"},
            )
        },
        refusals=(400, 410, 413, 415, 422, 429, 500, 503, 507),
    ),
    Call(
        method="POST",
        path="/detect-language",
        handler=detect_language,
        right="submit",
        query=AskedLanguage,
        form=Form(fields=AudioFile, file="audio_file", open=True),
        answers={200: Answer(about="The language.", body=LanguageView)},
        refusals=(400, 410, 413, 415, 422, 429, 500, 503, 507),
    ),
]
