"""The same for LiteLLM, as an SDK.

python litellm_client.py URL KEY FILE SCENARIO …
"""

import json
import sys

import litellm

url, key, path, *scenarios = sys.argv[1:]
litellm.telemetry = False


def asked(**options):
    with open(path, "rb") as file:
        where = {"api_base": f"{url}/v1", "api_key": key, "max_retries": 0}
        return litellm.transcription(**{"model": "openai/whisper-1", "file": file, **where, **options})


def transcribe(**options):
    return asked(**options).model_dump()


def stream():
    """Of one of OpenAI's models only: for others LiteLLM knows no `stream`."""
    return [event.to_dict() for event in asked(model="openai/gpt-transcribe", stream=True)]


SCENARIOS = {
    "json": transcribe,
    "text": lambda: transcribe(response_format="text"),
    "srt": lambda: transcribe(response_format="srt"),
    "vtt": lambda: transcribe(response_format="vtt"),
    "verbose_json": lambda: transcribe(response_format="verbose_json"),
    "options": lambda: transcribe(language="en", prompt="A speech.", temperature=0.2),
    "words": lambda: transcribe(response_format="verbose_json", timestamp_granularities=["word"]),
    "stream": stream,
    "unknown_model": lambda: transcribe(model="openai/no-such-model"),
}


def outcome(scenario):
    try:
        return {"answer": SCENARIOS[scenario]()}
    except Exception as error:
        return {
            "error": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "said": str(error),
        }


json.dump({scenario: outcome(scenario) for scenario in scenarios}, sys.stdout)
