"""What is typed into a search box: words and phrases, never a syntax error."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from whisperd.db import migrate
from whisperd.sql.words import expression, tenant_word


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
    words = expression(text, lambda start: [start, f"{start}x"])

    if words is not None:
        sql = "select rowid from search where search match ?"
        conn.execute(sql, (f'{{name text}} : ({words}) AND tenant : "{tenant_word("a")}"',)).fetchall()


@given(st.text(), st.text())
def test_each_tenant_has_a_word_of_its_own(one, other):
    assert (tenant_word(one) == tenant_word(other)) == (one == other)
    assert tenant_word(one).encode().isalnum()
