import msgspec
import pytest

from tests.risk.heard import heard, report, rule, with_words
from whisperd.risk import detection
from whisperd.risk.detection import MOST_TOLD, Wanted

CARD = rule('match.pii = "card"\nredact = "CARD"', id="card", severity="high")


def test_a_finding_says_where_it_is():
    segments = heard("good morning", "please give me, the", "code. Thank you")

    (finding,) = report(segments, 'match = "give me the code"').findings

    assert finding.text == "give me, the code"
    text = " ".join(segment.text for segment in segments)
    assert text[finding.char_start : finding.char_end] == "give me, the code"
    assert finding.segment_ids == (1, 2)
    assert 5 < finding.start < 10 < finding.end < 15
    assert finding.context == "good morning please give me, the code. Thank you"


def test_a_finding_has_the_times_of_its_words():
    (finding,) = report([with_words("well give me the code now", start=20.0)], 'match = "give me"').findings

    assert (finding.start, finding.end) == (20.5, 21.5)


def test_a_text_without_times_has_findings_without_them():
    (finding,) = report("give me the code", 'match = "code"', timed=False).findings

    assert (finding.start, finding.end, finding.asr_confidence) == (None, None, None)


def test_a_score_is_lower_where_the_model_was_not_sure():
    (finding,) = report([with_words("the code", probability=0.75)], 'match = "code"').findings

    assert finding.asr_confidence == 0.75
    assert finding.why == {"base": 0.5, "context": [], "asr_penalty": -0.1}
    assert finding.score == 0.4


def test_words_near_it_raise_a_score():
    raised = 'match = "code"\ncontext = { words = ["bank"], boost = 0.3, within_seconds = 12 }'

    near, far = report(heard("code", "x", "bank", "x", "x", "x", "code"), raised).findings

    assert (near.score, near.why["context"]) == (0.8, ["bank@10.0s"])
    assert (far.score, far.why["context"]) == (0.5, [])


def test_words_of_the_other_speaker_raise_it_too():
    raised = 'match = "code"\ncontext = { words = ["bank"], boost = 0.3 }'

    (finding,) = report(heard(("A", "your bank here"), ("B", "the code")), raised).findings

    assert finding.score == 0.8


def test_words_of_the_finding_itself_do_not():
    raised = 'match = "bank code"\ncontext = { words = ["bank"], boost = 0.3 }'

    assert report("the bank code", raised).findings[0].score == 0.5


def test_the_risk_is_over_distinct_rules():
    rules = [rule('match = "cash"', id="a"), rule('match = "code"', id="b", severity="high")]

    told = report("cash code cash code cash", *rules)

    assert told.risk == {"score": 0.75, "level": "high"}
    assert told.summary == {"custom": {"count": 5, "max_score": 0.5, "max_severity": "high"}}


def test_where_nothing_is_found_there_is_no_risk():
    told = report("good morning", 'match = "code"')

    assert (told.risk, told.summary, told.findings) == ({"score": 0.0, "level": None}, {}, ())


def test_of_places_that_overlap_a_rule_finds_one():
    told = report("the gift card number", 'match.any = ["gift card", "gift card number", "card number"]')

    assert [finding.text for finding in told.findings] == ["gift card number"]


@pytest.mark.parametrize(
    ("where", "places"),
    [
        ('speaker = "B"', ["B"]),
        ("channel = 0", ["A", "A"]),
        ("first_seconds = 6", ["A", "B"]),
        ("last_seconds = 5", ["A"]),
        ('speaker = "A"\nwhere.first_seconds = 6', ["A"]),
        ('speaker = "C"', []),
    ],
)
def test_a_rule_may_look_in_a_part_of_the_call(where, places):
    segments = heard(("A", "code"), ("B", "code"), ("A", "hello"), ("A", "code"))

    told = report(segments, f'match = "code"\nwhere.{where}')

    assert [finding.speaker for finding in told.findings] == places


NOTICE = 'match = "is recorded"\nnegate = true\nwhere.speaker = "A"\nwhere.first_seconds = 60'


def test_what_the_agent_did_not_say_in_time_is_missing():
    said = [
        *[("A", "hello")] * 2,
        ("B", "is recorded"),
        *[("A", f"talk {n}") for n in range(12)],
        ("A", "is recorded"),
    ]

    told = report(heard(*said), NOTICE)

    assert [(one.rule_id, one.window) for one in told.missing] == [("it", {"start": 0.0, "end": 60.0})]
    assert told.findings == ()
    assert told.risk == {"score": 0.5, "level": "medium"}


def test_what_was_said_in_time_is_not_missing():
    assert report(heard(("A", "this call is recorded")), NOTICE).missing == ()


@pytest.mark.parametrize(("segments", "timed"), [(heard("hello"), True), (heard(("A", "hello")), False)])
def test_nothing_is_missing_where_a_rule_cannot_look(segments, timed):
    assert report(segments, NOTICE, timed=timed).missing == ()


