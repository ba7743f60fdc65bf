"""What is typed into a search box: words and phrases, never a syntax error."""

import sqlite3
import unicodedata
from contextlib import closing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from whisperd.db import migrate
from whisperd.sql.words import count_words, expression, tenant_word
from whisperd.task import TooManyWords


@pytest.fixture(scope="module")
def conn():
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        migrate(conn)
        conn.execute("insert into search (rowid, name, text, tenant) values (1, 'a', 'ask not what', 'b')")
        yield conn


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ask not ", '"ask" AND "not"'),
        ('"ask not" what ', '"ask not" AND "what"'),
        ('what "ask not"', '"what" AND "ask not"'),
        ('"ask not', '"ask not"'),
        ('a"b', '"a" AND "b"'),
        ("near(a b) OR text:c* ", '"near(a" AND "b)" AND "OR" AND "text:c*"'),
        ("- ! ... ask ", '"ask"'),
        ("a\x00b\x1b[2J ", '"a" AND "b" AND "[2J"'),
        ("", None),
        ('  "" * ( - ', None),
    ],
)
def test_words_are_words_and_quotes_make_a_phrase(typed, meant):
    assert expression(typed) == meant


@pytest.mark.parametrize(
    ("typed", "start", "meant"),
    [
        ("ask no", "no", '"ask" AND ("no" OR "no+")'),
        ("Prü", "pru", '("Prü" OR "pru+")'),
        ("talk.mp", "mp", '("talk.mp" OR "talk.mp+")'),
        ("новости", "новости", '("новости" OR "новости+")'),
        ("a", None, '"a"'),  # too short
        ("don't", None, '"don\'t"'),
        ("ask ", None, '"ask"'),
        ('"ask"', None, '"ask"'),
        ('"ask', None, '"ask"'),
    ],
)
def test_the_last_word_may_be_the_start_of_one(typed, start, meant):
    asked = []

    def words_from(start):
        asked.append(start)
        return [f"{start}+"]

    assert expression(typed, words_from) == meant
    assert asked == ([start] if start else [])


@pytest.mark.parametrize("between", [" ", ".", "-", ", "])
def test_a_phrase_has_at_most_eight_words(between):
    """Each word of it is walked through: 49 common ones cost seconds at 100,000 tasks."""
    eight, nine = between.join(["the"] * 8), between.join(["the"] * 9)

    assert expression(f'"{eight}"') == f'"{eight}"'
    with pytest.raises(TooManyWords):
        expression(f'"{nine}"')


def test_a_dotted_word_is_a_phrase():
    with pytest.raises(TooManyWords):
        expression("the." * 9)


def test_at_most_sixteen_words_are_looked_for():
    sixteen = ["the"] * 16

    assert expression(" ".join(sixteen) + " ") == " AND ".join(['"the"'] * 16)
    with pytest.raises(TooManyWords):
        expression(" ".join([*sixteen, "the"]))
    with pytest.raises(TooManyWords):
        expression('"the the the the the the" the-the-the-the-the-the the the the the the')


def test_the_ends_of_a_dotted_word_are_as_many_words_at_most():
    ways = expression("a.a.a.th", lambda start: [f"th{n}" for n in range(16)])

    assert ways == '("a.a.a.th" OR "a.a.a.th0" OR "a.a.a.th1" OR "a.a.a.th2" OR "a.a.a.th3")'


@given(st.text() | st.text("aé\u0301\u0305\u3099.か\u19b0ß中 "))
@example("Pru\u0308fung mu\u0308ndlich")
@example("a\u0305a\u19b0a")
def test_words_are_counted_as_the_tokenizer_does(text):
    text = "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cn", "Cs"))
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.execute("create virtual table t using fts5(x, tokenize = 'unicode61 remove_diacritics 2')")
        conn.execute("create virtual table v using fts5vocab(t, instance)")
        conn.execute("insert into t values (?)", (text,))

        assert count_words(text) == conn.execute("select count(*) from v").fetchone()[0]


typed = st.text(max_size=200) | st.lists(
    st.sampled_from(
        ['"', "*", "(", ")", "{", "}", ":", "^", "+", "-", "'", "\\", "\x00", " ", "OR", "NEAR", "ask"]
    ),
    max_size=100,
).map("".join)


@given(typed)
@example('"')
@example("a" * 200)
@example("a " * 100)
@example('"a" ' * 50)
@example("\ud800")
def test_whatever_is_typed_is_no_syntax_error(conn, text):
    try:
        words = expression(text, lambda start: [start, f"{start}x"])
    except TooManyWords:
        return

    if words is not None:
        sql = "select rowid from search where search match ?"
        conn.execute(sql, (f'{{name text}} : ({words}) AND tenant : "{tenant_word("a")}"',)).fetchall()


@given(st.text(), st.text())
def test_each_tenant_has_a_word_of_its_own(one, other):
    assert (tenant_word(one) == tenant_word(other)) == (one == other)
    assert tenant_word(one).encode().isalnum()
