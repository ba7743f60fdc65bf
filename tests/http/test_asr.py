"""/asr and /detect-language: what clients of whisper-asr-webservice, such as Bazarr, send and get."""

import asyncio
import io
import json
import wave
from pathlib import Path

import msgspec
import pytest

from tests.http_server import NOTHING, SOUND, said, the_error, until
from whisperd.engine.audio import Limits, decode
from whisperd.routes.asr import WAV_HEADER
from whisperd.task import Options, Plan, Problem, State, Word

PCM = b"\x00\x01" * 1600
JFK = Path(__file__).parents[1] / "data" / "jfk.wav"


def asking(server, path="/asr", sound=SOUND, name="film.mkv", **query):
    """The request on its way, as a task of the loop."""
    files = {"audio_file": (name, sound, "application/octet-stream")}
    return asyncio.create_task(server.client.post(path, params=query, files=files))


async def the_task(server, client):
    """The one that the client waits for."""
    while not (tasks := (await server.get("/tasks")).json()["tasks"]):
        assert not client.done(), client.result().text
        await asyncio.sleep(0.002)
    return await server.queue.get(tasks[0]["task_id"])


async def answered(server, *texts, path="/asr", **asked):
    """What the client is answered once the work is done, and the task that it waited for."""
    client = asking(server, path, **asked)
    task = await the_task(server, client)
    await server.plan(1)
    await server.finish(*(texts or ("Ask not.", "What.")))
    return await client, task


OUTPUTS = {
    "txt": "Ask not.\nWhat.\n",
    "srt": "1\n00:00:00,000 --> 00:00:01,000\nAsk not.\n\n2\n00:00:01,000 --> 00:00:02,000\nWhat.\n\n",
    "vtt": ("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nAsk not.\n\n00:00:01.000 --> 00:00:02.000\nWhat.\n\n"),
    "tsv": "start\tend\ttext\n0\t1000\tAsk not.\n1000\t2000\tWhat.\n",
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_answer_is_the_transcript_as_a_plain_text_with_a_file_name(with_server, output):
    async def body(server):
        answer, _ = await answered(server, output=output)

        assert (answer.status_code, answer.text) == (200, OUTPUTS[output])
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["asr-engine"] == "whisper.cpp"
        assert answer.headers["content-disposition"] == f'attachment; filename="film.mkv.{output}"'

    with_server(body)


def test_json_is_what_openai_whisper_writes(with_server):
    async def body(server):
        answer, _ = await answered(server, output="json")
        found = json.loads(answer.text)

        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert found.keys() == {"text", "segments", "language"}
        assert (found["text"], found["language"]) == ("Ask not. What.", "en")
        assert found["segments"][0].keys() == {
            *("id", "seek", "start", "end", "text", "tokens", "temperature"),
            *("avg_logprob", "compression_ratio", "no_speech_prob"),
        }

    with_server(body)


def test_words_are_in_the_json_that_asks_for_them(with_server):
    async def body(server):
        client = asking(server, output="json", word_timestamps="true")
        task = await the_task(server, client)
        await server.plan(1)
        word = Word(start=0.0, end=0.5, word="Ask", probability=0.98765)
        segment = msgspec.structs.replace(said(1, "Ask")[0], words=(word,))
        await server.queue.finish(await server.queue.claim(), [segment])
        found = json.loads((await client).text)

        assert task.options.word_timestamps
        expected = {"word": " Ask", "start": 0.0, "end": 0.5, "probability": 0.9877}
        assert found["segments"][0]["words"] == [expected]

    with_server(body)


def test_txt_is_what_comes_unless_another_output_is_asked_for(with_server):
    async def body(server):
        answer, task = await answered(server)

        assert answer.text == OUTPUTS["txt"]
        assert task.options == Options()

    with_server(body)


def test_every_option_of_the_query_reaches_the_task(with_server):
    query = {
        "task": "translate",
        "language": "German",
        "initial_prompt": "Äpfel",
        "word_timestamps": "true",
        "vad_filter": "false",
        "video_name": "/films/film.mkv",  # sent by newer Bazarr; not asked for
        "diarize": "false",
    }

    async def body(server):
        server.services.check_model = _knows_all
        _, task = await answered(server, **query)

        assert task.options == Options(
            language="de", translate=True, prompt="Äpfel", word_timestamps=True, vad=False
        )
        assert task.priority == server.config.http.interactive_priority
        assert task.audio.name == "film.mkv"

    with_server(body)


async def _knows_all(model):
    return True


# --- raw audio ---


def test_raw_audio_lies_in_the_spool_as_a_wav_file_that_every_decoder_takes(with_server):
    async def body(server):
        client = asking(server, sound=PCM, name="audio_file", encode="false")
        task = await the_task(server, client)
        kept = server.spool.audio(task.id).read_bytes()
        client.cancel()

        assert kept == WAV_HEADER + PCM
        assert task.audio.size == len(kept)

    with_server(body)


@pytest.mark.parametrize("end", [b"", b"\x01"], ids=["whole", "half a sample"])
def test_raw_audio_is_decoded_to_the_very_same_samples(end):
    with wave.open(str(JFK)) as file:
        pcm = file.readframes(file.getnframes())
    target = io.BytesIO()
    source = io.BytesIO(WAV_HEADER + pcm + end)
    decoded = decode(source, target, split=False, limits=Limits(), tick=lambda seconds: None)

    assert target.getvalue() == pcm
    assert (decoded.samples, decoded.channels, tuple(decoded.warnings)) == (len(pcm) // 2, 1, ())


def test_raw_audio_may_look_like_anything(with_server):
    """Silence, letters, the beginning of a ZIP archive: with encode=false no look at it tells what it is."""

    async def body(server):
        for sound in (b"\x00" * 3200, b"PK\x03\x04" * 400, b"letters " * 200):
            answer, _ = await answered(server, sound=sound, encode="false")
            assert answer.status_code == 200

    with_server(body)


def test_no_raw_audio_is_no_audio(with_idle_server):
    async def body(server):
        answer = await asking(server, sound=b"", encode="false")

        assert the_error(answer) == (422, "no_audio", "audio_file")
        assert await server.left() == NOTHING

    with_idle_server(body)


# --- the language ---


@pytest.mark.parametrize(
    ("language", "probability", "shown"),
    [
        ("de", 0.9312, {"detected_language": "german", "language_code": "de", "confidence": 0.9312}),
        ("ht", 1.0, {"detected_language": "haitian creole", "language_code": "ht", "confidence": 1.0}),
        ("en", None, {"detected_language": "english", "language_code": "en", "confidence": 0.0}),
    ],
)
def test_the_language_is_told_with_its_name_its_code_and_how_sure_it_is(
    with_server, language, probability, shown
):
    async def body(server):
        client = asking(server, "/detect-language", sound=PCM, encode="false")
        task = await the_task(server, client)
        plan = Plan(
            fingerprint="f", cuts=(), duration=1.0, language=language, language_probability=probability
        )
        await server.queue.plan(await server.queue.claim(), plan)
        answer = await client

        assert (answer.status_code, answer.json()) == (200, shown)
        assert answer.headers["content-type"] == "application/json"
        assert task.options.detect_only
        assert task.priority == server.config.http.interactive_priority

    with_server(body)


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"output": "docx"}, "output"),
        ({"task": "summarize"}, "task"),
        ({"language": "klingon"}, "language"),
        ({"language": "de"}, "language"),  # the model knows English only
        ({"encode": "perhaps"}, "encode"),
        ({"word_timestamps": "2"}, "word_timestamps"),
    ],
)
def test_a_wrong_option_is_refused_and_leaves_nothing(with_idle_server, query, param):
    async def body(server):
        assert the_error(await asking(server, **query)) == (422, "invalid_field", param)
        assert await server.left() == NOTHING

    with_idle_server(body)


