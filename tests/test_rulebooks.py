import shutil
from pathlib import Path

import pytest

from tests.risk.heard import HEAD, heard, rule
from whisperd import rulebooks
from whisperd.risk.detection import Wanted, detect
from whisperd.risk.reading import BadRules
from whisperd.risk.trial import failures
from whisperd.rulebooks import SHIPPED, RiskMissing, Rulebooks, load

PACKS = sorted(SHIPPED.glob("*.toml"))


@pytest.fixture
def folder(tmp_path):
    def folder(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.toml").write_text(text)
        return tmp_path

    return folder


def test_the_shipped_packs_are_these():
    books = Rulebooks(None)

    assert books.reload() == []
    assert list(books.rulebook.packs) == ["compliance-calls", "fraud-basic", "pii", "self-harm", "threat"]


@pytest.mark.parametrize("path", PACKS, ids=lambda path: path.stem)
def test_every_shipped_rule_does_its_own_examples_right(path):
    books = Rulebooks(None)
    books.reload()

    for each in load(path).pack.rule:
        assert each.tests.hit, each.id
        assert each.tests.miss, each.id
        assert list(failures(books.rulebook, each)) == []


def test_an_example_that_is_not_done_right_is_told(folder):
    books = Rulebooks(
        folder(mine=HEAD + rule('match = "code"\ntests.hit = ["cord"]\ntests.miss = ["a code"]'))
    )
    books.reload()

    failed = failures(books.rulebook, books.rulebook.rules["it"])

    assert [(failure.expected, failure.text) for failure in failed] == [("hit", "cord"), ("miss", "a code")]


def test_packs_of_the_users_own_are_read_beside_the_shipped_ones(folder):
    books = Rulebooks(folder(mine=HEAD + rule('match = "code"')))

    assert books.reload() == []
    assert len(books.rulebook.packs) == len(PACKS) + 1
    assert "it" in books.rulebook.rules


def test_they_may_be_yaml_and_break_as_others_do(folder):
    place = folder(mine=HEAD + rule('match = "code"'))
    text = "name: yours\nversion: 1\ntitle: Yours\nrule:\n  - {id: yours, title: A rule, category: custom, "
    for name, match in (("yours.yaml", "code"), ("broken.yml", "[code]")):
        (place / name).write_text(f"{text}severity: low, score: 0.5, match: {match}}}\n")
    books = Rulebooks(place)

    assert [str(problem) for problem in books.reload()] == [
        f"{place}/broken.yml:5: rule[0].match: expected str | object, got array"
    ]
    assert {"it", "yours"} <= books.rulebook.rules.keys()
    again = Rulebooks(place)
    again.restore(books.sources, books.rulebook.left_out)
    assert again.rulebook.rules["yours"].match == "code"


def test_a_pack_takes_the_place_of_the_shipped_one_that_has_its_name(folder):
    books = Rulebooks(folder(own=HEAD.replace("mine", "threat", 1) + rule('match = "code"')))

    assert books.reload() == []
    assert [rule.id for rule in books.rulebook.packs["threat"].pack.rule] == ["it"]
    assert "threat.kill" not in books.rulebook.rules


def test_a_folder_that_is_not_there_has_no_packs(tmp_path):
    books = Rulebooks(tmp_path / "none")

    assert books.reload() == []
    assert len(books.rulebook.packs) == len(PACKS)


def test_a_pack_that_breaks_stays_as_it_was(folder):
    place = folder(
        mine=HEAD + rule('match = "code"'),
        other=HEAD.replace("mine", "other", 1) + rule('match = "x"', id="x"),
    )
    books = Rulebooks(place)
    books.reload()

    folder(
        mine=HEAD + rule("match = 3"), other=HEAD.replace("mine", "other", 1) + rule('match = "y"', id="y")
    )
    problems = books.reload()

    assert [str(problem) for problem in problems] == [
        f"{place}/mine.toml:11: rule[0].match: expected str | object, got int"
    ]
    assert books.rulebook.rules["it"].match == "code"
    assert "y" in books.rulebook.rules


def test_a_pack_that_is_broken_from_the_first_is_out(folder):
    books = Rulebooks(folder(mine="name = "))

    assert len(books.reload()) == 1
    assert len(books.rulebook.packs) == len(PACKS)


@pytest.mark.parametrize(
    "fault",
    [
        rule('match = "a"', id="threat.kill"),
        rule('match.rule = "nobodys"'),
        rule('match.rule = "two"', id="one") + rule('match.rule = "one"', id="two"),
    ],
    ids=["an id twice", "no such rule", "a circle"],
)
def test_at_first_what_does_not_fit_is_out_and_nothing_else(folder, fault):
    good = HEAD.replace("mine", "good", 1) + rule('match = "code"', id="good")
    books = Rulebooks(folder(bad=HEAD.replace("mine", "bad", 1) + fault, good=good))

    problems = books.reload()

    assert problems
    assert {Path(problem.file).name for problem in problems} == {"bad.toml"}
    assert books.rulebook.left_out == ["bad.toml"]
    assert "good" in books.rulebook.rules
    assert "pii.card" in books.rulebook.rules


@pytest.mark.parametrize("ending", ["toml", "yaml", "yml"])
def test_a_look_by_a_pack_is_told_when_a_file_of_its_name_is_broken(tmp_path, ending):
    (tmp_path / f"pii.{ending}").write_text("name: [")
    books = Rulebooks(tmp_path)
    books.reload()

    for packs, told in (({"pii"}, 1), ({"threat"}, 0), ((), 1)):
        report = detect(heard("hello"), books.rulebook, Wanted(packs=frozenset(packs)))
        assert len(report.rules_errors) == told


def test_where_it_is_not_clear_what_does_not_fit_the_shipped_packs_are_left(folder):
    instead = HEAD.replace("mine", "compliance-calls", 1) + rule('match = "a"', id="threat.kill")
    books = Rulebooks(
        folder(own=instead, good=HEAD.replace("mine", "good", 1) + rule('match = "b"', id="good"))
    )

    assert books.reload()
    assert list(books.rulebook.packs) == [path.stem for path in PACKS]
    assert books.rulebook.left_out == ["good.toml", "own.toml"]


def test_files_beyond_the_most_are_told_and_left_out(folder, monkeypatch):
    monkeypatch.setattr(rulebooks, "MOST_FILES", len(PACKS) + 1)
    texts = {name: HEAD.replace("mine", name, 1) + rule('match = "a"', id=name) for name in "abc"}
    books = Rulebooks(folder(**texts))

    assert [str(problem) for problem in books.reload()] == [
        f"{folder()}/b.toml:1: 2 files from this one on are not read: {len(PACKS) + 1} may be"
    ]
    assert books.rulebook.left_out == ["b.toml", "c.toml"]


def test_the_name_of_rules_that_are_sent_is_no_packs(folder):
    books = Rulebooks(folder(mine=HEAD.replace("mine", "request", 1) + rule('match = "a"')))

    assert "request is the name of rules that are sent" in str(books.reload()[0])


def test_packs_that_do_not_fit_together_change_nothing(folder):
    books = Rulebooks(folder(mine=HEAD + rule('match = "code"')))
    books.reload()
    before = books.rulebook

    problems = books.reload() if folder(mine=HEAD + rule('match = "a"', id="threat.kill")) else []

    assert "threat.kill is a rule of" in str(problems[0])
    assert books.rulebook is before


def test_a_pack_that_is_taken_away_is_gone(folder):
    place = folder(mine=HEAD + rule('match = "code"'))
    books = Rulebooks(place)
    books.reload()

    (place / "mine.toml").unlink()

    assert books.reload() == []
    assert "it" not in books.rulebook.rules


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(BadRules, match=r"gone\.toml:1: No such file"):
        load(tmp_path / "gone.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(BadRules, match=r"folder\.toml:1: Is a directory"):
        load(tmp_path / "folder.toml")


def test_what_an_editor_leaves_behind_is_no_pack(tmp_path):
    for name in (".mine.toml", "mine.toml~", "mine.toml.bak"):
        shutil.copy(PACKS[0], tmp_path / name)

    assert rulebooks.files(tmp_path) == rulebooks.files(None)


def test_without_the_libraries_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(rulebooks.need_libraries.__globals__, "_LIBRARIES", ("re2", "nothing_has_this_name"))

    with pytest.raises(RiskMissing, match=r"pip install 'whisperd\[risk\]'"):
        Rulebooks(None)
