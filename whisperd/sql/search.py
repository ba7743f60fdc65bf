"""The search: which tasks say something, or are called so, and where.

An index of words (FTS5) beside the tables. The transactions that make, complete or delete a task only note
it in `unsearched` (see the migration); `index` follows, some tasks at a time. So the index is behind by about
a second, and by as much as a back-fill takes after an upgrade; it is never ahead: what is found is held
against the tables. It can be emptied and filled again at any time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import NamedTuple

import msgspec
from msgspec import Struct

from whisperd.sql.questions import span
from whisperd.sql.rows import Damaged, named, to_json, to_task
from whisperd.sql.words import expression, tenant_word
from whisperd.task import Found, Hit, IndexDamaged, Indexed, ListQuery, Match, Task

# Of one transaction that others wait for, some milliseconds each:
MOST_CHARACTERS = 10_000  # of transcripts that are indexed, some 1,800 words; a longer one goes by itself,
MOST_TASKS = 32  # and tasks, however little is said in them
MERGED_PAGES = 16
MOST_ROWS = 100  # of a damaged index that are removed, some KB each
MOST_NOTED = 2000  # tasks
WALK = 1000  # hits that are looked at for one page, where a filter may pass over some
SHORTEST_ID = 10  # letters of an id, from which on its start is looked for: in a ULID, its millisecond
WORDS_LOOKED_AT = 100  # that begin as the last one of a search does,
MOST_WORDS = 16  # and that are looked for
SNIPPET = 160  # characters
_LAST = "\U0010ffff"
_OPEN, _CLOSE = "\x01", "\x02"  # around each match: no text has them
_BY_CODE = str.maketrans(dict.fromkeys([*range(32), 127], " "))


class _Said(Struct, frozen=True):
    start: float
    text: str


class _Entry(NamedTuple):
    name: str
    text: str  # a line a segment
    tenant: str
    starts: str  # JSON: of each line, in seconds


# --- writing it ---


def index(conn: sqlite3.Connection) -> Indexed:
    """Make, renew or remove the entries of some of the tasks that were noted, the newest first.

    A task that cannot be read has no entry, and is not looked at again until it changes: one flipped bit must
    not keep the others from being found. Raises IndexDamaged.
    """
    waiting = conn.execute("select task from unsearched order by task desc limit ?", (MOST_TASKS,)).fetchall()
    done, characters, unreadable = 0, 0, []
    with _intact(conn):
        for (seq,) in waiting:
            entry = None
            try:
                with named(seq):
                    entry = _entry(conn, seq)
            except Damaged:
                unreadable.append(seq)
            characters += _renew(conn, seq, entry)
            conn.execute("delete from unsearched where task = ?", (seq,))
            done += 1
            if characters > MOST_CHARACTERS:
                break
    return Indexed(done, tuple(unreadable))


@contextmanager
def _intact(conn: sqlite3.Connection) -> Iterator[None]:
    """As `_sound`, around what writes."""
    with _sound():
        yield
        conn.execute("savepoint written")  # FTS5 writes what it holds back at one: here, not at the commit
        conn.execute("release written")


@contextmanager
def _sound() -> Iterator[None]:
    """Raise trouble of the index's own as IndexDamaged: it is none of the database's."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CORRUPT_VTAB:
            raise IndexDamaged("the index of words is damaged, and is made anew") from error
        raise


def merge(conn: sqlite3.Connection) -> bool:
    """A step of merging what was written by itself; False if there was nothing to merge.

    To be called after each step that wrote, until then: FTS5's own merges took 33 ms.
    Raises IndexDamaged.
    """
    before = conn.total_changes
    with _intact(conn):
        conn.execute("insert into search (search, rank) values ('merge', ?)", (MERGED_PAGES,))
    return conn.total_changes - before > 1  # one is of the order itself


def _renew(conn: sqlite3.Connection, seq: int, entry: _Entry | None) -> int:
    """The characters of its new entry; 0 if it has none any more."""
    if entry is None:
        conn.execute("delete from search where rowid = ?", (seq,))
        return 0
    sql = "insert or replace into search (rowid, name, text, tenant, starts) values (?, ?, ?, ?, ?)"
    conn.execute(sql, (seq, *entry))
    return len(entry.text)


def _entry(conn: sqlite3.Connection, seq: int) -> _Entry | None:
    """None if there is no such task any more."""
    task = conn.execute("select audio_name, tenant, state, redact from task where seq = ?", (seq,)).fetchone()
    if task is None:
        return None
    is_shown = task["state"] == "completed" and task["redact"] is None  # else a search would tell what is not
    said = _said(conn, seq) if is_shown else []
    return _Entry(
        name=task["audio_name"].translate(_BY_CODE),
        text="\n".join(segment.text.translate(_BY_CODE) for segment in said),
        tenant=tenant_word(task["tenant"]),
        starts=to_json([round(segment.start, 2) for segment in said]),
    )