@pytest.mark.parametrize("path", ["/asr", "/detect-language"])
def test_audio_is_asked_for_by_its_name_in_the_form(with_idle_server, path):
    async def body(server):
        answer = await server.client.post(path, files={"file": ("a.wav", SOUND)})
        assert the_error(answer) == (422, "missing_field", "audio_file")
        answer = await server.client.post(path, json={"audio_path": "/etc/passwd"})
        assert the_error(answer)[:2] == (415, "unsupported_content_type")
        answer = await asking(server, path, sound=b"just a text")
        assert the_error(answer) == (415, "unsupported_media", "audio_file")
        assert await server.left() == NOTHING

    with_idle_server(body)


@pytest.mark.parametrize("path", ["/asr", "/detect-language"])
def test_a_failed_task_is_an_error_and_no_transcript(with_server, path):
    async def body(server):
        client = asking(server, path)
        await the_task(server, client)
        problem = Problem("unsupported_media", "this is no media")
        await server.queue.fail(await server.queue.claim(), problem, final=True)

        assert the_error(await client)[:2] == (422, "unsupported_media")

    with_server(body)


def test_a_client_that_leaves_for_good_cancels_its_task(with_server):
    async def body(server):
        client = asking(server)
        task = await the_task(server, client)
        client.cancel()
        states = []
        while states[-1:] != [State.CANCELLED]:
            states.append((await server.queue.get(task.id)).state)
            await asyncio.sleep(0.002)

    with_server(body, http={"abandoned_seconds": 0.01})


def test_a_client_that_comes_back_joins_its_task(with_server):
    async def body(server):
        first = asking(server, sound=PCM, encode="false", output="srt")
        task = await the_task(server, first)
        first.cancel()
        again = asking(server, sound=PCM, encode="false", output="srt")
        await until(lambda: len(server.events._by_task.get(task.id, ())) == 1)
        await server.plan(1)
        await server.finish("Ask not.")
        answer = await again

        assert "Ask not." in answer.text
        assert [t["task_id"] for t in (await server.get("/tasks")).json()["tasks"]] == [task.id]

    with_server(body)
