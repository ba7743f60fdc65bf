"""/v1: OpenAI's audio API on the same queue, for programs that know no other.

Each answer is the transcript itself, so a client waits for it: see interactive.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from ulid import ULID

from whisperd.routes import Json, Services, caller, services, submission
from whisperd.routes.admission import admit, admit_caller
from whisperd.routes.call import Answer, Call, Form
from whisperd.routes.errors import Refusal
from whisperd.routes.interactive import WhenOver, check_completed, submit_or_join
from whisperd.routes.openai_bodies import JSON, JSON_FORMATS, PLAIN, TranscriptionBody, written
from whisperd.routes.openai_form import ALIASES, OpenAIForm, is_alias, takes, understood
from whisperd.routes.openai_stream import MEDIA_TYPE, Streamed
from whisperd.routes.submission import NAMES_AUDIO
from whisperd.routes.tasks import check_model
from whisperd.task import Audio, NewTask, Task
from whisperd.transcript import Transcript


async def transcribe(request: Request) -> Response:
    """Transcribe audio, as OpenAI's API does.

    Every submit option of POST /tasks/transcription is a form field here, too.
    """
    here = services(request)
    form, task = await _asked(request, here, translate=False)
    return Streamed(here, task, form) if form.stream else _when_over(here, task, form)


async def translate(request: Request) -> Response:
    """Transcribe audio into English, as OpenAI's API does."""
    here = services(request)
    form, task = await _asked(request, here, translate=True)
    return _when_over(here, task, form)


async def _asked(request: Request, here: Services, *, translate: bool) -> tuple[OpenAIForm, Task]:
    await admit_caller(request)
    form, new = await _received(request, here, translate=translate)
    return form, await submit_or_join(here, new)


async def _received(request: Request, here: Services, *, translate: bool) -> tuple[OpenAIForm, NewTask]:
    task_id = str(ULID())
    async with here.spool.receive(task_id, submission.declared_bytes(request)) as incoming:
        sent = await submission.receive_form(request, incoming, here.config, takes)
        form = _for_caller(request, understood(sent.fields), translate=translate)
        audio = Audio(name=sent.file_name, size=incoming.size, sha256=incoming.sha256)
        new = submission.new_task(task_id, form, audio, here.config, caller(request), None)
        await check_model(new, here)
        await admit(request, new)
    return form, new


def _for_caller(request: Request, form: OpenAIForm, *, translate: bool) -> OpenAIForm:
    if translate:
        form = replace(form, translate=True)
    if form.priority is None and form.plan is None:
        form = submission.interactive(form, caller(request), services(request).config)
    return form


def _when_over(here: Services, task: Task, form: OpenAIForm) -> Response:
    spaced = JSON if form.response_format in JSON_FORMATS else None
    return WhenOver(here, task, partial(_written, here, form), spaced)


async def _written(here: Services, form: OpenAIForm, task: Task) -> Response:
    check_completed(task)
    marked = await here.queue.segments(task.id)
    return await asyncio.to_thread(lambda: written(Transcript.of(task, marked), form))


class ModelView(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int  # Unix seconds
    owned_by: Literal["whisperd"] = "whisperd"


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelView]


async def list_models(request: Request) -> Response:
    """The models that are installed, and the names that stand for the default one."""
    here = services(request)
    installed = await here.installed_models()
    names = dict.fromkeys([*ALIASES, here.config.workers.model, *installed])
    return Json(ModelList(data=[_model(name, here, installed) for name in names]))


async def show_model(request: Request) -> Response:
    """A model, whose name may hold slashes."""
    here, name = services(request), str(request.path_params["id"])
    installed = await here.installed_models()
    if not is_alias(name) and name not in installed:
        raise Refusal(404, "model_not_found", "there is no such model; GET /v1/models lists them", "model")
    return Json(_model(name, here, installed))


def _model(name: str, here: Services, installed: Mapping[str, float]) -> ModelView:
    created = installed.get(name) or installed.get(here.config.workers.model, 0.0)
    return ModelView(id=name, created=int(created))


_TRANSCRIPTION = Answer(
    about="The transcription, as `response_format` asks; with `stream`, as it is made.",
    body=TranscriptionBody,
    media_types=(JSON, PLAIN, MEDIA_TYPE),
)
_TRANSLATION = Answer(
    about="The transcription in English, as `response_format` asks.",
    body=TranscriptionBody,
    media_types=(JSON, PLAIN),
)
_REFUSALS = (400, 404, 413, 429, 500, 503, 507)

calls = [
    Call(
        method="POST",
        path="/v1/audio/transcriptions",
        handler=transcribe,
        right="submit",
        form=Form(fields=OpenAIForm, without=NAMES_AUDIO, open=True),
        answers={200: _TRANSCRIPTION},
        refusals=_REFUSALS,
    ),
    Call(
        method="POST",
        path="/v1/audio/translations",
        handler=translate,
        right="submit",
        form=Form(fields=OpenAIForm, without=NAMES_AUDIO, open=True),
        answers={200: _TRANSLATION},
        refusals=_REFUSALS,
    ),
    Call(
        method="GET",
        path="/v1/models",
        handler=list_models,
        right="read",
        answers={200: Answer(about="The models.", body=ModelList)},
    ),
    Call(
        method="GET",
        path="/v1/models/{id:path}",
        handler=show_model,
        right="read",
        answers={200: Answer(about="The model.", body=ModelView)},
        refusals=(404,),
    ),
]
