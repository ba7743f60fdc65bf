"""What schemathesis cannot know from the document, loaded by its command line.

A hook makes values that mean something here, or keeps a request from waiting for what never comes. Only the
last one judges an answer, and says why.
"""

import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.transport.serialization import Binary

LONGEST_WAIT = 0.5  # seconds
TEXTS = {"prompt": r"(?s).{1,4000}", "tenant": r"[\w.@:+-]{1,100}"}
LISTS = {"include": r"(?s).*", "keywords": r"(?s).*", "languages": r"(?s).*"}  # by OpenAI's API passed over
LISTS["timestamp_granularities"] = r"word|segment"
QUERIED = {"status", "state"}  # lists
BOOLS = {"translate", "word_timestamps", "vad", "detect_only", "stream"}
FILES = {"file", "audio_file"}
OF_RISK = ("risk", "rules", "packs", "alert_url", "alert_severity")
# Calls of which each field goes by the others, by the packs and by what a rule is, which no schema says.
BY_THE_REST = {"/tasks/risk-detection", "/risk/rescan"}
# Why another is refused that has no fault by the document: what it is about, quotes within a text.
UNSAID = (
    "what risk detection found is JSON",
    "what risk detection found cannot be linked to",
    "there is no bucket for links",  # nor is there any here
    "a phrase has at most",
)
NONE = ("", None, [], {}, [None, None])  # as it is sent

# Hardly any audio is speech: the time goes into requests, not into transcripts. Nothing else is media, is
# there, or can be asked for. A task of the past runs at once; one of tomorrow would be waited for.
moment, speech = (Binary(Path(os.environ[name]).read_bytes()) for name in ("AUDIO_PATH", "SPEECH_PATH"))
schemathesis.openapi.format("binary", st.sampled_from([*[moment] * 19, speech]))
path, uri, model = (os.environ[name] for name in ("AUDIO_PATH", "AUDIO_URL", "MODEL"))
FORMATS = {"audio_path": path, "audio_url": uri, "callback_url": uri, "model": model}
schemathesis.openapi.format("path", st.just(path))
schemathesis.openapi.format("uri", st.just(uri))
schemathesis.openapi.format("model", st.just(model))
schemathesis.openapi.format("language", st.sampled_from(["auto", "en", "English"]))  # all that tiny.en knows
past = st.datetimes(datetime(1970, 1, 2), datetime(2020, 1, 1), timezones=st.just(UTC))
schemathesis.openapi.format("date-time", past.map(datetime.isoformat))


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Leave out what a daemon of its own would be needed for.

    `timeout_seconds`: a transcript that is not there in time is refused, as it should be. `result_url`: there
    is no S3 here, and without it each is refused. What is asked of risk detection goes by what else is asked,
    and by packs: tests/http/test_risk.py.
    """
    for operation in (operation for path in raw_schema["paths"].values() for operation in path.values()):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            properties = content["schema"].get("properties", {})
            for name in ("timeout_seconds", "result_url", *OF_RISK):
                properties.pop(name, None)


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta and case.meta.generation.mode.is_positive:
        _one_audio(case)
        _key_of_its_own(case)
        _no_event_that_is_none(case)
        _of_whatever_transcript(case)
        _sensible(case)
    _wait_little(case)
    _lock_nobody_out(case)


def _one_audio(case):
    """When it covers a schema, schemathesis takes all properties together, whatever anyOf says of them."""
    if case.media_type == "multipart/form-data" and isinstance(case.body, dict) and "file" in case.body:
        case.body.pop("audio_url", None)


def _key_of_its_own(case):
    """That a key is refused with another body than before is no part of a schema."""
    if "Idempotency-Key" in (case.headers or {}):
        about = json.dumps([case.path, case.media_type, repr(case.body)]).encode()
        case.headers["Idempotency-Key"] = hashlib.sha256(about).hexdigest()


def _no_event_that_is_none(case):
    """Of the pattern of this header schemathesis makes nothing when it covers a schema, and calls 0 valid."""
    if (case.headers or {}).get("Last-Event-ID") == "0":
        del case.headers["Last-Event-ID"]


def _of_whatever_transcript(case):
    """Which ETag a transcript has is no part of a schema."""
    if case.path == "/tasks/{task_id}/result" and case.method in ("PUT", "DELETE"):
        case.headers = {**(case.headers or {}), "If-Match": "*"}


def _sensible(case):
    """What two values are to each other is no part of a schema."""
    body = case.body if isinstance(case.body, dict) else {}
    match case.path:
        case "/usage" if case.query and None not in (case.query.get("from"), case.query.get("to")):
            days = sorted([case.query["from"], case.query["to"]])
            case.query["from"], case.query["to"] = days
        case "/tasks/bulk":
            body.pop("filter", None)
            body["task_ids"] = body.get("task_ids") or ["of none"]
            body.pop("cursor", None)
        case "/tasks/estimate":
            body.pop("size_bytes", None)
            body["duration_seconds"] = body.get("duration_seconds") or 1.0
            body.pop("model", None)
        case "/tasks/{task_id}/result":
            for line in body.get("segments", []):
                line.update(start=0.0, end=0.0, text=line["text"].strip() or "x")


def _wait_little(case):
    """A task that was put off would be waited for."""
    wait = (case.query or {}).get("wait")
    if isinstance(wait, int | float) and wait > LONGEST_WAIT:
        case.query["wait"] = LONGEST_WAIT


def _lock_nobody_out(case):
    """The first key, which has to be an admin's, would; without it the others are refused with 409."""
    scopes = case.body.get("scopes") if case.path == "/admin/keys" and isinstance(case.body, dict) else None
    if isinstance(scopes, list) and "admin" in scopes:
        case.body = {**case.body, "scopes": ["read" if scope == "admin" else scope for scope in scopes]}