@pytest.mark.parametrize(
    ("match", "said", "said_next"),
    [
        ('{ near = { words = ["code", { not = "never" }], within_words = 5 } }', "the code", "never"),
        ('{ any = ["code", "code is wrong now"] }', "the code is", "wrong now"),
    ],
)
def test_while_a_call_goes_on_nothing_is_told_that_the_next_words_change(match, said, said_next):
    rest = "and so on " * 20

    assert report(said, f"match = {match}", so_far=True).findings == ()
    certain = report(f"{said} {rest}", f"match = {match}", so_far=True).findings
    changed = report(f"{said} {said_next} {rest}", f"match = {match}", so_far=True).findings
    assert [finding.text for finding in certain] == ["code"]
    assert "code" not in [finding.text for finding in changed]


def test_what_was_said_is_not_missing_however_sure_findings_must_be():
    said = [with_words("this call is recorded", 0.2, start=0.0)]
    sure = Wanted(min_score=0.5)

    assert report(said, 'match = "is recorded"\nnegate = true', wanted=sure).missing == ()
    assert len(report("good morning", 'match = "is recorded"\nnegate = true', wanted=sure).missing) == 1
    assert (
        report("good morning", 'match = "is recorded"\nnegate = true', wanted=Wanted(min_score=0.6)).missing
        == ()
    )


def test_who_says_nothing_all_through_a_call_misses_what_is_to_be_said():
    only_b = heard(("B", "hello, anybody there"))

    assert [one.rule_id for one in report(only_b, NOTICE).missing] == ["it"]
    assert report(heard(("A", "hello")), NOTICE.replace('"A"', '"B"')).missing == ()
    assert report(heard(("agent", "hello")), NOTICE).missing == ()


@pytest.mark.parametrize(
    ("what", "said"), [("negate = true", "good morning"), ("where.last_seconds = 60", "the code")]
)
def test_while_a_call_goes_on_nothing_is_told_that_depends_on_its_end(what, said):
    told = report(f"{said} " + "and so on " * 20, f'match = "code"\n{what}', so_far=True)

    assert (told.findings, told.missing) == ((), ())


def test_only_what_is_wanted_is_found():
    rules = [rule('match = "one"', id="a", severity="low"), rule('match = "one"', id="b", severity="high")]

    def ids(**wanted):
        return [finding.rule_id for finding in report("one", *rules, wanted=Wanted(**wanted)).findings]

    assert ids() == ["a", "b"]
    assert ids(min_severity="medium") == ["b"]
    assert ids(min_score=0.6) == []
    assert ids(categories=frozenset(["fraud"])) == []
    assert ids(packs=frozenset(["mine"])) == ["a", "b"]
    assert ids(packs=frozenset(["theirs"])) == []


def test_findings_come_in_order_of_time():
    segments = heard(("B", "first code"), ("A", "second code"), ("B", "third code"))

    told = report(segments, 'match = "code"')

    assert [(finding.id, finding.speaker) for finding in told.findings] == [
        ("f1", "B"),
        ("f2", "A"),
        ("f3", "B"),
    ]


def test_a_report_says_by_which_packs():
    (pack,) = report("x", 'match = "code"').packs

    assert (pack["name"], pack["version"], len(pack["sha256"])) == ("mine", 1, 64)


def test_the_same_is_found_each_time():
    segments = heard("send the code to my bank, code code", "4111 1111 1111 1111")
    rules = [rule('match.near = { words = ["code", "bank"] }', id="a"), CARD]

    assert report(segments, *rules) == report(segments, *rules)


def test_more_findings_than_anybody_can_be_told_are_an_error():
    rules = [rule('match = "code"', id=f"r{n}") for n in range(25)]

    told = report("code " * 1200, *rules)

    assert len(msgspec.json.encode(told)) < 1.5 * MOST_TOLD
    assert told.rules_errors == (
        f"there are 25000 findings: no more than the first {len(told.findings)} are told",
    )


@pytest.mark.parametrize(("way", "shown"), [("tag", "[CARD]"), ("mask", "****")])
def test_findings_do_not_say_what_is_to_be_hidden(way, shown):
    rules = [CARD, "match.regex = '(my )?card is [0-9]+'"]

    told = report("so my card is 4111 1111 1111 1111, yes", *rules, wanted=Wanted(redact=way))

    assert sorted(finding.text for finding in told.findings) == sorted([shown, f"my card is {shown}"])
    assert {finding.context for finding in told.findings} == {f"so my card is {shown} yes"}


def test_what_is_to_be_redacted_has_a_bound_and_says_so(monkeypatch):
    monkeypatch.setattr(detection, "MOST_OUT", 5)
    rule = 'match = "red green blue"\nredact = "X"'

    assert report("red green blue", rule).rules_errors == ()
    errors = report("red green blue, red green blue", rule, wanted=Wanted(redact="tag")).rules_errors
    assert errors == ("there are more than 5 words to be redacted",)
