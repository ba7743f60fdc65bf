import re

import pytest

from tests.risk.heard import HEAD, rule, rulebook
from whisperd.risk.reading import BadRules, read


def problems(text):
    with pytest.raises(BadRules) as caught:
        read(text.encode() if isinstance(text, str) else text, "mine.toml")
    return str(caught.value).splitlines()


def test_a_pack_is_read():
    pack = read((HEAD + rule('match = "code"')).encode(), "mine.toml").pack

    assert (pack.name, pack.version, pack.rule[0].id) == ("mine", 1, "it")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('name = "mine\n', "mine.toml:1: no TOML: illegal character"),
        ('name = "mine"\nversion = \n', "mine.toml:2: no TOML: invalid value"),
        (b'name = "mine"\n# \xff\n', "mine.toml:2: no UTF-8"),
        ('version = 1\ntitle = "x"\n', "mine.toml:1: name is missing"),
        (HEAD, "mine.toml:1: rule is missing"),
        (HEAD + "rule = 3\n", "mine.toml:4: rule: expected array, got int"),
        (
            HEAD.replace("version = 1", 'version = "1"') + rule('match = "x"'),
            "mine.toml:2: version: expected int",
        ),
        (HEAD + "extra = 1\n" + rule('match = "x"'), "mine.toml:4: extra: there is no such key"),
        ("x = " + "[" * 5000, "mine.toml:1: tables within tables, too deep"),
        (HEAD + 'rule = [{ id = "a" }, { id = "b" }]', "mine.toml:4: rule[0]: title is missing"),
        (HEAD + 'lists.who = ["?"]\n' + rule('match = "x"'), "mine.toml:4: lists.who[0]: '?' has no word"),
        (HEAD + "lists.who = []\n" + rule('match = "x"'), "mine.toml:4: lists[...]: expected array"),
        (".".join("a" * 100_000) + " = 1", "mine.toml:1: a line with more than 100 dots"),
        ("#" * 600_000, "mine.toml:1: a pack of 600,000 bytes, more than 524,288"),
    ],
)
def test_a_file_that_is_no_pack_is_refused_with_its_line(text, told):
    assert problems(text)[0].startswith(told)


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("", "5: rule[0]: match is missing"),
        ("match = 3", "11: rule[0].match: expected str | object, got int"),
        ("match = {}", "11: rule[0].match: one operator is needed, here are: none"),
        (
            'match = { phrase = "a", regex = "b" }',
            "11: rule[0].match: one operator is needed, here are: phrase, regex",
        ),
        ('match.any = [{ list = "who" }]', "11: rule[0].match.any[0]: there is no list who"),
        ('match.phrases = "a"', "11: rule[0].match.phrases: there is no such key"),
        ('match = "*"', "11: rule[0].match: '*' has no word where one is needed"),
        ('match = "?!"', "11: rule[0].match: '?!' has no word where one is needed"),
        ('match = "a * b * c * d * e * f"', "11: rule[0].match: 'a * b * c * d * e * f' has more than 4 *"),
        ('match.regex = "(a"', "11: rule[0].match: no regex: missing )"),
        ('match.regex = "a*"', "11: rule[0].match: a regex that matches nothing at all"),
        ('match.regex = "((a|b|c){0,90}){40}z"', "11: rule[0].match: "),
        ('match.regex = ".{900}q"', "11: rule[0].match: a regex of "),
        ('match.regex = "(a)\\\\1"', "11: rule[0].match: no regex: invalid escape sequence"),
        ('match.not = "a"', "11: rule[0].match: not belongs into all, near or sequence"),
        ('match.any = ["a", { not = "b" }]', "11: rule[0].match: not belongs into all, near or sequence"),
        ('match.all = [{ not = "b" }]', "11: rule[0].match: something must be there"),
        ('match.pii = "passport"', "11: rule[0].match.pii: invalid enum value 'passport'"),
        (
            'match = "a"\ncontext = { words = ["?"], boost = 0.1 }',
            "12: rule[0].context.words[0]: '?' has no word",
        ),
        ('match = "a"\n[rule.where]\nfirst = 3', "13: rule[0].where.first: there is no such key"),
        ('match = "a"\nredact = "card number"', "12: rule[0].redact: expected str matching regex"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_its_line_and_key(rest, told):
    (line,) = problems(HEAD + rule(rest))

    assert line.startswith(f"mine.toml:{told}")


def test_all_that_is_wrong_is_told_at_once():
    text = HEAD + rule("match = 3", id="a") + rule('match = "fine"', id="b") + rule("match = 4", id="c")

    assert [re.match(r"mine\.toml:\d+: (rule\[\d\])", line)[1] for line in problems(text)] == [
        "rule[0]",
        "rule[2]",
    ]


def test_of_many_faults_the_first_hundred_are_told():
    assert len(problems(HEAD + rule("match = 3") * 150)) == 100


def test_each_of_many_rules_has_its_line():
    lines = read((HEAD + "".join(rule('match = "x"', id=f"r{n}") for n in range(1000))).encode(), "").lines

    assert lines[:2] == (5, 13)
    assert lines[-1] == 5 + 8 * 999


def test_an_id_is_there_once():
    assert problems(HEAD + rule('match = "a"') * 2) == ["mine.toml:14: rule[1].id: it is there twice"]


def test_operators_lie_in_each_other_to_a_depth():
    def nested(depth):
        return "match = " + "{ any = [" * depth + '"x"' + "] }" * depth

    assert read((HEAD + rule(nested(7))).encode(), "mine.toml")
    assert "more than 8 deep" in problems(HEAD + rule(nested(9)))[0]
    assert "too deep" in problems(HEAD + rule(nested(900)))[0]


def test_a_pack_has_so_many_phrases():
    phrases = ", ".join(f'"w{n}"' for n in range(5001))

    assert problems(HEAD + rule(f"match.any = [{phrases}]")) == [
        "mine.toml:1: 5,002 phrases and operators, more than 5,000"
    ]


def test_the_phrases_of_lists_count_too():
    phrases = ", ".join(f'"w{n}"' for n in range(5000))

    assert problems(f"{HEAD}lists.who = [{phrases}]\n" + rule('match.list = "who"')) == [
        "mine.toml:1: 5,001 phrases and operators, more than 5,000"
    ]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([rule('match.rule = "there"', id="a")], "there is no rule there"),
        ([rule('match.rule = "b"', id="a"), rule('match.rule = "a"', id="b")], "rules in a circle: "),
        ([rule('match.rule = "it"')], "rules in a circle: it -> it"),
    ],
)
def test_rules_that_are_made_of_each_other_must_lead_somewhere(rules, told):
    with pytest.raises(BadRules, match=told):
        rulebook(*rules)
