"""/v1: every line of what OpenAI's clients count on. The test plays the worker."""

import asyncio
import contextlib
import json
import math

import openai
import pytest

from tests.http_server import NO_TLS, SOUND, a_field, a_form, the_file, until
from whisperd.routes.form import MAX_FIELD_BYTES
from whisperd.routes.openai_form import ALIASES
from whisperd.task import PLAN, Cut, Piece, Plan, Problem, Segment, Word

TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
NEVER = 3600.0
PATIENT = {"heartbeat_after_seconds": NEVER, "abandoned_seconds": NEVER}
BEATING = {"heartbeat_after_seconds": 0.0, "heartbeat_seconds": 0.01, "abandoned_seconds": NEVER}
BOOM = Problem("worker_crashed", "child 7 was killed by signal 11")
SEGMENT_FIELDS = {
    *("id", "seek", "start", "end", "text", "tokens", "temperature"),
    *("avg_logprob", "compression_ratio", "no_speech_prob"),
}


@pytest.fixture
def with_openai(with_server):
    def run(body, http=None, **settings):
        with_server(body, http={**PATIENT, **(http or {})}, **settings)

    return run


def asking(server, path=TRANSCRIPTIONS, sound=SOUND, **fields):
    """A request under way; a list is a repeated field, its name is written with [] as the clients do."""
    data = {f"{name}[]" if isinstance(value, list) else name: value for name, value in fields.items()}
    posting = server.client.post(path, files={"file": ("a.wav", sound, "audio/wav")}, data=data)
    return asyncio.create_task(posting)


async def work(server, *texts, language="en", **planned):
    """Play the worker for the one task in line: a chunk a text."""
    await until(lambda: server.listeners() > 0)
    chunk = await server.queue.claim()
    assert chunk.number == PLAN
    cuts = tuple(Cut(pieces=(Piece(n * 160_000, (n + 1) * 160_000),)) for n in range(len(texts)))
    plan = Plan(fingerprint="f", cuts=cuts, duration=10.5, language=language, **planned)
    await server.queue.plan(chunk, plan)
    for _ in texts:
        chunk = await server.queue.claim()
        await server.queue.finish(chunk, [spoken(texts[chunk.number - 1], chunk.number)])
    return chunk.task


def spoken(text, number=1):
    start = (number - 1) * 10.0
    words = text.split()
    return Segment(
        start=start + 0.5,
        end=start + 2.5,
        text=text,
        tokens=tuple(range(len(words))),
        avg_logprob=-0.25,
        no_speech_prob=0.01,
        words=tuple(
            Word(start=start + 0.5 + n / 4, end=start + 0.7 + n / 4, word=word, probability=0.5)
            for n, word in enumerate(words)
        ),
    )


async def answered(server, *texts, path=TRANSCRIPTIONS, **fields):
    asked = asking(server, path, **fields)
    await work(server, *(texts or ("Ask not what",)))
    answer = await asked
    assert answer.status_code == 200, answer.text
    return answer


