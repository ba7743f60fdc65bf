import pytest

from whisperd.risk.reading import BadRules, read

TOML = """name = "mine"
version = 1
title = "Mine"
lists.who = ["my mum", "no"]

[[rule]]
id = "mine.pay"
title = "Pays"
category = "custom"
severity = "low"
score = 0.5
fuzzy = true
where.first_seconds = 60
match.near = { within_words = 8, words = [{ any = ["pay", "25"] }, { list = "who" }, { not = "never" }] }
tests.hit = ["I pay my mum"]
"""
YAML = """# as a rule may stand there
name: mine
version: 1
title: Mine
lists:
  who: [my mum, no]
rule:
  - id: mine.pay
    title: Pays
    category: custom
    severity: low
    score: 0.5
    fuzzy: true
    where: {first_seconds: 60}
    match:
      near:
        within_words: 8
        words:
          - any: [pay, "25"]
          - list: who
          - not: never
    tests:
      hit: [I pay my mum]
"""


def problems(text):
    with pytest.raises(BadRules) as caught:
        read(text.encode(), "mine.yaml")
    return str(caught.value).splitlines()


@pytest.mark.parametrize("file", ["mine.yaml", "mine.yml"])
def test_a_pack_says_the_same_in_either_form(file):
    assert read(YAML.encode(), file).pack == read(TOML.encode(), "mine.toml").pack


def test_it_is_known_where_each_rule_begins():
    second = YAML[YAML.index("  - id") :].replace("mine.pay", "mine.other")

    assert read((YAML + second).encode(), "mine.yaml").lines == (8, 24)


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("severity: low", "severity: bad", "11: rule[0].severity: invalid enum value"),
        ("score: 0.5", "score: half", "12: rule[0].score: expected float, got str"),
        ("list: who", "list: whom", "20: rule[0].match.near.words[1]: there is no list whom"),
        ('"25"', "25", "19: rule[0].match.near.words[0].any[1]: expected str | object, got int"),
        ("title: Pays", "titel: Pays", "9: rule[0].titel: there is no such key"),
        ("not: never", "nor: never", "21: rule[0].match.near.words[2].nor: there is no such key"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_key(right, wrong, told):
    assert YAML.count(right) == 1

    assert problems(YAML.replace(right, wrong))[0].startswith(f"mine.yaml:{told}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: [\n", "2: no YAML: "),
        ("name: a\n\tversion: 1\n", "2: no YAML: "),
        ("a: &x [b]\nc: *x\n", "2: no YAML: no aliases"),
        ("name: a\nname: b\n", "2: no YAML: name is there twice"),
        (
            "name: !!python/name:os.system a\n",
            "1: no YAML: no tags such as tag:yaml.org,2002:python/name:os.sy",
        ),
        ("name: a\n---\nname: b\n", "2: no YAML: a second document"),
        ("- name\n", "1: no YAML: a pack is made of keys and values"),
        ("", "1: no YAML: there is nothing in it"),
        ("? [a]\n: b\n", "1: no YAML: a key is a text"),
        (f"{'k' * 65}: b\n", "1: no YAML: a key is a text"),
        ("a\0b: c\n", "1: no YAML: "),
    ],
)
def test_what_is_no_yaml_or_more_than_a_pack_needs_is_refused(text, told):
    assert problems(text)[0].startswith(f"mine.yaml:{told}")


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 500_000,
        "a: " + "{a: " * 100_000,
        "- " * 250_000,
        "a:\n" + "".join(f"{' ' * n}a:\n" for n in range(1, 900)),
        "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'lol'}]\n" for n in range(9)),
    ],
    ids=["lists", "mappings", "dashes", "blocks", "laughs"],
)
def test_nothing_in_a_file_makes_it_large_or_slow(text):
    assert "no YAML: " in problems(text)[0]
