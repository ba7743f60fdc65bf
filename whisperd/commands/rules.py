"""The commands `rules list|lint|test|explain`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whisperd.commands import Json, Settings, command
from whisperd.terminal import complain, show_fields, show_json, show_table

if TYPE_CHECKING:
    from whisperd.risk.detection import Finding
    from whisperd.risk.reading import Problem, ReadPack
    from whisperd.risk.rulebook import Rulebook
    from whisperd.risk.trial import Failure

app = typer.Typer(
    no_args_is_help=True, help="The rules of risk detection: which there are, and whether they work."
)

Files = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILE", help="Rule packs; none: all that are in force.", show_default=False),
]
RulesDir = Annotated[
    Path | None,
    typer.Option("--rules-dir", metavar="DIR", help="Where the packs of your own are.", show_default=False),
]


@command(app, "list")
def rules_list(config: Settings = None, rules_dir: RulesDir = None, json: Json = False) -> None:
    """List the rules in force: those that come with whisperd, and those of your own.

    A pack of your own takes the place of the one that has its name.
    """
    rulebook = _in_force(config, rules_dir)
    rows = [_row(read, rule) for read in rulebook.packs.values() for rule in read.pack.rule]
    if json:
        show_json(rows)
    else:
        head = ("ID", "PACK", "CATEGORY", "SEVERITY", "SCORE", "TITLE")
        show_table(head, [tuple(map(str, row.values())) for row in rows], "TITLE")


def _row(read: ReadPack, rule: Any) -> dict[str, Any]:
    return {
        "id": rule.id,
        "pack": read.pack.name,
        "category": str(rule.category),
        "severity": str(rule.severity),
        "score": rule.score,
        "title": rule.title,
    }


@command(app, "lint")
def rules_lint(
    files: Files = None, config: Settings = None, rules_dir: RulesDir = None, json: Json = False
) -> None:
    """Check rule packs; tells the file, line and key of all that is wrong. Exit status 1 when something is.

    $ whisperd rules lint my-rules.toml
    """
    packs, problems = _read(files, config, rules_dir)
    if json:
        show_json([problem._asdict() for problem in problems])
    else:
        complain("\n".join(map(str, problems)))
        if not problems:
            print(f"{len(packs)} packs, {sum(len(read.pack.rule) for read in packs)} rules: right")
    raise typer.Exit(bool(problems))


@command(app, "test")
def rules_test(
    files: Files = None, config: Settings = None, rules_dir: RulesDir = None, json: Json = False
) -> None:
    """Try rules on their own examples (tests.hit, tests.miss). Exit status 1 when one is not done right.

    $ whisperd rules test my-rules.toml
    """
    from whisperd.risk.trial import failures

    rulebook, tried = _to_try(files, config, rules_dir)
    rules = [rule for read in tried for rule in read.pack.rule]
    failed = [failure for rule in rules for failure in failures(rulebook, rule)]
    if json:
        show_json(failed)
    else:
        complain("\n".join(map(_told, failed)))
        count = sum(len(rule.tests.hit) + len(rule.tests.miss) for rule in rules)
        print(f"{len(rules)} rules, {count} examples: {len(failed) or 'none'} failed")
    raise typer.Exit(bool(failed))


def _told(failure: Failure) -> str:
    wrong = "is not found in" if failure.expected == "hit" else "is found in"
    return f"{failure.rule_id} {wrong}: {failure.text}"


@command(app, "explain")
def rules_explain(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What is said; - reads it from standard input.")
    ],
    files: Annotated[
        list[Path] | None,
        typer.Option("--pack", metavar="FILE", help="Only by this pack; more than once.", show_default=False),
    ] = None,
    config: Settings = None,
    rules_dir: RulesDir = None,
    json: Json = False,
) -> None:
    """Show what rules find in a text, and what makes each score.

    The words are shown as rules see them: short forms written out, numbers as digits. A text has no times, so
    rules that look in a part of a call find nothing here.

      $ whisperd rules explain "don't tell the cashier what the gift cards are for"
    """
    from whisperd.risk.detection import detect
    from whisperd.risk.words import streams
    from whisperd.task import Segment

    said = sys.stdin.read() if text == "-" else text
    segments = [Segment(start=0.0, end=0.0, text=said)]
    rulebook, _ = _to_try(files, config, rules_dir)
    report = detect(segments, rulebook, timed=False)
    if json:
        from msgspec import to_builtins

        show_json(to_builtins(report))
        return
    show_fields([("words", " ".join(stream.text for stream in streams(segments)))])
    show_fields([("risk", _risk(report.risk)), *[("missing", one.rule_id) for one in report.missing]])
    for finding in report.findings:
        print()
        show_fields(_fields(finding))
    complain("\n".join(report.rules_errors))


def _risk(risk: dict[str, Any]) -> str:
    return f"{risk['score']}, {risk['level']}" if risk["level"] else "nothing found"


def _fields(finding: Finding) -> Iterator[tuple[str, object]]:
    why = finding.why
    yield "rule", finding.rule_id
    yield "title", finding.title
    yield "says", finding.text
    yield "characters", f"{finding.char_start} to {finding.char_end}"
    yield "severity", f"{finding.category}, {finding.severity}"
    near = f", near it: {', '.join(why['context'])}" if why["context"] else ""
    yield "score", f"{finding.score} (the rule's {why['base']}{near})"


def _to_try(
    files: Sequence[Path] | None, config: Path | None, rules_dir: Path | None
) -> tuple[Rulebook, Sequence[ReadPack]]:
    """The rules to search by, and the packs that were named. Raises BadRules."""
    from whisperd.risk.reading import BadRules
    from whisperd.risk.rulebook import Rulebook

    if not files:
        rulebook = _in_force(config, rules_dir)
        return rulebook, list(rulebook.packs.values())
    packs, problems = _read(files, config, rules_dir)
    if problems:
        raise BadRules(problems)
    return Rulebook(packs), packs


def _in_force(config: Path | None, rules_dir: Path | None) -> Rulebook:
    """Raises BadRules where one of the packs cannot be used."""
    from whisperd.risk.reading import BadRules
    from whisperd.rulebooks import Rulebooks

    books = Rulebooks(_folder(config, rules_dir))
    if problems := books.reload():
        raise BadRules(problems)
    return books.rulebook


def _read(
    files: Sequence[Path] | None, config: Path | None, rules_dir: Path | None
) -> tuple[Sequence[ReadPack], Sequence[Problem]]:
    """The packs that can be read, and what is wrong with the others, or with all of them together."""
    from whisperd import rulebooks
    from whisperd.risk.rulebook import conflicts

    rulebooks.need_libraries()
    found, problems = rulebooks.read_files(files or rulebooks.files(_folder(config, rules_dir)))
    packs = rulebooks.by_name(found)
    return packs, [*problems, *conflicts(packs)]


def _folder(config: Path | None, rules_dir: Path | None) -> Path:
    from whisperd.config import load

    if rules_dir is not None and not rules_dir.is_dir():
        raise typer.BadParameter(f"--rules-dir: {rules_dir} is no folder")
    overrides = {"risk.rules_dir": rules_dir and str(rules_dir)}
    return load(config, overrides=overrides, may_be_foreign=True).rules_dir
