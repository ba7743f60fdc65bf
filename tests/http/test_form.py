"""Reading a multipart form for a call that takes some fields, again and again if need be, and no others."""

import asyncio

import pytest

from tests.http_server import SOUND, a_field, a_form, the_file
from whisperd.routes.errors import Refusal
from whisperd.routes.form import MAX_FIELD_BYTES, MAX_FIELDS, read_form


class Written(bytearray):
    async def write(self, data):
        self.extend(data)


def read(*parts, takes=lambda name: name.startswith("a"), piece=1 << 16):
    written = Written()
    content = a_form(*parts)

    async def body():
        for at in range(0, len(content), piece):
            yield content[at : at + piece]

    return asyncio.run(read_form(written, b"frontier", body(), takes)), bytes(written)


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_fields_that_are_taken_keep_their_order_and_may_be_repeated(piece):
    parts = [a_field("a[]", "one"), a_field("b", "no"), the_file("talk.wav"), a_field("a[]", "two")]
    form, written = read(*parts, a_field("a", ""), piece=piece)

    assert form == ([("a[]", "one"), ("a[]", "two"), ("a", "")], "talk.wav")
    assert written == SOUND


def test_a_field_that_is_not_taken_may_be_as_long_as_it_likes_and_need_not_be_text():
    long = a_field("known_speaker_references[]", "x" * (3 * MAX_FIELD_BYTES))
    form, _ = read(long, long, a_field("b", b"\xff"), the_file())

    assert form.fields == []


def test_a_field_that_is_taken_has_its_limit():
    with pytest.raises(Refusal) as refusal:
        read(a_field("a", "x" * (MAX_FIELD_BYTES + 1)), the_file())

    assert (refusal.value.code, refusal.value.param) == ("field_too_long", "a")


def test_there_may_be_only_so_many_parts_taken_or_not():
    with pytest.raises(Refusal):
        read(*[a_field("b", "1")] * MAX_FIELDS, the_file())


def test_two_files_are_one_too_many():
    with pytest.raises(Refusal) as refusal:
        read(the_file(), the_file())

    assert refusal.value.param == "file"
