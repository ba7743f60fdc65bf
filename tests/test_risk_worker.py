"""What the process that searches answers, asked in this one."""

import msgspec
import pytest

from tests.risk.heard import HEAD, heard, rule
from whisperd.risk_protocol import Found, Search, Wrong
from whisperd.risk_worker import Worker
from whisperd.rulebooks import Rulebooks
from whisperd.task import Detection

CARD = rule('match.pii = "card"\nredact = "CARD"', id="mine.card")


@pytest.fixture
def books(tmp_path):
    """With a pack "mine"; it is gone once its file is, and the files were read anew."""
    (tmp_path / "mine.toml").write_text(HEAD + CARD)
    books = Rulebooks(tmp_path)
    assert books.reload() == []
    return books


def searched(books, *texts, so_far=False, rules=None, **asked):
    search = Search(
        segments=msgspec.Raw(msgspec.json.encode(heard(*texts))),
        asked=Detection(**asked),
        rules=rules,
        so_far=so_far,
    )
    return Worker(books).answer(msgspec.json.encode(search))


def test_a_pack_that_is_gone_by_then_is_an_error_and_not_nothing_to_hide(books, tmp_path):
    said = "my card is 4111 1111 1111 1111"
    there = searched(books, said, packs=("mine",))
    (tmp_path / "mine.toml").unlink()
    books.reload()
    gone = searched(books, said, packs=("mine",))

    assert isinstance(there, Found)
    assert isinstance(gone, Wrong)
    assert (gone.field, gone.message.split(";")[0]) == ("packs", "there is no pack mine")


def test_a_search_by_less_than_all_packs_says_so_and_quotes_nothing(tmp_path):
    (tmp_path / "mine.toml").write_text("name = ")
    books = Rulebooks(tmp_path)
    assert books.reload()
    resumed = Rulebooks(tmp_path)
    resumed.restore(books.sources, books.rulebook.left_out)

    for by in (books, resumed):
        found = searched(by, "ring 07700 900456", redact="tag")
        document = msgspec.json.decode(found.document)

        assert document["rules_errors"] == ["mine.toml: it is broken, so its rules were not looked for"]
        assert [one["text"] for one in document["findings"]] == ["****"]
    assert (
        msgspec.json.decode(searched(books, "ring 07700 900456", packs=("pii",)).document)["rules_errors"]
        == []
    )


def test_an_alert_quotes_nothing_where_not_all_is_redacted(books):
    found = searched(books, "my card is 4111 1111 1111 1111, " * 1001, redact="tag")

    assert msgspec.json.decode(found.document)["rules_errors"]
    assert found.sightings
    assert not [one for one in found.sightings if b"4111" in bytes(one.finding)]
    assert b"4111" not in bytes(found.document)


def test_a_finding_is_told_by_its_seconds(books):
    found = searched(books, "hello", "my card is 4111 1111 1111 1111")
    (one,) = [one for one in found.sightings if one.rule == "mine.card"]
    finding = msgspec.json.decode(one.finding)

    assert 5.0 < one.begin < one.past <= 10.0
    assert (one.begin, one.past) == (finding["start"], finding["end"])