def _said(conn: sqlite3.Connection, seq: int) -> list[_Said]:
    """The segments in order of time: the chunks of split channels overlap."""
    rows = conn.execute("select segments from edit where task = ?", (seq,)).fetchall()
    if not rows:
        rows = conn.execute(_ORIGINAL, (seq,)).fetchall()
    said = [segment for row in rows for segment in msgspec.json.decode(row["segments"], type=list[_Said])]
    return sorted(said, key=lambda segment: segment.start)


_ORIGINAL = "select segments from chunk where task = ? and segments is not null"


def forget(conn: sqlite3.Connection) -> int:
    """Remove some entries, whose tasks are noted for the day when they are wanted again. How many.

    Raises IndexDamaged.
    """
    with _intact(conn):
        rows = conn.execute("select rowid from search limit ?", (MOST_TASKS,)).fetchall()
        for (seq,) in rows:
            conn.execute("delete from search where rowid = ?", (seq,))
            conn.execute(
                "insert into unsearched select seq from task where seq = ? on conflict do nothing", (seq,)
            )
    return len(rows)


def take_apart(conn: sqlite3.Connection) -> bool:
    """A step of removing an index that is damaged; False if nothing is left of it.

    Its structure goes first: without that it cannot be opened, so that a start which finds it half removed
    finds it damaged.
    """
    conn.execute("delete from search_data where id = 10")
    parts = {"search_content": "id", "search_data": "id", "search_idx": "segid, term"}
    removed = 0
    for table, key in parts.items():
        some = f"select {key} from {table} limit ?"
        removed += conn.execute(f"delete from {table} where ({key}) in ({some})", (MOST_ROWS,)).rowcount
    return removed > 0


def note_again(conn: sqlite3.Connection, after: int) -> int | None:
    """Note some of the tasks behind that one, and return the last of them; None if there are no more."""
    next_ones = "select seq from task where seq > ? order by seq limit ?"
    (last,) = conn.execute(f"select max(seq) from ({next_ones})", (after, MOST_NOTED)).fetchone()
    if last is not None:
        between = "select seq from task where seq > ? and seq <= ?"
        conn.execute(f"insert into unsearched {between} on conflict do nothing", (after, last))
    return None if last is None else int(last)


def begin_anew(conn: sqlite3.Connection) -> None:
    """Put an empty index in the place of one of which nothing is left."""
    made = conn.execute("select sql from sqlite_schema where name = 'search' and type = 'table'").fetchone()
    # As it is dropped it is opened, which it has to be like a new one for.
    conn.execute("insert into search_data values (1, x''), (10, x'00000000000000')")
    conn.execute("drop table search")  # `word` only looks into it, and finds the new one
    conn.execute(made["sql"])
    conn.execute("insert into search (search, rank) values ('automerge', 0)")


def is_behind(conn: sqlite3.Connection) -> bool:
    return conn.execute("select 1 from unsearched limit 1").fetchone() is not None


def is_empty(conn: sqlite3.Connection) -> bool:
    """Raises IndexDamaged."""
    with _sound():
        return conn.execute("select 1 from search limit 1").fetchone() is None


# --- asking it ---


def find(conn: sqlite3.Connection, query: ListQuery, matches: bool = True) -> Found:
    """A page of the tasks that say all words of `query.text`, in it or in their names; or have such an id.

    Raises TooManyWords, IndexDamaged.

    A page is the outcome of a bounded walk: it may have fewer tasks than `limit`, or none, and go on.
    Without `matches` nobody is told where the words are said, and no transcript is read.
    """
    is_empty(conn)  # first: opened by way of `word`, a damaged index reads as a damaged database
    with _sound():
        words = _words(conn, query)
        seqs = _candidates(conn, words, query)
        tasks = _tasks(conn, query, seqs)
        where = _matches(conn, words, [task.seq for task in tasks]) if words and matches else {}
    hits = tuple(Hit(task, where.get(task.seq)) for task in tasks)
    if len(tasks) == query.limit:
        return Found(hits, tasks[-1].seq)
    return Found(hits, seqs[-1] if len(seqs) >= _walk(query) else None)


def _words(conn: sqlite3.Connection, query: ListQuery) -> str | None:
    words = expression(query.text or "", lambda start: _words_from(conn, start))
    if words is None:
        return None
    mine = "" if query.tenant is None else f' AND tenant : "{tenant_word(query.tenant)}"'
    return f"{{name text}} : ({words}){mine}"


def _words_from(conn: sqlite3.Connection, start: str) -> Sequence[str]:
    """The words that begin so: of the first of them those that the most tasks have.

    FTS5 has a search by the start of a word, which first merges all that is known of all such words: 0.6 s of
    processor time for one letter at 100,000 tasks. Each of some words is read as far as it is needed.
    """
    rows = conn.execute(
        "select term, doc from word where term >= ? and term <= ? limit ?",
        (start, start + _LAST, WORDS_LOOKED_AT),
    ).fetchall()
    return [row["term"] for row in sorted(rows, key=lambda row: -row["doc"])[:MOST_WORDS]]


