"""Bazarr's own requests (its provider whisperai.py): raw PCM in `audio_file`, options in the query, no key.

And those of other clients of whisper-asr-webservice, which send files as they are.
"""

import re
import wave

import pytest
import requests

from tests.clients import expected
from tests.clients.refusals import OURS
from tests.e2e.test_first_slice import JFK, words

SUBTITLES = {"task": "transcribe", "language": "en", "output": "srt", "encode": "false"}


@pytest.fixture
def bazarr():
    with requests.Session() as session:
        session.trust_env = False  # no proxy of this machine
        session.headers["User-Agent"] = "Subliminal/2"
        yield lambda daemon, path, sound, **query: session.post(
            daemon.url + path, params=query, files={"audio_file": sound}, timeout=(10, 100)
        )


@pytest.fixture(scope="module")
def pcm(jfk):
    with wave.open(str(jfk)) as file:
        return file.readframes(file.getnframes())


def test_bazarr_gets_subtitles_for_raw_audio(bazarr, open_daemon, pcm):
    answer = bazarr(open_daemon, "/asr", pcm, **SUBTITLES)
    number, times, *_ = answer.text.splitlines()

    assert (answer.status_code, answer.headers["asr-engine"]) == (200, "whisper.cpp")
    assert number == "1"
    assert re.fullmatch(r"\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}", times)
    expected.check_cues(answer.text, "-->")


def test_bazarr_learns_the_language_of_raw_audio(bazarr, open_daemon, pcm):
    """Of tiny.en, which knows no other language: that it is sure of it."""
    answer = bazarr(open_daemon, "/detect-language", pcm, encode="false")

    found = {"detected_language": "english", "language_code": "en", "confidence": 1.0}
    assert (answer.status_code, answer.json()) == (200, found)


@pytest.mark.parametrize("path", ["/asr", "/detect-language"])
def test_bazarr_is_told_that_a_film_has_no_sound(bazarr, open_daemon, path):
    answer = bazarr(open_daemon, path, b"", encode="false")

    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "no_audio")


@pytest.mark.parametrize("path", ["/asr", "/detect-language"])
def test_bazarr_has_no_key_and_is_refused_where_one_is_asked_for(bazarr, full_daemon, pcm, path):
    answer = bazarr(full_daemon, path, pcm, encode="false")

    assert (answer.status_code, answer.json()["error"]["code"]) == OURS["wrong_key"]


@pytest.mark.parametrize("output", ["txt", "srt", "vtt", "tsv", "json"])
def test_other_clients_of_the_service_send_files_as_they_are(bazarr, open_daemon, jfk, output):
    answer = bazarr(open_daemon, "/asr", jfk.read_bytes(), output=output)

    assert answer.status_code == 200
    if output in ("srt", "vtt"):
        expected.check_cues(answer.text, "-->")
    elif output == "tsv":
        rows = [line.split("\t") for line in answer.text.splitlines()]
        assert rows[0] == ["start", "end", "text"]
        assert expected.says_jfk(" ".join(text for _, _, text in rows[1:]))
    else:
        assert expected.says_jfk(answer.text if output == "txt" else answer.json()["text"])


def test_other_clients_of_the_service_get_words(bazarr, open_daemon, jfk):
    found = bazarr(open_daemon, "/asr", jfk.read_bytes(), output="json", word_timestamps="true").json()

    spoken = [word["word"] for segment in found["segments"] for word in segment["words"]]
    assert words("".join(spoken)) == JFK.split()


def test_other_clients_of_the_service_are_told_what_is_no_audio(bazarr, open_daemon, no_audio):
    answer = bazarr(open_daemon, "/asr", no_audio.read_bytes())

    assert (answer.status_code, answer.json()["error"]["code"]) == OURS["bad_file"]


@pytest.mark.parametrize("path", ["/asr", "/detect-language"])
def test_a_full_queue_asks_its_clients_to_come_again(full_daemon, jfk, path):
    """With a key, that is: the daemon that is full asks for one."""
    answer = full_daemon.http.post(path, files={"audio_file": jfk.read_bytes()})

    assert (answer.status_code, answer.json()["error"]["code"]) == OURS["full_queue"]
    assert int(answer.headers["retry-after"]) > 0
