"""The process that searches: reads rule packs, and looks through transcripts by them.

Rules and texts come from users, and Python cannot be stopped from outside: here it can be killed, and costs
the daemon neither memory nor time. Needs the extra risk. One request a line on stdin, one answer on stdout.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from whisperd.leash import limit, tie
from whisperd.look import Sighting
from whisperd.risk.detection import Finding, Missing, Wanted, detect, silenced
from whisperd.risk.reading import REQUEST, BadRules, read_rules
from whisperd.risk.report import document
from whisperd.risk.rulebook import Rulebook
from whisperd.risk.rules import Severity
from whisperd.risk_protocol import (
    Answer,
    Begin,
    Check,
    Found,
    InForce,
    NoMemory,
    Request,
    Right,
    Search,
    Settings,
    Wrong,
)
from whisperd.rulebooks import Rulebooks
from whisperd.task import Segment

MOST_TOLD = 5  # of what is wrong with rules
_SEVERITIES = list(Severity)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group, they are the daemon's to handle
        signal.signal(number, signal.SIG_IGN)
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    tie(settings.daemon_pid, settings.nice)
    limit(resource.RLIMIT_AS, settings.max_memory_bytes)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker(Rulebooks(Path(settings.rules_dir)))
    for line in sys.stdin.buffer:
        out.write(msgspec.json.encode(worker.answer(line)) + b"\n")
        out.flush()


class Worker:
    def __init__(self, books: Rulebooks) -> None:
        self._books = books

    def answer(self, line: bytes) -> Answer:
        try:
            return self._done(msgspec.json.decode(line, type=Request))
        except BadRules as error:
            told = [_told(problem.key, problem.message) for problem in error.problems[:MOST_TOLD]]
            return Wrong("rules", "; ".join(told))
        except MemoryError:
            return NoMemory()

    def _done(self, request: Request) -> Answer:
        match request:
            case Begin():
                return self._begin(request)
            case Check():
                return self._check(request)
            case Search():
                return self._search(request)

    def _begin(self, begin: Begin) -> InForce:
        books = self._books
        books.restore(begin.sources, begin.left_out)
        problems = books.reload() if begin.reread else ()
        named = [problem._replace(file=Path(problem.file).name) for problem in problems]  # no path is told
        return InForce(
            sources=dict(books.sources),
            left_out=tuple(books.rulebook.left_out),
            problems=tuple(map(str, named)),
        )

    def _check(self, check: Check) -> Wrong | Right:
        if wrong := self._absent(check.packs):
            return wrong
        self._rulebook(check.rules)
        return Right()

    def _absent(self, packs: Iterable[str]) -> Wrong | None:
        there = self._books.rulebook.packs
        for name in packs:
            if name not in there:
                return Wrong("packs", f"there is no pack {name}; there are {', '.join(there)}")
        return None

    def _rulebook(self, rules: str | None) -> Rulebook:
        """All packs, since a rule may name one of another pack, and the rules that were sent."""
        if rules is None:
            return self._books.rulebook
        books = self._books.rulebook
        return Rulebook([*books.packs.values(), read_rules(rules.encode())], books.left_out)

    def _search(self, search: Search) -> Found | Wrong:
        asked, rulebook = search.asked, self._rulebook(search.rules)
        if wrong := self._absent(asked.packs or ()):  # gone since it was submitted: it would find nothing
            return wrong
        segments = msgspec.json.decode(search.segments, type=list[Segment])
        report = detect(segments, rulebook, _wanted(search), timed=asked.timed, so_far=search.so_far)
        if not asked.quotes:
            report = silenced(report)
        told: list[Finding | Missing] = [*report.findings, *report.missing]
        counts = Counter((one.category, one.severity) for one in told)
        return Found(
            document=msgspec.Raw(
                msgspec.json.encode(document(report, segments, asked.redact if asked.quotes else "none"))
            ),
            counts=tuple((str(category), str(severity), n) for (category, severity), n in counts.items()),
            sightings=tuple(_sighting(one, Severity(asked.alert_severity)) for one in told),
        )


def _sighting(one: Finding | Missing, least: Severity) -> Sighting:
    begin, past = (one.start, one.end) if isinstance(one, Finding) else (None, None)
    return Sighting(
        rule=one.rule_id,
        speaker=(one.speaker or "") if isinstance(one, Finding) else "",
        begin=-1.0 if begin is None else begin,
        past=-1.0 if past is None else past,
        loud=_SEVERITIES.index(one.severity) >= _SEVERITIES.index(least),
        finding=msgspec.Raw(msgspec.json.encode(one)),
    )


def _wanted(search: Search) -> Wanted:
    asked = search.asked
    packs = None if asked.packs is None else {*asked.packs, *([REQUEST] if search.rules else [])}
    fields = {
        "packs": packs or (),
        "categories": asked.categories,
        "min_score": asked.min_score,
        "min_severity": asked.min_severity,
        "redact": asked.redact,
    }
    return msgspec.convert(fields, Wanted, from_attributes=False)


def _told(key: str, message: str) -> str:
    return f"{key}: {message}" if key else message


if __name__ == "__main__":
    main()