def _candidates(conn: sqlite3.Connection, words: str | None, query: ListQuery) -> list[int]:
    """Who has the words or the id, the newest first; as many as the walk has, and then there may be more."""
    walk = _walk(query)
    first, last = span(conn, query)
    oldest, before = first or 0, 2**62 if last is None else last
    hits = [] if words is None else [row[0] for row in conn.execute(_HITS, (words, oldest, before, walk))]
    oldest = hits[-1] if len(hits) == walk else oldest
    named = [seq for seq in _with_id(conn, query.text or "") if oldest <= seq < before]
    return sorted({*hits, *named}, reverse=True)


def _walk(query: ListQuery) -> int:
    """How many hits to look at. The tenant is a word like any other: it passes over none."""
    return max(WALK, query.limit) if query.states or query.kind is not None else query.limit


_HITS = """
    select rowid from search where search match ? and rowid >= ? and rowid < ? order by rowid desc limit ?
"""


def _with_id(conn: sqlite3.Connection, text: str) -> Sequence[int]:
    start = text.strip()
    if len(start) < SHORTEST_ID or not (start.isascii() and start.isalnum()):
        return []
    sql = "select seq from task where id >= ? and id < ? || char(1114111) limit 100"
    return [row[0] for row in conn.execute(sql, (start, start))]


def _tasks(conn: sqlite3.Connection, query: ListQuery, seqs: Sequence[int]) -> list[Task]:
    """Those of `seqs` that the query lets through, the newest first."""
    rows = conn.execute(
        """
        select task.* from json_each(:seqs) as hit cross join task on task.seq = hit.value
        where (:kind is null or kind = :kind) and (:tenant is null or tenant = :tenant)
          and (:states = '[]' or state in (select value from json_each(:states)))
        order by task.seq desc limit :limit
        """,
        {
            "seqs": to_json(list(seqs)),
            "kind": query.kind,
            "tenant": query.tenant,
            "states": to_json(sorted(query.states)),
            "limit": query.limit,
        },
    )
    return [to_task(row) for row in rows]


def _matches(conn: sqlite3.Connection, words: str, seqs: Sequence[int]) -> dict[int, Match]:
    """Where the words are said; a task that is only called so has none."""
    if not seqs:
        return {}
    rows = conn.execute(
        """
        select rowid, highlight(search, 1, :open, :close) as text, starts from search
        where search match :words and rowid between :oldest and :newest
          and +rowid in (select value from json_each(:seqs))  -- +: else it would be a search for each
        """,
        {
            "words": words,
            "open": _OPEN,
            "close": _CLOSE,
            "oldest": min(seqs),
            "newest": max(seqs),
            "seqs": to_json(list(seqs)),
        },
    )
    return {row["rowid"]: match for row in rows if (match := _match(row["text"], row["starts"]))}


def _match(marked: str, starts: str) -> Match | None:
    """The stretch with the most matches, the first of these, cut where words end."""
    pieces = list(_pieces(marked))
    text = "".join(piece for piece, _ in pieces)
    ends = list(accumulate(len(piece) for piece, _ in pieces))
    marks = [(end - len(piece), end) for (piece, is_mark), end in zip(pieces, ends, strict=True) if is_mark]
    if not marks:
        return None
    first = max(range(len(marks)), key=lambda n: (_within_reach(marks, n), -n))
    start = marks[first][0]
    begin, end = _around(text, start)
    ranges = [(low - begin, high - begin) for low, high in marks if begin <= low and high <= end]
    line = text.count("\n", 0, start)
    snippet = text[begin:end].replace("\n", " ")
    return Match(
        snippet=snippet,
        ranges=tuple((_utf16(snippet[:low]), _utf16(snippet[:high])) for low, high in ranges),
        start=msgspec.json.decode(starts, type=list[float])[line],
    )


def _pieces(marked: str) -> Iterator[tuple[str, bool]]:
    for part in marked.split(_OPEN):
        found, closed, rest = part.partition(_CLOSE)
        if closed:
            yield found, True
            yield rest, False
        else:
            yield part, False


def _within_reach(marks: Sequence[tuple[int, int]], first: int) -> int:
    """How many of the next marks a snippet that shows the first one can show too."""
    return sum(end - marks[first][0] <= SNIPPET // 2 for _, end in marks[first : first + 10])


def _around(text: str, start: int) -> tuple[int, int]:
    """Where a snippet begins and ends that shows what starts there, and a little before it."""
    begin = max(0, start - SNIPPET // 4)
    if begin:
        begin = text.find(" ", begin, start) + 1 or begin
    end = min(len(text), begin + SNIPPET)
    if end < len(text):
        end = max(text.rfind(" ", start + SNIPPET // 2, end), 0) or end
    return begin, end


def _utf16(text: str) -> int:
    """Its length as JavaScript counts."""
    return len(text.encode("utf-16-le")) // 2
