"""Bazarr's own requests (its provider whisperai.py): raw PCM in `audio_file`, options in the query."""

import re
import wave

from tests.e2e.test_first_slice import JFK, words


def pcm(path):
    with wave.open(str(path)) as file:
        return file.readframes(file.getnframes())


def test_bazarr_gets_subtitles_for_raw_audio(daemon, jfk):
    query = {"task": "transcribe", "language": "en", "output": "srt", "encode": "false"}
    answer = daemon.http.post("/asr", params=query, files={"audio_file": pcm(jfk)})
    lines = answer.text.splitlines()

    assert (answer.status_code, answer.headers["asr-engine"]) == (200, "whisper.cpp")
    assert lines[0] == "1"
    assert re.fullmatch(r"\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}", lines[1])
    spoken = [line for line in lines if line and not line.isdigit() and "-->" not in line]
    assert words(" ".join(spoken)) == JFK.split()


def test_bazarr_learns_the_language_of_raw_audio(daemon, jfk):
    """Of tiny.en, which knows no other language: that it is sure of it."""
    answer = daemon.http.post("/detect-language", params={"encode": "false"}, files={"audio_file": pcm(jfk)})

    expected = {"detected_language": "english", "language_code": "en", "confidence": 1.0}
    assert (answer.status_code, answer.json()) == (200, expected)


def test_other_clients_of_the_service_send_files_as_they_are(daemon, jfk):
    with open(jfk, "rb") as file:
        answer = daemon.http.post("/asr?output=json&word_timestamps=true", files={"audio_file": file})
    found = answer.json()

    assert words(found["text"]) == JFK.split()
    spoken = [word["word"] for segment in found["segments"] for word in segment["words"]]
    assert words("".join(spoken)) == JFK.split()
