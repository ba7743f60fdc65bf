import html
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.engine.languages import LANGUAGES
from whisperd.task import Audio, Kind, Options, Segment, State, Task, Word
from whisperd.transcript import (
    FORMATS,
    Transcript,
    compression_ratio,
    language_code,
    language_name,
    language_refusal,
    render,
)


def task(**changes):
    fields = {
        "seq": 1,
        "id": "01JX",
        "kind": Kind.TRANSCRIPTION,
        "state": State.COMPLETED,
        "priority": 0,
        "tenant": "default",
        "model": "tiny.en",
        "options": Options(),
        "audio": Audio(name="talk.mp3", size=1, sha256="", duration=11.0004),
        "attempt": 1,
        "max_retries": 3,
        "timeout_seconds": None,
        "created_at": 0.0,
        "run_at": None,
        "started_at": None,
        "finished_at": None,
        "progress": 1.0,
        "language": "en",
        "language_probability": None,
        "warnings": (),
        "error": None,
        "metadata": {},
        "callback_url": None,
        "result_url": None,
    }
    return Task(**fields | changes)


def said(*texts, **changes):
    """A transcript with one second a segment."""
    segments = tuple(Segment(start=float(n), end=n + 1.0, text=text) for n, text in enumerate(texts))
    return Transcript(task=task(**changes), segments=segments)


def rendered(transcript, format):
    return render(transcript, format)[0]


def one(start, end, text="Hello.", **more):
    return Transcript(task=task(), segments=(Segment(start=start, end=end, text=text, **more),))


def test_text_is_one_line():
    assert (
        rendered(said("Ask not", "what your country\ncan do"), "text") == "Ask not what your country can do\n"
    )


def test_text_has_a_line_a_turn_when_channels_are_speakers():
    transcript = Transcript(
        task=task(),
        segments=(
            Segment(start=0, end=1, text="Hello.", speaker="A"),
            Segment(start=1, end=2, text="Is anyone there?", speaker="A"),
            Segment(start=2, end=3, text="Yes.", speaker="B"),
        ),
    )

    assert rendered(transcript, "text") == "A: Hello. Is anyone there?\nB: Yes.\n"


def test_languages_without_spaces_are_joined_without():
    assert said("今天", "天气很好", language="zh").text == "今天天气很好"
    assert said("Today", "is fine", language="zh", options=Options(translate=True)).text == "Today is fine"


def test_json_has_the_fields_of_the_contract():
    word = Word(start=0.1, end=0.30000000000000004, word=" Hello.", probability=0.98765432)
    transcript = Transcript(
        task=task(warnings=("partial_audio",)),
        segments=(
            Segment(start=0.1, end=0.30000000000000004, text="Hello.", speaker="A", words=(word,)),
            Segment(start=1, end=2, text="Bye."),
        ),
    )

    assert json.loads(rendered(transcript, "json")) == {
        "task_id": "01JX",
        "text": "Hello. Bye.",
        "language": "en",
        "duration": 11.0,
        "segments": [
            {
                "id": 0,
                "start": 0.1,
                "end": 0.3,
                "text": "Hello.",
                "speaker": "A",
                "words": [{"start": 0.1, "end": 0.3, "word": "Hello.", "probability": 0.9877}],
            },
            {"id": 1, "start": 1.0, "end": 2.0, "text": "Bye."},
        ],
        "warnings": ["partial_audio"],
    }


def test_verbose_json_has_all_ten_segment_fields():
    transcript = one(3.5, 4.25, "Hello.", tokens=(1, 2), avg_logprob=-0.25, no_speech_prob=0.1)

    assert json.loads(rendered(transcript, "verbose_json")) == {
        "task": "transcribe",
        "language": "english",
        "duration": 11.0,
        "text": "Hello.",
        "segments": [
            {
                "id": 0,
                "seek": 350,
                "start": 3.5,
                "end": 4.25,
                "text": " Hello.",
                "tokens": [1, 2],
                "temperature": 0.0,
                "avg_logprob": -0.25,
                "compression_ratio": compression_ratio("Hello."),
                "no_speech_prob": 0.1,
            }
        ],
        "usage": {"type": "duration", "seconds": 12},
    }


