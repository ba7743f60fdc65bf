import pytest
from msgspec.structs import replace

from tests.risk.heard import heard, report, rule, with_words
from whisperd.risk.detection import Wanted
from whisperd.risk.redaction import MARGIN, redacted, silent
from whisperd.risk.report import document, unquoted
from whisperd.task import SAMPLE_RATE

CARD = rule('match.pii = "card"\nredact = "CARD"', id="card")
EMAIL = rule('match.pii = "email"\nredact = "EMAIL"', id="email")


def shown(segments, way="tag"):
    return redacted(segments, report(segments, CARD, EMAIL).places, way)


@pytest.mark.parametrize(
    ("way", "text"),
    [
        ("tag", "it's [CARD], or mail [EMAIL]."),
        ("mask", "it's ****, or mail ****."),
        ("none", "it's 4111 1111 1111 1111, or mail a@example.com."),
    ],
)
def test_what_rules_want_out_is_out(way, text):
    (segment,) = shown(heard("it's 4111 1111 1111 1111, or mail a@example.com."), way)

    assert segment.text == text


def test_a_number_that_goes_over_segments_is_out_of_both():
    segments = shown(heard("my card is 4111 1111", "1111 1111 thank you"))

    assert [segment.text for segment in segments] == ["my card is [CARD]", "[CARD] thank you"]


def test_times_stay_as_they_are():
    segment = with_words("my card is 4111 1111 1111 1111 okay", start=10.0)

    (hidden,) = shown([segment])

    assert (hidden.start, hidden.end) == (segment.start, segment.end)
    assert [(word.word, word.start, word.end) for word in hidden.words[2:]] == [
        (" is", 11.0, 11.5),
        (" [CARD]", 11.5, 13.5),
        (" okay", 13.5, 14.0),
    ]


def test_the_tokens_of_a_changed_segment_are_gone():
    (hidden,) = shown([with_words("4111 1111 1111 1111")])

    assert hidden.tokens == ()
    assert [word.word for word in hidden.words] == [" [CARD]"]


def test_what_need_not_be_hidden_is_left_as_it_is():
    segments = [with_words("good morning")]

    assert shown(segments) == segments


def test_places_that_overlap_are_hidden_once():
    both = [rule('match = "pin"', id="a"), rule('match = "my pin is"\nredact = "ALL"', id="b")]
    segments = heard("so my pin is 1234")
    rules = [both[1], rule('match.regex = "pin is \\\\d+"\nredact = "PIN"', id="c")]

    (hidden,) = redacted(segments, report(segments, *rules).places, "tag")

    assert hidden.text == "so [ALL]"


@pytest.mark.parametrize(
    "asked", [{"min_severity": "critical"}, {"min_score": 0.9}, {"categories": frozenset(["fraud"])}]
)
def test_who_asks_for_few_findings_has_all_redacted(asked):
    segments = heard("it's 4111 1111 1111 1111, or mail a@example.com.")

    told = report(segments, CARD, EMAIL, wanted=Wanted(redact="tag", **asked))

    assert told.findings == ()
    assert redacted(segments, told.places, "tag")[0].text == "it's [CARD], or mail [EMAIL]."


BIRTH = rule(
    """redact = "BIRTH"
match.near.within_words = 16
match.near.words = [
  { any = ["born on", "date of birth"] },
  { any = ["march", "april"] },
  { regex = '19\\d\\d' },
]""",
    id="birth",
)


def test_of_places_that_overlap_all_are_out_though_one_is_a_finding():
    segments = heard("I was born on March 3rd, 1980 and my wife's date of birth is April 4th, 1990. Yes.")

    told = report(segments, BIRTH, wanted=Wanted(redact="tag"))

    assert redacted(segments, told.places, "tag")[0].text == "I was [BIRTH]. Yes."
    assert [finding.text for finding in told.findings] == ["[BIRTH]"]
    assert told.findings[0].context == "I was [BIRTH] Yes."


def test_half_a_number_is_not_quoted_where_the_other_half_hardly_sounds_like_speech():
    doubted = replace(heard("1111 1111")[0], no_speech_prob=0.9)
    segments = [*heard("my card is 4111 1111"), doubted]

    told = report(segments, CARD, 'match = "my card"', wanted=Wanted(redact="tag"))

    assert [finding.context for finding in told.findings] == ["my card is [CARD]"]


def test_words_that_are_not_in_the_text_are_not_shown_either():
    edited = replace(with_words("other words"), text="card 4111 1111 1111 1111")

    (hidden,) = shown([edited])

    assert (hidden.text, hidden.words) == ("card [CARD]", ())


