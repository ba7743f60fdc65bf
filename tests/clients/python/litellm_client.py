"""The same for LiteLLM, as an SDK.

python litellm_client.py URL KEY FILE SCENARIO …
"""

import json
import sys

import litellm

url, key, path, *scenarios = sys.argv[1:]
litellm.telemetry = False


def transcribe(**options):
    with open(path, "rb") as file:
        where = {"api_base": f"{url}/v1", "api_key": key, "max_retries": 0}
        answer = litellm.transcription(**{"model": "openai/whisper-1", "file": file, **where, **options})
    return answer if isinstance(answer, str) else answer.model_dump()


SCENARIOS = {
    "json": transcribe,
    "text": lambda: transcribe(response_format="text"),
    "srt": lambda: transcribe(response_format="srt"),
    "words": lambda: transcribe(response_format="verbose_json", timestamp_granularities=["word"]),
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
