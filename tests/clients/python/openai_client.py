"""What people do with the official `openai` package. Prints what came of each scenario, and asserts nothing.

python openai_client.py URL KEY FILE SCENARIO …
"""

import json
import sys
import time

import openai

url, key, path, *scenarios = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


def transcribe(**options):
    with open(path, "rb") as file:
        return client.audio.transcriptions.create(**{"file": file, "model": "whisper-1", **options})


def shown(answer):
    return answer if isinstance(answer, str) else answer.to_dict()


def stream(**options):
    return [event.to_dict() for event in transcribe(stream=True, **options)]


def translate():
    with open(path, "rb") as file:
        return shown(client.audio.translations.create(file=file, model="whisper-1"))


def raw_answer():
    with open(path, "rb") as file:
        create = client.audio.transcriptions.with_streaming_response.create
        with create(file=file, model="whisper-1", response_format="text") as answer:
            return answer.read().decode()


SCENARIOS = {
    "json": lambda: shown(transcribe()),
    "logprobs": lambda: shown(transcribe(include=["logprobs"])),
    "text": lambda: shown(transcribe(response_format="text")),
    "srt": lambda: shown(transcribe(response_format="srt")),
    "vtt": lambda: shown(transcribe(response_format="vtt")),
    "verbose_json": lambda: shown(transcribe(response_format="verbose_json")),
    "diarized_json": lambda: shown(
        transcribe(model="gpt-4o-transcribe-diarize", response_format="diarized_json")
    ),
    "words": lambda: shown(
        transcribe(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    ),
    "stream": lambda: stream(),
    "options": lambda: shown(
        transcribe(
            model="tiny.en", language="en", prompt="A speech.", temperature=0.2, chunking_strategy="auto"
        )
    ),
    "extra_body": lambda: shown(
        transcribe(
            prompt=f"Task {time.time_ns()}.",  # like no other, or it would join one that was done
            extra_body={"priority": 7, "vad": True, "metadata": '{"from": "openai"}'},
        )
    ),
    "raw_answer": raw_answer,
    "translation": translate,
    "models": lambda: [model.id for model in client.models.list()],
    "model": lambda: shown(client.models.retrieve("tiny.en")),
    "unknown_model": lambda: shown(transcribe(model="no-such-model")),
}


def outcome(scenario):
    try:
        return {"answer": SCENARIOS[scenario]()}
    except openai.APIStatusError as error:
        return {
            "error": type(error).__name__,
            "status": error.status_code,
            "body": error.body,
            "request_id": error.request_id,
            "retry_after": error.response.headers.get("retry-after"),
        }


json.dump({scenario: outcome(scenario) for scenario in scenarios}, sys.stdout)