def test_two_numbers_have_a_word_each():
    (hidden,) = shown([with_words("4111 1111 1111 1111 a@example.com b@example.com")])

    assert [word.word for word in hidden.words] == [" [CARD]", " [EMAIL]", " [EMAIL]"]


def test_what_of_a_word_is_not_in_the_finding_stays():
    (hidden,) = shown([with_words("it's 4111 1111 1111 1111, okay?")])

    assert hidden.text == "it's [CARD], okay?"
    assert [word.word for word in hidden.words] == [" it's", " [CARD],", " okay?"]


def test_what_is_said_over_and_over_is_out_each_time():
    loop = ["my card is 4111 1111 1111 1111"] * 5
    segments = shown(heard(*loop))

    assert [segment.text for segment in segments] == ["my card is [CARD]"] * 5


def test_what_hardly_sounds_like_speech_is_redacted_though_it_is_no_finding():
    segments = heard("my card is 4111 1111 1111 1111", no_speech_prob=0.9)
    found = report(segments, CARD)

    assert (found.findings, found.risk["level"]) == ((), None)
    assert redacted(segments, found.places, "tag")[0].text == "my card is [CARD]"


def test_more_places_than_are_told_are_an_error_since_some_are_not_redacted():
    found = report(heard("a@example.com " * 1200), EMAIL)

    assert [error.split(":")[0] for error in found.rules_errors] == ["email"]


DIGIT = '{ regex = "[0-9]" }'


@pytest.mark.parametrize(
    "match",
    [
        DIGIT,
        f'{{ any = ["never", {DIGIT}] }}',
        f'{{ near = {{ words = ["card", {DIGIT}], within_words = 5 }} }}',
        f"{{ count = {{ of = {DIGIT}, min = 2, within_words = 9 }} }}",
        '{ rule = "digit" }',
    ],
)
def test_a_regex_that_is_met_too_often_is_an_error_of_each_rule_that_has_it(match):
    rules = [rule(f"match = {DIGIT}", id="digit"), rule(f'match = {match}\nredact = "NUMBER"')]

    few = report("card 4111111111111111 " * 62, *rules)
    many = report("card 4111111111111111 " * 70, *rules)

    assert few.rules_errors == ()
    assert [error.split(":")[0] for error in many.rules_errors] == ["it"]


@pytest.mark.parametrize("way", ["tag", "mask"])
def test_where_not_all_is_redacted_nothing_is_shown(way):
    segments = heard("my card is 4111 1111 1111 1111 " + "a@example.com " * 1001)
    found = report(segments, CARD, EMAIL, wanted=Wanted(redact=way))
    told = document(found, segments, way)

    assert len(told.rules_errors) == 1
    assert told.redacted_text is None
    assert {(finding.text, finding.context) for finding in told.findings} == {("****", "")}


def test_where_not_all_is_known_to_be_redacted_nothing_is_quoted_to_who_may_not_read_it():
    segments = heard("hello there", "a@example.com " * 1001)
    told = document(report(segments, EMAIL, 'match = "hello there"'), segments, "none")

    assert told.findings[0].text == "hello there"
    assert {(finding.text, finding.context) for finding in unquoted(told).findings} == {("****", "")}


# --- what is muted ---


def muted(segments):
    return [
        (piece.start / SAMPLE_RATE, piece.end / SAMPLE_RATE)
        for piece in silent(segments, report(segments, CARD, EMAIL).places)
    ]


def test_whole_words_are_muted_with_a_margin():
    segment = with_words("my card is (4111 1111 1111 1111), okay", start=10.0)

    assert muted([segment]) == [(11.5 - MARGIN, 13.5 + MARGIN)]


def test_where_words_have_no_times_the_whole_segment_is_muted():
    assert muted(heard("good morning", "my card is 4111 1111 1111 1111")) == [(5 - MARGIN, 10 + MARGIN)]


def test_words_that_are_not_those_of_the_text_tell_no_times():
    edited = replace(with_words("other words", start=10.0), text="card 4111 1111 1111 1111")

    assert muted([edited]) == [(10 - MARGIN, 11 + MARGIN)]


def test_what_is_nearly_one_stretch_is_muted_as_one():
    segments = [
        with_words("my card is 4111 1111", start=0.0),
        with_words("1111 1111 thank you", start=2.6),
        with_words("a@example.com", start=9.0),
    ]

    assert muted(segments) == [(1.5 - MARGIN, 3.6 + MARGIN), (9 - MARGIN, 9.5 + MARGIN)]


def test_nothing_before_the_start_is_muted():
    assert muted([with_words("4111 1111 1111 1111", start=0.0)])[0][0] == 0