def test_verbose_json_has_words_when_they_were_asked_for():
    word = Word(start=0.0, end=0.5, word="Hello.", probability=1.0)
    transcript = Transcript(
        task=task(options=Options(word_timestamps=True)),
        segments=(Segment(start=0, end=1, text="Hello.", words=(word,)),),
    )

    assert json.loads(rendered(transcript, "verbose_json"))["words"] == [
        {"word": "Hello.", "start": 0.0, "end": 0.5}
    ]


def test_segments_of_verbose_json_joined_are_its_text():
    for transcript in (said("Ask not", "what your"), said("今天", "天气", language="zh")):
        shown = json.loads(rendered(transcript, "verbose_json"))

        assert "".join(segment["text"] for segment in shown["segments"]).strip() == shown["text"]


def test_a_translation_is_english():
    shown = json.loads(rendered(said("Hi", language="de", options=Options(translate=True)), "verbose_json"))

    assert (shown["task"], shown["language"]) == ("translate", "english")


def test_srt_numbers_its_cues_from_one():
    assert rendered(said("One.", "Two."), "srt") == (
        "1\n00:00:00,000 --> 00:00:01,000\nOne.\n\n2\n00:00:01,000 --> 00:00:02,000\nTwo.\n\n"
    )


def test_srt_names_the_speaker():
    assert "\nB: Yes.\n" in rendered(one(0, 1, "Yes.", speaker="B"), "srt")


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [
        (0.9996, "00:00:01,000"),
        (59.9996, "00:01:00,000"),
        (3599.9999, "01:00:00,000"),
        (0.0014, "00:00:00,001"),
        (1.005, "00:00:01,005"),
        (35_999.5, "09:59:59,500"),
        (360_000.0, "100:00:00,000"),
        (-0.2, "00:00:00,000"),
    ],
)
def test_a_time_is_rounded_as_a_whole(seconds, clock):
    assert rendered(one(seconds, seconds + 1), "srt").split("\n")[1].startswith(f"{clock} --> ")


def test_a_cue_that_would_break_the_file_is_defused():
    nasty = one(0, 1, "1\n\n2\n00:00:05,000 ---> 00:00:06,000\nfake\r\n\x1b[2J\x00")

    assert rendered(nasty, "srt").count("\n") == 4
    assert rendered(nasty, "srt").count("-->") == 1
    assert rendered(nasty, "vtt").count("-->") == 1
    assert "\x1b" not in rendered(nasty, "text") + rendered(nasty, "tsv") + rendered(nasty, "vtt")


def test_vtt_escapes_text_and_names_the_voice():
    assert rendered(one(0, 1.5, "a < b && c --> d", speaker="A"), "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n<v A>a &lt; b &amp;&amp; c --&gt; d\n\n"
    )


def test_tsv_is_in_milliseconds():
    assert rendered(one(1.5, 2.25, "a\tb"), "tsv") == "start\tend\ttext\n1500\t2250\ta b\n"


def test_no_speech_gives_a_valid_empty_file():
    assert {format: rendered(said(), format) for format in ("text", "srt", "vtt", "tsv")} == {
        "text": "\n",
        "srt": "",
        "vtt": "WEBVTT\n\n",
        "tsv": "start\tend\ttext\n",
    }
    assert json.loads(rendered(said(), "json"))["text"] == ""
    assert json.loads(rendered(said(), "verbose_json"))["segments"] == []


def test_every_format_has_a_media_type():
    assert {format: render(said("Hi"), format)[1].partition(";")[0] for format in FORMATS} == {
        "json": "application/json",
        "text": "text/plain",
        "srt": "text/plain",
        "vtt": "text/vtt",
        "tsv": "text/tab-separated-values",
        "verbose_json": "application/json",
    }


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="one of json, text, srt"):
        render(said(), "docx")


