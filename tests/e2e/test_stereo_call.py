"""A stereo call, the agent on the left: who said what, and what the agent did not say within a minute."""

import io
import json
import wave
from pathlib import Path

import numpy as np
import pytest

from whisperd.engine.audio import Limits, decode
from whisperd.task import SAMPLE_RATE

CALL = Path(__file__).parents[1] / "data" / "calls" / "stereo.flac"
AGENT = 0  # its channel
NOTICE = slice(round(3.5 * SAMPLE_RATE), round(8.0 * SAMPLE_RATE))  # when it is given: see the README there
RULE = {
    "id": "mine.agents-notice",
    "title": "The agent did not say that the call is recorded",
    "category": "compliance",
    "severity": "high",
    "score": 0.5,
    "negate": True,
    "where": {"speaker": "A", "first_seconds": 60},
    "match": {
        "near": {
            "within_words": 12,
            "words": [{"any": ["call", "line", "we"]}, {"any": ["recorded", "recording", "monitored"]}],
        }
    },
}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def call():
    """Samples at 16 kHz, shape (n, 2)."""
    target = io.BytesIO()
    with open(CALL, "rb") as source:
        decode(source, target, split=True, limits=Limits(), tick=lambda seconds: None)
    return np.frombuffer(target.getvalue(), np.int16).reshape(-1, 2)


@pytest.fixture(scope="module")
def report(daemon, call):
    """What is found in the call as it was recorded."""
    return looked_through(daemon, call)


def looked_through(daemon, samples):
    options = {"channels": "split", "word_timestamps": "true", "language": "en", "rules": json.dumps([RULE])}
    answer = daemon.http.post(
        "/tasks/risk-detection", files={"file": ("call.wav", a_wav(samples))}, data=options
    )
    assert answer.status_code == 202, answer.text
    task = daemon.finished(answer.json()["task_id"])
    assert task["status"] == "completed", task
    return daemon.get(f"/tasks/{task['task_id']}/result")


def a_wav(samples):
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(2)
        target.setsampwidth(2)
        target.setframerate(SAMPLE_RATE)
        target.writeframes(samples.tobytes())
    return file.getvalue()


def missing(report):
    return [one["rule_id"] for one in report["missing"]]


def test_findings_carry_the_speaker_who_said_them(report):
    found = {(one["category"], one["speaker"]) for one in report["findings"]}
    texts = [(one["speaker"], one["text"].lower()) for one in report["findings"]]

    assert found == {("compliance", "A"), ("fraud", "B")}
    assert {speaker for speaker, text in texts if "guaranteed" in text} == {"A"}
    assert {speaker for speaker, text in texts if "gift cards" in text} == {"B"}


@pytest.mark.parametrize(("speaker", "begin", "past"), [("A", 12.76, 18.52), ("B", 19.37, 25.72)])
def test_findings_lie_where_their_line_is_said(report, speaker, begin, past):
    places = [(one["start"], one["end"]) for one in report["findings"] if one["speaker"] == speaker]

    assert [place for place in places if begin - 0.5 <= place[0] < place[1] <= past + 0.5]


def test_a_notice_that_was_given_is_not_missing(report):
    assert missing(report) == []


def test_a_notice_that_the_agent_did_not_give_is_missing_though_the_customer_asks_for_it(daemon, call):
    silenced = call.copy()
    silenced[NOTICE, AGENT] = 0
    report = looked_through(daemon, silenced)

    assert missing(report) == ["mine.agents-notice"]
    assert report["missing"][0]["window"]["start"] == 0.0
    assert 25.0 < report["missing"][0]["window"]["end"] < 32.0  # the call is over by then


def test_a_notice_that_comes_after_a_minute_is_missing(daemon, call):
    late = np.concatenate([call[NOTICE.stop :], np.zeros((60 * SAMPLE_RATE, 2), np.int16), call])
    report = looked_through(daemon, late)

    assert [(one["rule_id"], one["window"]) for one in report["missing"]] == [
        ("mine.agents-notice", {"start": 0.0, "end": 60.0})
    ]