def openai_error(answer):
    """Status, type, code, param of an answer that has the shape of OpenAI's errors and tells no secrets."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    for secret in ("Traceback", "/tmp/", "/work", ".py", "sqlite", "msgspec", "Error("):
        assert secret not in body["error"]["message"]
    return answer.status_code, body["error"]["type"], body["error"]["code"], body["error"]["param"]


# --- bodies ---


def test_json_is_the_text_and_what_it_cost(with_openai):
    async def body(server):
        answer = await answered(server, "Ask not", "what.", model="whisper-1")

        assert answer.json() == {"text": "Ask not what.", "usage": {"type": "duration", "seconds": 11}}
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"].startswith("req_")

    with_openai(body)


def test_verbose_json_has_all_ten_fields_of_a_segment_and_the_language_by_its_name(with_openai):
    async def body(server):
        answer = await answered(server, "Ask not", "what.", response_format="verbose_json")
        shown = answer.json()

        assert answer.headers["content-type"] == "application/json"
        assert (shown["task"], shown["language"], shown["duration"]) == ("transcribe", "english", 10.5)
        assert shown["text"] == "Ask not what."
        assert [set(segment) for segment in shown["segments"]] == [SEGMENT_FIELDS] * 2
        assert shown["segments"][1]["seek"] == 1050
        assert shown["segments"][0]["avg_logprob"] == -0.25
        assert shown["usage"] == {"type": "duration", "seconds": 11}
        assert "words" not in shown

    with_openai(body)


@pytest.mark.parametrize("name", ["timestamp_granularities", "timestamp_granularities[]"])
@pytest.mark.parametrize("asked", [["word"], ["segment", "word"]])
def test_words_are_there_when_they_are_asked_for(with_openai, name, asked):
    async def body(server):
        answer = await answered(server, response_format="verbose_json", **{name: tuple(asked)})
        shown = answer.json()

        assert shown["words"][1] == {"word": "not", "start": 0.75, "end": 0.95}
        assert [word["word"] for word in shown["words"]] == ["Ask", "not", "what"]
        assert len(shown["segments"]) == 1

    with_openai(body)


def test_words_are_not_worked_out_for_a_body_that_has_none(with_openai):
    async def body(server):
        await answered(server, timestamp_granularities=["word", "segment"])
        await asking(server, response_format="verbose_json", timestamp_granularities=["segment"])

        tasks = (await server.get("/tasks")).json()["tasks"]
        options = [(await server.queue.get(task["task_id"])).options for task in tasks]
        assert [option.word_timestamps for option in options] == [False]

    with_openai(body)


def test_diarized_json_has_a_speaker_a_channel(with_openai):
    async def body(server):
        asked = asking(server, response_format="diarized_json", model="gpt-4o-transcribe-diarize")
        await until(lambda: server.listeners() > 0)
        chunk = await server.queue.claim()
        assert chunk.task.options.channels == "split"
        cuts = tuple(Cut(pieces=(Piece(0, 160_000),), channel=n, channels=2) for n in range(2))
        await server.queue.plan(chunk, Plan(fingerprint="f", cuts=cuts, duration=10.0, language="en"))
        for speaker, start in (("A", 4.0), ("B", 1.0)):
            segment = Segment(start=start, end=start + 2, text=f"I am {speaker}.", speaker=speaker)
            await server.queue.finish(await server.queue.claim(), [segment])

        assert (await asked).json() == {
            "task": "transcribe",
            "duration": 10.0,
            "text": "I am B. I am A.",
            "segments": [
                {
                    "id": f"seg_00{number}",
                    "start": start,
                    "end": start + 2,
                    "text": f"I am {speaker}.",
                    "type": "transcript.text.segment",
                    "speaker": speaker,
                }
                for number, speaker, start in ((1, "B", 1.0), (2, "A", 4.0))
            ],
            "usage": {"type": "duration", "seconds": 10},
        }

    with_openai(body)


def test_a_file_of_one_channel_has_one_speaker(with_openai):
    async def body(server):
        answer = await answered(server, response_format="diarized_json")

        assert [segment["speaker"] for segment in answer.json()["segments"]] == ["A"]

    with_openai(body)


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("text", "Ask not what\n"),
        ("srt", "1\n00:00:00,500 --> 00:00:02,500\nAsk not what\n\n"),
        ("vtt", "WEBVTT\n\n00:00:00.500 --> 00:00:02.500\nAsk not what\n\n"),
    ],
)
def test_text_and_subtitles_come_as_they_are(with_openai, format, text):
    async def body(server):
        answer = await answered(server, response_format=format)

        assert answer.text == text
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"

    with_openai(body)


def test_logprobs_come_a_word_where_they_are_asked_for(with_openai):
    async def body(server):
        answer = await answered(server, "Ask nöt", include=["logprobs"])
        logprobs = answer.json()["logprobs"]

        assert "".join(item["token"] for item in logprobs) == answer.json()["text"]
        assert logprobs[1] == {
            "token": " nöt",
            "logprob": round(math.log(0.5), 4),
            "bytes": list(" nöt".encode()),
        }

    with_openai(body)


def test_a_file_without_speech_is_an_empty_transcript(with_openai):
    async def body(server):
        for format in ("json", "verbose_json", "diarized_json"):
            asked = asking(server, sound=SOUND + format.encode(), response_format=format)
            await until(lambda: server.listeners() > 0)
            empty = Plan(fingerprint="f", cuts=(), duration=3.0, language="en")
            await server.queue.plan(await server.queue.claim(), empty)

            assert (await asked).json()["text"] == ""

    with_openai(body)


def test_translations_come_in_english(with_openai):
    async def body(server):
        asked = asking(server, TRANSLATIONS, model="tiny", response_format="verbose_json")
        task = await work(server, "Ask not", language="de")
        shown = (await asked).json()

        assert task.options.translate
        assert (shown["task"], shown["language"], shown["text"]) == ("translate", "english", "Ask not")

    with_openai(body)


# --- the form ---


@pytest.mark.parametrize("first", [True, False])
def test_the_file_may_come_first_or_last(with_openai, first):
    async def body(server):
        fields = [a_field("model", "whisper-1"), a_field("response_format", "text")]
        parts = [the_file(), *fields] if first else [*fields, the_file()]
        kind = {"Content-Type": "multipart/form-data; boundary=frontier"}
        asked = asyncio.create_task(server.client.post(TRANSCRIPTIONS, content=a_form(*parts), headers=kind))
        await work(server, "Ask not")

        assert (await asked).text == "Ask not\n"

    with_openai(body)


def test_every_field_of_the_clients_is_understood_or_passed_over(with_openai):
    voice = "data:audio/wav;base64," + "A" * (2 * MAX_FIELD_BYTES)

    async def body(server):
        fields = {
            "model": "tiny",
            "language": "German",
            "prompt": "x" * 9000 + "Berlin",
            "response_format": "json",
            "temperature": "0.2",
            "chunking_strategy[type]": "server_vad",
            "chunking_strategy[threshold]": "0.5",
            "chunking_strategy[prefix_padding_ms]": "300",
            "chunking_strategy[silence_duration_ms]": "200",
            "known_speaker_names": ["ann", "bob"],
            "known_speaker_references": [voice, voice],
            "languages": ["de", "en"],
            "stream": "false",
            "user": "me",
        }
        asked = asking(server, **fields)
        task = await work(server, "Frage nicht", language="de")

        assert (await asked).json()["text"] == "Frage nicht"
        assert (task.model, task.options.language, task.options.temperature) == ("tiny", "de", 0.2)
        assert task.options.prompt.endswith("xBerlin")
        assert len(task.options.prompt) == 4000

    with_openai(body)


def test_keywords_are_told_the_model_before_the_prompt(with_openai):
    async def body(server):
        asked = asking(server, keywords=["Kubernetes", "etcd"], prompt="A talk.")
        task = await work(server, "Ask not")
        await asked

        assert task.options.prompt == "Kubernetes, etcd. A talk."

    with_openai(body)


def test_every_submit_option_works_as_a_plain_field(with_openai):
    async def body(server):
        extra = {
            "priority": "7",
            "beam_size": "1",
            "vad": "false",
            "word_timestamps": "true",
            "tenant": "acme",
            "max_retries": "0",
            "timeout_seconds": "60",
            "metadata": '{"your":"own"}',
            "channels": "split",
        }
        asked = asking(server, **extra)
        task = await work(server, "Ask not")
        await asked

        assert (task.priority, task.tenant, task.max_retries, task.timeout_seconds) == (7, "acme", 0, 60)
        assert (task.options.beam_size, task.options.vad, task.options.word_timestamps) == (1, False, True)
        assert (task.options.channels, task.metadata) == ("split", {"your": "own"})

    with_openai(body)


def test_a_waiting_client_goes_before_what_nobody_waits_for(with_openai):
    async def body(server):
        await server.submit()
        asked = asking(server)
        task = await work(server, "Ask not")
        await asked

        assert task.priority == server.config.http.interactive_priority == 10

    with_openai(body)


@pytest.mark.parametrize("plan", ["FREE", "PRO"])
def test_a_plan_names_the_priority_here_too(with_openai, plan):
    async def body(server):
        asked = asking(server, plan=plan)
        task = await work(server, "Ask not")
        await asked

        assert task.priority == server.config.plans.priority(plan)

    with_openai(body)


# --- stream=true ---


@contextlib.asynccontextmanager
async def streamed(server, **fields):
    """The frames of an open stream, as parsed data; [DONE] as it is, a comment as text."""
    files = {"file": ("a.wav", SOUND, "audio/wav")}
    data = {"stream": "true", **fields}
    async with server.client.stream("POST", TRANSCRIPTIONS, files=files, data=data) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield _events(answer)


async def _events(answer):
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))
        elif line:
            yield line


async def planned(server, *cuts):
    await until(lambda: server.listeners() > 0)
    plan = Plan(fingerprint="f", cuts=cuts, duration=10.5, language="en")
    return await server.queue.plan(await server.queue.claim(), plan)


def test_a_stream_tells_the_segments_as_their_chunks_are_finished_and_then_the_whole(with_openai):
    async def body(server):
        async def worker():
            await planned(server, *(Cut(pieces=(Piece(n * 160_000, (n + 1) * 160_000),)) for n in range(2)))
            await server.queue.finish(await server.queue.claim(), [spoken("Ask not")])

        working = asyncio.create_task(worker())
        async with streamed(server) as events:
            assert await anext(events) == {"type": "transcript.text.delta", "delta": "Ask not"}
            await working
            await server.queue.finish(await server.queue.claim(), [spoken("what.", 2)])
            rest = [event async for event in events]

        assert rest == [
            {"type": "transcript.text.delta", "delta": " what."},
            {
                "type": "transcript.text.done",
                "text": "Ask not what.",
                "usage": {"type": "duration", "seconds": 11},
            },
            "data: [DONE]",
        ]

    with_openai(body)


def test_a_stream_of_two_channels_tells_who_speaks_in_order_of_time(with_openai):
    async def body(server):
        async def worker():
            piece = (Piece(0, 160_000),)
            await planned(server, *(Cut(pieces=piece, channel=n, channels=2) for n in range(2)))
            for speaker, start in (("A", 4.0), ("B", 1.0)):
                segment = Segment(start=start, end=start + 2, text=f"I am {speaker}.", speaker=speaker)
                await server.queue.finish(await server.queue.claim(), [segment])

        working = asyncio.create_task(worker())
        async with streamed(server, response_format="diarized_json") as events:
            told = [event async for event in events]
        await working

        assert [event.get("delta") or event.get("speaker") for event in told[:4]] == [
            "I am B.",
            "B",
            " I am A.",
            "A",
        ]
        assert told[1]["type"] == "transcript.text.segment"
        assert (told[1]["id"], told[1]["start"], told[1]["end"]) == ("seg_001", 1.0, 3.0)
        assert told[4]["text"] == "I am B. I am A."

    with_openai(body)


def test_a_stream_that_waits_is_kept_open_by_comments(with_openai):
    async def body(server):
        async with streamed(server) as events:
            assert [await anext(events) for _ in range(3)] == [": ping"] * 3
            await work(server, "Ask not")
            rest = [event async for event in events if event != ": ping"]

        assert [event["type"] for event in rest[:-1]] == ["transcript.text.delta", "transcript.text.done"]

    with_openai(body, http=BEATING)


def test_what_fails_in_mid_stream_is_told_in_the_stream(with_openai):
    async def body(server):
        async with streamed(server) as events:
            assert await anext(events) == ": ping"
            await server.queue.fail(await server.queue.claim(), BOOM, final=True)
            rest = [event async for event in events if event != ": ping"]

        assert rest == [
            {
                "error": {
                    "message": BOOM.message,
                    "type": "server_error",
                    "param": None,
                    "code": "worker_crashed",
                }
            }
        ]

    with_openai(body, http=BEATING)


def test_what_fails_before_anything_was_told_has_its_status(with_openai):
    async def body(server):
        asked = asking(server, stream="true")
        await until(lambda: server.listeners() > 0)
        await server.queue.fail(await server.queue.claim(), Problem("no_audio", "no audio in it"), final=True)

        assert openai_error(await asked) == (400, "invalid_request_error", "no_audio", "file")

    with_openai(body)


def test_a_stop_ends_a_stream_with_an_error(with_openai):
    async def body(server):
        async with streamed(server) as events:
            await anext(events)
            server.events.close()
            rest = [event async for event in events if event != ": ping"]

        assert [event["error"]["code"] for event in rest] == ["shutting_down"]

    with_openai(body, http=BEATING)


def test_a_stream_whose_client_leaves_for_good_has_its_task_cancelled(with_openai):
    async def body(server):
        async with streamed(server) as events:
            await anext(events)
            (task,) = (await server.get("/tasks")).json()["tasks"]
        ended = (await server.get(f"/tasks/{task['task_id']}", wait=10)).json()

        assert ended["status"] == "cancelled"

    with_openai(body, http={**BEATING, "abandoned_seconds": 0.0})


# --- errors ---


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "nosuch"}, (404, "invalid_request_error", "model_not_found", "model")),
        ({"model": "../tiny"}, (404, "invalid_request_error", "model_not_found", "model")),
        ({"response_format": "docx"}, (400, "invalid_request_error", "invalid_field", "response_format")),
        ({"language": "klingon"}, (400, "invalid_request_error", "invalid_field", "language")),
        ({"language": "de"}, (400, "invalid_request_error", "invalid_field", "language")),
        ({"temperature": "2"}, (400, "invalid_request_error", "invalid_field", "temperature")),
        ({"stream": "perhaps"}, (400, "invalid_request_error", "invalid_field", "stream")),
        (
            {"timestamp_granularities": ["syllable"]},
            (400, "invalid_request_error", "invalid_field", "timestamp_granularities"),
        ),
        ({"sound": b"%PDF-1.7 " * 9}, (400, "invalid_request_error", "unsupported_media", "file")),
        ({"sound": bytes(2**20 + 1)}, (413, "invalid_request_error", "too_large", "file")),
    ],
)
def test_a_wrong_request_is_told_as_openai_tells_it_and_leaves_nothing(with_openai, fields, expected):
    async def body(server):
        assert openai_error(await asking(server, **fields)) == expected
        assert (await server.left())["files"] == []
        assert (await server.left())["task"] == 0

    with_openai(body)


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
def test_a_request_without_a_file_or_a_form_is_wrong(with_openai, path):
    async def body(server):
        form = {"Content-Type": "multipart/form-data; boundary=frontier"}
        for content, headers, code in [
            (a_form(a_field("model", "whisper-1")), form, "missing_field"),
            (a_form(the_file(), end=False), form, "malformed_multipart"),
            (b'{"file": "a.wav"}', {"Content-Type": "application/json"}, "unsupported_content_type"),
            (b"", {}, "unsupported_content_type"),
        ]:
            answer = await server.client.post(path, content=content, headers=headers)
            assert openai_error(answer)[:3] == (400, "invalid_request_error", code)

    with_openai(body)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/audio/speech", 404, "not_found"),
        ("POST", "/v1/chat/completions", 404, "not_found"),
        ("GET", TRANSCRIPTIONS, 405, "method_not_allowed"),
        ("DELETE", "/v1/models/whisper-1", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there_below_v1_is_told_in_the_same_way(with_openai, method, path, status, code):
    async def body(server):
        assert openai_error(await server.client.request(method, path))[:3] == (
            status,
            "invalid_request_error",
            code,
        )

    with_openai(body)


def test_a_full_queue_is_429_with_a_time_to_come_back(with_openai):
    async def body(server):
        await server.submit()
        answer = await asking(server)

        assert openai_error(answer) == (429, "rate_limit_error", "queue_full", None)
        assert 0 < int(answer.headers["retry-after"]) <= 120

    with_openai(body, max_queued=1)


@pytest.mark.parametrize(
    ("problem", "status", "kind"),
    [
        (Problem("no_audio", "there is no audio in it"), 400, "invalid_request_error"),
        (Problem("unsupported_media", "this is no media"), 400, "invalid_request_error"),
        (Problem("audio_too_long", "it is too long"), 400, "invalid_request_error"),
        (BOOM, 500, "server_error"),
        (Problem("out_of_memory", "the worker ran out of memory"), 500, "server_error"),
    ],
)
def test_a_task_that_fails_says_whose_fault_it_is(with_openai, problem, status, kind):
    async def body(server):
        asked = asking(server)
        await until(lambda: server.listeners() > 0)
        await server.queue.fail(await server.queue.claim(), problem, final=True)

        assert openai_error(await asked)[:3] == (status, kind, problem.code)

    with_openai(body)


def test_a_cancelled_task_is_not_asked_for_again(with_openai):
    async def body(server):
        asked = asking(server)
        await until(lambda: server.listeners() > 0)
        (task,) = (await server.get("/tasks")).json()["tasks"]
        await server.client.delete(f"/tasks/{task['task_id']}")

        assert openai_error(await asked)[:3] == (400, "invalid_request_error", "cancelled")

    with_openai(body)


def test_a_draining_daemon_sends_the_client_to_come_again(with_openai):
    async def body(server):
        server.services.draining = True
        answer = await asking(server)

        assert openai_error(answer)[:3] == (503, "server_error", "shutting_down")
        assert answer.headers["retry-after"]

    with_openai(body)


# --- heartbeats and retries ---


@pytest.mark.parametrize("format", ["json", "verbose_json", "diarized_json"])
def test_a_long_wait_for_json_is_filled_with_spaces(with_openai, format):
    async def body(server):
        files = {"file": ("a.wav", SOUND, "audio/wav")}
        data = {"response_format": format}
        async with server.client.stream("POST", TRANSCRIPTIONS, files=files, data=data) as answer:
            pieces = answer.aiter_bytes()
            begun = await anext(pieces)
            await work(server, "Ask not")
            whole = begun + b"".join([piece async for piece in pieces])

        assert begun.strip(b" ") == b""
        assert json.loads(whole)["text"] == "Ask not"
        assert answer.headers["x-request-id"]

    with_openai(body, http=BEATING)


@pytest.mark.parametrize("format", ["text", "srt", "vtt"])
def test_text_and_subtitles_begin_with_what_they_must(with_openai, format):
    async def body(server):
        answer = await answered(server, response_format=format)

        assert answer.text[0] in "A1W"

    with_openai(body, http=BEATING)


def test_a_retry_joins_the_task_that_runs_and_other_parameters_do_not(with_openai):
    async def body(server):
        first = asking(server)
        await until(lambda: server.listeners() == 1)
        retries = [asking(server), asking(server, response_format="verbose_json"), asking(server, stream="1")]
        await until(lambda: server.listeners() == 4)
        other = asking(server, temperature="0.5")
        await until(lambda: server.listeners() == 5)

        assert (await server.left())["task"] == 2
        for _ in range(2):
            await work(server, "Ask not")
        for answer in await asyncio.gather(first, *retries, other):
            assert answer.status_code == 200

    with_openai(body)


# --- models ---


def test_the_models_are_those_installed_and_the_names_that_clients_know(with_openai):
    async def body(server):
        listed = (await server.get("/v1/models")).json()
        names = [model["id"] for model in listed["data"]]

        assert listed["object"] == "list"
        assert set(names) == {*ALIASES, "tiny.en", "tiny"}
        for model in listed["data"]:
            assert (model["object"], model["owned_by"]) == ("model", "whisperd")
            assert model["created"] > 1_600_000_000
            assert (await server.get(f"/v1/models/{model['id']}")).json() == model

    with_openai(body)


@pytest.mark.parametrize("name", [*ALIASES, "gpt-4o-mini-transcribe-2025-12-15", "tiny.en"])
def test_a_name_that_openai_has_means_the_default_model(with_openai, name):
    async def body(server):
        asked = asking(server, model=name)
        task = await work(server, "Ask not")

        assert (await asked).status_code == 200
        assert task.model == "tiny.en"

    with_openai(body)


@pytest.mark.parametrize("name", ["openai/whisper-9", "openai%2Fwhisper-9", "nosuch", "a/b/c", "%2e%2e%2f"])
def test_a_model_that_is_not_there_is_not_found_whatever_its_name(with_openai, name):
    async def body(server):
        answer = await server.get(f"/v1/models/{name}")

        assert openai_error(answer) == (404, "invalid_request_error", "model_not_found", "model")

    with_openai(body)


# --- the official client ---


@contextlib.asynccontextmanager
async def official(server, *hooks, **options):
    """OpenAI's client for Python, with nothing changed but the URL; `hooks` see each answer begin."""
    http = openai.DefaultAsyncHttpxClient(
        verify=NO_TLS, trust_env=False, event_hooks={"response": list(hooks)}
    )
    url = f"http://127.0.0.1:{server.port}/v1"
    async with openai.AsyncOpenAI(api_key="any", base_url=url, http_client=http, **options) as client:
        yield client


