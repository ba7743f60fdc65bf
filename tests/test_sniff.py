import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from whisperd.sniff import media_type, not_media
from whisperd.spool import HEAD


def manifest(folder):
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    return {entry["file"]: entry for entry in map(json.loads, lines)}


def verdicts(folder):
    """What each file of the folder's manifest is taken for, by its first bytes."""
    found = {}
    for name in manifest(folder):
        with open(folder / name, "rb") as file:
            found[name] = not_media(file.read(HEAD))
    return found


def test_no_speech_of_the_corpus_is_refused(corpus):
    found = verdicts(corpus / "speech")

    assert len(found) > 100
    assert set(found.values()) == {None}


def test_no_hostile_file_that_may_be_accepted_is_refused(corpus):
    entries = manifest(corpus / "hostile")
    found = verdicts(corpus / "hostile")
    may_be = [name for name, entry in entries.items() if entry["expect_class"].startswith("accept")]

    assert len(may_be) > 50
    assert {found[name] for name in may_be} == {None}


def test_what_is_obviously_not_media_is_named(corpus):
    found = verdicts(corpus / "hostile")

    assert found["a01_empty.wav"] == "an empty file"
    assert found["a05_text.mp3"] == found["a07_json.wav"] == found["a10_image.svg"] == "a text"
    assert found["a08_image.png"] == "a PNG image"
    assert found["a11_zip.mp3"] == "a ZIP archive"
    assert found["b01_gzip_bomb.wav.gz"] == "a gzip archive"


def test_no_playlist_or_script_gets_past_whatever_its_name(corpus):
    """They are what reaches out: RELIABILITY.md, finding 11."""
    reaching_out = {
        name: what
        for name, what in verdicts(corpus / "hostile").items()
        if name.startswith("h") and name != "h19_mp4_external_dref.m4a"  # a real MP4: the decoder's to refuse
    }

    assert len(reaching_out) > 10
    assert set(reaching_out.values()) == {"a text"}


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG image"),
        (b"\x7fELF\x02\x01", "a program"),
        (b"SQLite format 3\x00\x10\x00", "a database"),
        (b"#!/bin/sh\nrm -rf /\n", "a text"),
        ('{"schlüssel": "ß"}'.encode(), "a text"),
        (b"#EXTM3U\r\n", "a text"),
    ],
)
def test_what_else_people_send_by_mistake_is_named(head, what):
    assert not_media(head) == what


@pytest.mark.parametrize(
    "head",
    [
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b"ID3\x04\x00\x00\x00\x00\x00\x00",
        b"\xff\xfb\x90\x64\x00",  # MPEG: its sync word begins like a JPEG's
        b"\xff\xf1\x50\x80",  # ADTS
        b"fLaC\x00\x00\x00\x22",
        b"OggS\x00\x02",
        b"\x00\x00\x00\x20ftypM4A ",
        b"#!AMR\n\x3c\x48\xf5",  # begins like a script
        b".snd\x00\x00\x00\x18",
    ],
)
def test_the_beginnings_of_media_pass(head):
    assert not_media(head) is None


@given(st.binary(max_size=HEAD))
def test_any_bytes_get_an_answer(head):
    assert not_media(head) is None or not_media(head)


printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=5, max_size=2000)


@given(printable, st.integers(0, 3))
def test_a_text_is_a_text_also_when_a_character_is_cut_off(text, missing):
    raw = b"text" + text.encode()
    assert not_media(raw[: len(raw) - missing]) is not None


@given(printable, st.integers(0, 2000), st.sampled_from(b"\x00\x01\x1f\x7f"))
def test_one_control_character_makes_it_no_text(text, place, char):
    raw = text.encode()
    place = min(place, len(raw))
    assert not_media(raw[:place] + bytes([char]) + raw[place:]) != "a text"


# --- what to call it ---


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav"),
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "audio/mpeg"),
        (b"\xff\xf1\x50\x80", "audio/aac"),
        (b"\x00\x00\x00\x20ftypM4A ", "audio/mp4"),
        (b"\x00\x00\x00\x20ftypisom", "video/mp4"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", "video/webm"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", "video/x-matroska"),
        (b"OggS\x00", "audio/ogg"),
        (b"RIFF", "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
def test_a_player_is_told_the_media_type_that_the_first_bytes_show(head, kind):
    assert media_type(head) == kind


@given(st.binary(max_size=64))
def test_nothing_is_called_a_page(head):
    assert media_type(head).startswith(("audio/", "video/", "application/octet-stream"))


def test_all_speech_of_the_corpus_has_a_media_type_of_its_own(corpus):
    heads = {name: (corpus / "speech" / name).read_bytes()[:64] for name in manifest(corpus / "speech")}

    assert [name for name, head in heads.items() if media_type(head) == "application/octet-stream"] == []