def test_the_languages_are_those_of_whisper():
    import _pywhispercpp as whisper

    codes = [whisper.whisper_lang_str(n) for n in range(whisper.whisper_lang_max_id() + 1)]
    assert list(LANGUAGES) == codes
    assert (language_name("de"), language_name("ht")) == ("german", "haitian creole")
    assert (language_name("tlh"), language_name(None)) == ("tlh", "")


times = st.floats(0, 400_000)
segments = st.builds(
    Segment, start=times, end=times, text=st.text(), speaker=st.none() | st.text(min_size=1, max_size=3)
)
transcripts = st.builds(Transcript, task=st.just(task()), segments=st.lists(segments, max_size=6).map(tuple))


def milliseconds(clock):
    hours, minutes, seconds, rest = map(int, re.fullmatch(r"(\d+):(\d\d):(\d\d)[,.](\d{3})", clock).groups())
    assert minutes < 60
    assert seconds < 60
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + rest


def cues_of(blocks):
    """Start, end, text of each block as a strict reader sees it."""
    for block in blocks:
        timing, text = block.split("\n")
        start, end = map(milliseconds, timing.split(" --> "))
        yield start, end, text


def tsv_rows(transcript):
    header, *rows = rendered(transcript, "tsv").split("\n")[:-1]
    assert header == "start\tend\ttext"
    return [(int(start), int(end), text) for start, end, text in (row.split("\t") for row in rows)]


@given(transcripts)
def test_every_cue_parses_back_and_time_never_goes_back(transcript):
    rows = tsv_rows(transcript)
    srt = rendered(transcript, "srt").split("\n\n")
    vtt = rendered(transcript, "vtt").split("\n\n")
    numbers = [block.split("\n", 1)[0] for block in srt[:-1]]
    srt_cues = list(cues_of(block.split("\n", 1)[1] for block in srt[:-1]))
    vtt_cues = list(cues_of(vtt[1:-1]))

    assert (srt[-1], vtt[0], vtt[-1]) == ("", "WEBVTT", "")
    assert numbers == [str(n + 1) for n in range(len(rows))]
    assert [cue[:2] for cue in srt_cues] == [cue[:2] for cue in vtt_cues] == [row[:2] for row in rows]
    assert [start for start, _, _ in rows] == sorted(start for start, _, _ in rows)
    assert all(start < end for start, end, _ in rows)
    assert [html.unescape(re.sub("^<v [^>]*>", "", text)) for _, _, text in vtt_cues] == [
        html.unescape(text.replace("&", "&amp;")) for _, _, text in rows
    ]


@given(transcripts)
def test_nothing_that_steers_a_terminal_comes_out_as_text(transcript):
    for format in ("text", "srt", "vtt", "tsv"):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", rendered(transcript, format))


@given(transcripts)
def test_json_parses_back(transcript):
    shown = json.loads(rendered(transcript, "json"))

    assert [segment["text"] for segment in shown["segments"]] == [s.text for s in transcript.segments]
    assert len(json.loads(rendered(transcript, "verbose_json"))["segments"]) == len(transcript.segments)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("English", "en"),
        ("Haitian Creole", "ht"),
        (" german ", "de"),
        ("Auto", "auto"),
        ("xx", None),
        ("", None),
        ("en-US", None),
    ],
)
def test_a_language_is_a_code_or_an_english_name(text, code):
    assert language_code(text) == code


def test_every_code_and_name_is_its_own_language():
    assert [language_code(name) for name in LANGUAGES.values()] == list(LANGUAGES)
    assert [language_code(code) for code in LANGUAGES] == list(LANGUAGES)


def test_a_model_for_english_takes_no_other_language():
    assert language_refusal("de", "tiny.en", multilingual=False) == "the model tiny.en knows English only"
    assert language_refusal("de", "tiny", multilingual=True) is None
    assert language_refusal("en", "tiny.en", multilingual=False) is None
    assert language_refusal("auto", "tiny.en", multilingual=False) is None
