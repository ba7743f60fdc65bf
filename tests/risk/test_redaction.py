import pytest
from msgspec.structs import replace

from tests.risk.heard import heard, report, rule, with_words
from whisperd.risk.redaction import redacted

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


def test_words_that_are_not_in_the_text_are_not_shown_either():
    edited = replace(with_words("other words"), text="card 4111 1111 1111 1111")

    (hidden,) = shown([edited])

    assert (hidden.text, hidden.words) == ("card [CARD]", ())


def test_two_numbers_have_a_word_each():
    (hidden,) = shown([with_words("4111 1111 1111 1111 a@example.com b@example.com")])

    assert [word.word for word in hidden.words] == [" [CARD]", " [EMAIL]", " [EMAIL]"]
