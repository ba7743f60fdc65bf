import json

import pytest

from tests.risk.heard import HEAD, rule
from tests.terminal import command_line


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    command = command_line(monkeypatch, capfd, tmp_path)
    return lambda *args: command("rules", *args, url="http://127.0.0.1:1")


@pytest.fixture
def pack(tmp_path):
    def pack(*rules, name="mine.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEAD + "".join(rules))
        return path

    return pack


def test_rules_are_listed(run):
    outcome = run("list")

    assert outcome.status == 0
    assert "pii.card\tpii\tpii\thigh\t0.95\tA payment card's number" in outcome.lines


def test_rules_of_a_folder_are_listed_with_the_shipped_ones(run, pack):
    folder = pack(rule('match = "code"'), name="own/mine.toml").parent

    rules = json.loads(run("list", "--json", "--rules-dir", folder).out)

    assert {
        "id": "it",
        "pack": "mine",
        "category": "custom",
        "severity": "medium",
        "score": 0.5,
        "title": "A rule",
    } in rules
    assert "pii.card" in [rule["id"] for rule in rules]


def test_the_folder_of_the_settings_is_read(run, pack, monkeypatch):
    monkeypatch.setenv("WHISPERD_RISK__RULES_DIR", str(pack(rule("match = 3"), name="own/mine.toml").parent))

    outcome = run("lint")

    assert outcome.status == 1
    assert "own/mine.toml:11: rule[0].match: expected str | object, got int" in outcome.err


def test_packs_that_are_right_are_told_so(run, pack):
    outcome = run("lint", pack(rule('match = "code"')))

    assert (outcome.status, outcome.out) == (0, "1 packs, 1 rules: right\n")
    assert run("lint").status == 0


def test_all_that_is_wrong_with_packs_is_told(run, pack):
    first = pack(rule("match = 3", id="a") + rule('match.regex = "("', id="b"))
    second = pack(rule('match.rule = "none"', id="c"), name="second.toml")

    outcome = run("lint", first, second)

    assert outcome.status == 1
    assert outcome.err.splitlines() == [
        f"whisperd: {first}:11: rule[0].match: expected str | object, got int",
        f"whisperd: {second}:5: rule[0].match: there is no rule none",
    ]


def test_what_is_wrong_is_data_too(run, pack):
    path = pack(rule("match = 3"))

    outcome = run("lint", "--json", path)

    assert outcome.status == 1
    assert json.loads(outcome.out) == [
        {"file": str(path), "line": 11, "key": "rule[0].match", "message": "expected str | object, got int"}
    ]


def test_rules_are_tried_on_their_examples(run, pack):
    right = 'match = "code"\ntests.hit = ["a code"]\ntests.miss = ["a cord"]'
    wrong = 'match = "code"\ntests.hit = ["a cord"]\ntests.miss = ["a code"]'

    good, bad = run("test", pack(rule(right))), run("test", pack(rule(wrong)))

    assert (good.status, good.out) == (0, "1 rules, 2 examples: none failed\n")
    assert (bad.status, bad.out) == (1, "1 rules, 2 examples: 2 failed\n")
    assert bad.err.splitlines() == [
        "whisperd: it is not found in: a cord",
        "whisperd: it is found in: a code",
    ]


def test_a_broken_pack_is_not_tried(run, pack):
    outcome = run("test", pack(rule("match = 3")))

    assert outcome.status == 1
    assert "mine.toml:11: rule[0].match" in outcome.err


def test_what_is_found_is_explained(run):
    outcome = run("explain", "call the bank: my card's 4111 1111 1111 1111.")

    assert outcome.status == 0
    assert "words  call the bank my cards 4111 1111 1111 1111" in outcome.lines
    assert "rule        pii.card" in outcome.lines
    assert "says        4111 1111 1111 1111" in outcome.lines


def test_what_makes_the_score_is_explained(run, pack):
    path = pack(rule('match = "code"\ncontext = { words = ["bank"], boost = 0.2 }'))

    outcome = run("explain", "--pack", path, "the bank wants a code")

    assert "risk  0.7, medium" in outcome.lines
    assert "score       0.7 (the rule's 0.5, near it: bank)" in outcome.lines


def test_where_nothing_is_found_it_says_so(run):
    assert "risk  nothing found" in run("explain", "good morning").lines


def test_an_explanation_is_data_too(run):
    report = json.loads(run("explain", "--json", "mail jane@example.com").out)

    assert [finding["rule_id"] for finding in report["findings"]] == ["pii.email"]
    assert report["findings"][0]["char_start"] == 5


def test_a_folder_that_is_not_there_is_wrong_usage(run):
    outcome = run("list", "--rules-dir", "nowhere")

    assert outcome.status == 2
    assert "nowhere is no folder" in outcome.err