@schemathesis.hook
def after_call(context, case, response):
    """Hand tasks out again at once: who waits for one would wait for good."""
    if case.path == "/admin/pause" and response.status_code == 200:
        requests.post(response.request.url.replace("pause", "resume"), timeout=10)


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Let pass what was accepted, and is wrong by the letter of the schema only: see `_means_something`."""
    if failure.code == "ST202" and response.status_code == 422:
        return case.path not in BY_THE_REST and not any(reason in response.text for reason in UNSAID)
    if failure.code != "ST201":
        return True
    if response.status_code == 413:  # it was refused: schemathesis does not take this for a refusal
        return False
    sent = {**(case.query or {}), **(case.body if isinstance(case.body, dict) else {})}
    data = case.meta.phase.data
    told = f"{getattr(data, 'location', None) or ''} {data.description}"
    names = {one or other for one, other in re.findall(r"/properties/(\w+)|^ (\w+): ", told)}
    in_form = case.media_type == "multipart/form-data"
    return not names or not all(_means_something(name, sent.get(name), in_form) for name in names)


def _means_something(name, value, in_form):
    """A format of ours is violated with values that have it: schemathesis knows no others.

    In a query an empty text is an empty list. A form has but texts: an empty one, and null, is as good as
    none, but for a file; 0 and 1 are no and yes; a number is a name or a prompt if its text is one; a text is
    a list of one. Nothing else is let pass: no text that breaks a pattern, no number out of its bounds.
    """
    if value == FORMATS.get(name):
        return True
    if not in_form:
        return name in QUERIED and value == ""
    if value in NONE:
        return name not in FILES
    if name in BOOLS:
        return value in (0, 1)
    if name in LISTS:
        values = value if isinstance(value, list) else [value]
        return all(one in NONE or re.fullmatch(LISTS[name], _text(one)) for one in values)
    return not isinstance(value, str) and name in TEXTS and bool(re.fullmatch(TEXTS[name], _text(value)))


def _text(value):
    """As a form sends it."""
    return value if isinstance(value, str) else json.dumps(value)