def test_the_official_client_reads_what_it_is_sent(with_openai):
    async def body(server):
        async with official(server) as client:
            asked = asyncio.create_task(
                client.audio.transcriptions.create(
                    model="whisper-1",
                    file=("a.wav", SOUND),
                    response_format="verbose_json",
                    timestamp_granularities=["word", "segment"],
                    extra_body={"priority": 5, "vad": False},
                )
            )
            task = await work(server, "Ask not")
            said = await asked

            assert (task.priority, task.options.vad) == (5, False)
            assert (said.text, said.language, said.duration) == ("Ask not", "english", 10.5)
            assert [word.word for word in said.words] == ["Ask", "not"]
            assert said.segments[0].avg_logprob == -0.25
            assert said._request_id.startswith("req_")
            assert [model.id async for model in client.models.list()][:2] == list(ALIASES[:2])

    with_openai(body)


def test_the_official_client_raises_what_it_is_told(with_openai):
    async def body(server):
        async with official(server, max_retries=0) as client:
            with pytest.raises(openai.NotFoundError) as missing:
                await client.audio.transcriptions.create(model="nosuch", file=("a.wav", SOUND))
            with pytest.raises(openai.BadRequestError) as wrong:
                await client.audio.transcriptions.create(model="whisper-1", file=("a.pdf", b"%PDF-1.7 " * 9))

        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        assert (wrong.value.code, wrong.value.type) == ("unsupported_media", "invalid_request_error")

    with_openai(body)


def test_the_official_client_that_was_cut_off_comes_again_and_is_told_why(with_openai, monkeypatch):
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)

    begun = asyncio.Event()

    async def note(answer):
        begun.set()

    async def body(server):
        async with official(server, note, max_retries=1) as client:
            asked = asyncio.create_task(
                client.audio.transcriptions.create(model="whisper-1", file=("a.wav", SOUND))
            )
            await begun.wait()
            await server.queue.fail(
                await server.queue.claim(), Problem("no_audio", "no audio in it"), final=True
            )
            with pytest.raises(openai.BadRequestError) as wrong:
                await asked

        assert wrong.value.code == "no_audio"
        assert (await server.left())["task"] == 1

    with_openai(body, http=BEATING)
