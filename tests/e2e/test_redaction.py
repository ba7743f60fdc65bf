"""A call in which a card's number and a phone number are said: found, and neither read nor heard any more."""

import io
import json
import re
import wave
from array import array
from pathlib import Path

import pytest

from tests.e2e.daemon import serving

CALL = Path(__file__).parents[1] / "data" / "calls" / "numbers.flac"
SAID = [(6.02, 13.19), (18.39, 23.11)]  # seconds in which they are said: see the README beside the file
FORMATS = ("text", "srt", "vtt", "tsv", "json", "verbose_json")
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, weights):
    with serving(tmp_path_factory.mktemp("redaction"), weights) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def call(daemon):
    """The id of the transcription, after it was looked through."""
    with open(CALL, "rb") as file:
        options = {"redact": "tag", "word_timestamps": "true", "language": "en", "beam_size": 1}
        answer = daemon.http.post("/tasks/risk-detection", files={"file": file}, data=options)
    assert answer.status_code == 202, answer.text
    detection = answer.json()["task_id"]
    assert daemon.finished(detection)["status"] == "completed"
    return daemon.get(f"/tasks/{detection}/result")["transcript_task_id"]


def shown(daemon, call, format, **params):
    answer = daemon.http.get(f"/tasks/{call}/result", params={"format": format, **params})
    answer.raise_for_status()
    return answer.text


def digits(text):
    """Of what is said; those of times left out."""
    return re.sub(r"\D", "", re.sub(r"\d+:\d\d:\d\d[.,]\d+", "", text))


def times(text):
    return re.findall(r"\d+:\d\d:\d\d[.,]\d+ --> \d+:\d\d:\d\d[.,]\d+", text)


def heard(content):
    """Samples at 16 kHz, mono."""
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getframerate()) == (1, 16_000)
        return array("h", file.readframes(file.getnframes()))


def test_the_numbers_are_found(daemon, call):
    findings = daemon.get(f"/tasks/{call}/risk")["findings"]

    assert [(one["rule_id"], one["text"]) for one in findings] == [
        ("pii.card", "[CARD]"),
        ("pii.phone", "[PHONE]"),
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_nobody_reads_them_in_any_format_and_the_times_stay(daemon, call, format):
    redacted, plain = shown(daemon, call, format), shown(daemon, call, format, redacted="false")

    for number, tag in (("4539148803436467", "[CARD]"), ("6172538049", "[PHONE]")):
        assert number in digits(plain)
        assert number not in digits(redacted)
        assert tag in redacted
    assert times(redacted) == times(plain)


def test_no_word_has_them_and_the_others_keep_their_times(daemon, call):
    redacted, plain = (
        [
            word
            for segment in json.loads(shown(daemon, call, "json", redacted=redacted))["segments"]
            for word in segment["words"]
        ]
        for redacted in ("true", "false")
    )

    assert not any(char.isdigit() for word in redacted for char in word["word"])
    shown_instead = {word["word"].strip(" .,") for word in redacted if word not in plain}
    assert shown_instead == {"[CARD]", "[PHONE]"}


def test_nobody_hears_them_and_the_rest_sounds_as_before(daemon, call):
    answer = daemon.http.get(f"/tasks/{call}/audio")
    samples = heard(answer.content)
    silent = [round(start * 16_000) for start, _ in SAID], [round(end * 16_000) for _, end in SAID]

    assert answer.headers["content-type"] == "audio/wav"
    for start, end in zip(*silent, strict=True):
        assert not any(samples[start:end])
    assert sum(map(bool, samples)) > len(samples) / 4


def test_a_player_that_seeks_gets_parts_of_the_muted_audio(daemon, call):
    whole = daemon.http.get(f"/tasks/{call}/audio").content
    start = 44 + 2 * round(SAID[0][0] * 16_000)
    part = daemon.http.get(f"/tasks/{call}/audio", headers={"Range": f"bytes={start}-{start + 999}"})

    assert (part.status_code, part.content) == (206, bytes(1000))
    assert part.headers["content-range"] == f"bytes {start}-{start + 999}/{len(whole)}"


def test_a_model_that_listens_to_the_muted_audio_hears_no_digit_of_them(daemon, call, tmp_path):
    muted = tmp_path / "muted.wav"
    muted.write_bytes(daemon.http.get(f"/tasks/{call}/audio").content)
    again = daemon.queued(muted, language="en")
    daemon.finished(again)
    text = daemon.result(again)

    assert "goodbye" in text.lower()
    assert not re.search(r"\d|\b(one|two|three|four|five|six|seven|eight|nine|zero|oh)\b", text.lower()), text
