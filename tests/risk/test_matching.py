import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from tests.risk.heard import HEAD, found, heard, report, rule, stream
from whisperd.risk.detection import detect
from whisperd.risk.matching import Budget, Search, TooMuch, finder
from whisperd.risk.reading import read
from whisperd.risk.rulebook import Rulebook


@pytest.mark.parametrize(
    ("match", "text", "expected"),
    [
        ('"give me"', "give me, and GIVE ME", ["give me", "GIVE ME"]),
        ('"transfer* now"', "transferred now", ["transferred now"]),
        ('"send * money"', "send money, send me the money", ["send money", "send me the money"]),
        ('"send * money"', "send some very bad old news money", []),
        ('"one time code"', "a one-time code", ["one-time code"]),
        ('"twenty five dollars"', "twenty five dollars, 25 dollars", ["twenty five dollars", "25 dollars"]),
        ('"five hundred and one"', "it is 501", ["501"]),
        ('"do not pay"', "I don't pay", ["don't pay"]),
        ('{ any = ["yes", "no way"] }', "no way, yes", ["no way", "yes"]),
        ('{ all = ["gift card", "code"] }', "the code " + "and " * 20 + "a gift card", 1),
        ('{ all = ["gift card", "code"] }', "the code " + "and " * 60 + "a gift card", []),
        ('{ near = { words = ["bank", "call"], within_words = 4 } }', "call the bank", ["call the bank"]),
        ('{ near = { words = ["bank", "call"], within_words = 3 } }', "call to the bank", []),
        ('{ near = { words = ["card", "card number"], within_words = 9 } }', "my card number", []),
        ('{ near = { words = ["code", { not = "never" }], within_words = 5 } }', "never share a code", []),
        ('{ near = { words = ["code", { not = "never" }], within_words = 5 } }', "share a code", ["code"]),
        (
            '{ sequence = { words = ["first", "then"], within_words = 5 } }',
            "first this then",
            ["first this then"],
        ),
        ('{ sequence = { words = ["first", "then"], within_words = 5 } }', "then this first", []),
        ('{ regex = "pin \\\\d{4}" }', "my PIN: one two three four.", ["PIN: one two three four"]),
        ('{ pii = "email" }', "to a@example.com", ["a@example.com"]),
        ('{ count = { of = "please", min = 3 } }', "please please please", ["please"]),
        ('{ count = { of = "please", min = 3 } }', "please, please", []),
        ('{ count = { of = "no", min = 2, within_words = 3 } }', "no a b c no d no", ["no d no"]),
    ],
)
def test_each_operator_finds_its_places(match, text, expected):
    places = found(text, f"match = {match}")

    assert (len(places) if isinstance(expected, int) else places) == expected


def test_a_rule_may_be_made_of_another():
    two = rule('match = { near = { words = [{ rule = "money" }, "now"] } }', id="urgent")

    assert found("send the cash now", rule('match = "cash"', id="money"), two) == ["cash", "cash now"]


def test_rules_of_a_pack_share_lists():
    pack = HEAD + 'lists.who = ["my sister", "you"]\n'
    pack += rule('match = { near = { words = ["hurt", { list = "who" }], within_words = 4 } }')
    pack += rule('match.list = "who"', id="who")
    rulebook = Rulebook([read(pack.encode(), "mine.toml")])

    told = detect(heard("I hurt my sister, not you"), rulebook)

    assert [finding.text for finding in told.findings] == ["hurt my sister", "my sister", "you"]


def test_a_list_is_of_its_pack_alone():
    packs = [
        HEAD + 'lists.who = ["you"]\n' + rule('match.list = "who"'),
        HEAD.replace("mine", "other", 1) + 'lists.who = ["me"]\n' + rule('match.list = "who"', id="other"),
    ]
    rulebook = Rulebook([read(pack.encode(), "a.toml") for pack in packs])

    told = detect(heard("you and me"), rulebook)

    assert [(finding.rule_id, finding.text) for finding in told.findings] == [("it", "you"), ("other", "me")]


def test_a_long_word_may_be_misspelt_where_the_rule_says_so():
    assert found("install teemviewer", 'match = "teamviewer"\nfuzzy = true') == ["teemviewer"]
    assert found("install teemviewer", 'match = "teamviewer"') == []


def test_a_short_word_is_never_taken_for_another():
    assert found("a bong in the hall", 'match = "bomb"\nfuzzy = true') == []


def test_a_phrase_goes_over_the_borders_of_segments():
    told = report(heard("now give me the", "code please"), 'match = "the code"')

    assert [(finding.text, finding.segment_ids) for finding in told.findings] == [("the code", (0, 1))]


def test_rules_that_cost_too_much_are_stopped_and_say_so():
    rules = [rule(f'match = "{"a " * n}b"', id=f"r{n}") for n in range(1, 200)]
    text = "a b " * 5000

    told = report(text, *rules)

    assert len(told.rules_errors) == 1
    assert "more than they may" in told.rules_errors[0]
    assert told.findings != ()  # those that were found before


@pytest.mark.parametrize("of", ['"a"', '{any = ["a", "b"]}'])
def test_what_is_counted_again_and_again_costs_too_much(of):
    rules = [
        rule(f"match.count = {{of = {of}, min = {n}, within_words = {n}}}", id=f"r{n}") for n in range(2, 802)
    ]

    told = report("a b " * 8000, *rules)

    assert "more than they may" in told.rules_errors[0]


def test_a_search_ends_when_its_budget_does():
    search = Search(stream("a b c"), {}, Budget(3))

    finder("b")(search)
    with pytest.raises(TooMuch):
        finder("c")(search)


@given(word=st.text("abc", min_size=5, max_size=11), said=st.lists(st.text("abc", min_size=1, max_size=12)))
def test_a_word_is_misspelt_where_its_letters_are_that_near_and_nowhere_else(word, said):
    edits = len(word) // 5
    near = {other for other in said if len(other) >= 5 and Levenshtein.distance(word, other) <= edits}

    assert set(found(" ".join(said), f'match = "{word}"\nfuzzy = true')) == near | ({word} & {*said})
