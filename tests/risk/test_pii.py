import pytest

from tests.risk.heard import said, stream
from whisperd.risk import pii

SPELT = "four five three nine one four eight eight oh three four three six four six seven,"


def found(kind, text):
    line = stream(text)
    return said(line, pii.spans(kind, line))


@pytest.mark.parametrize(
    ("kind", "text", "place"),
    [
        ("card", "it is 4111 1111 1111 1111, yes", "4111 1111 1111 1111,"),
        ("card", "so 5105-1051-0510-5100 then", "5105-1051-0510-5100"),
        ("card", "four two four two " * 4, "four two four two " * 4),
        ("card", "forty one eleven eleven eleven eleven eleven eleven eleven", "forty one " + "eleven " * 7),
        ("card", "I have 2 cards, 3782 822463 10005", "3782 822463 10005"),
        ("card", "2223 0031 2200 3222", "2223 0031 2200 3222"),
        ("card", f"{SPELT} oh one two six, one two three", f"{SPELT} oh one two six, one two three"),
        ("card", "4539 1488 0343 6 4 6 7 0 1 2 6 then", "4539 1488 0343 6 4 6 7 0 1 2 6"),
        ("card", "press 9 4 5 3 9 1 4 8 8 0 3 4 3 6 4 6 7", "9 4 5 3 9 1 4 8 8 0 3 4 3 6 4 6 7"),
        ("iban", "pay GB29 NWBK 6016 1331 9268 19 please", "GB29 NWBK 6016 1331 9268 19"),
        ("iban", "DE89370400440532013000", "DE89370400440532013000"),
        ("email", "mail jane.doe+x@example.co.uk.", "jane.doe+x@example.co.uk."),
        ("email", "it's mark dot evans at gmail dot com", "mark dot evans at gmail dot com"),
        ("email", "info at bright side dot co dot uk please", "info at bright side dot co dot uk"),
        ("email", "office at green-hill.org", "office at green-hill.org"),
        ("phone", "call 020 7946 0958 now", "020 7946 0958"),
        ("phone", "on +44 20 7946 0958", "+44 20 7946 0958"),
        (
            "phone",
            "it's plus four four two oh seven nine four six oh nine five eight",
            "plus four four two oh seven nine four six oh nine five eight",
        ),
        ("phone", "it's (415) 555-0132", "(415) 555-0132"),
        ("phone", "ring 07700 900456 2 times", "07700 900456"),
        ("ssn", "it is 219-09-9999", "219-09-9999"),
        (
            "ssn",
            "my social is two one nine oh nine nine nine nine nine",
            "two one nine oh nine nine nine nine nine",
        ),
        ("ip", "from 203.0.113.42, I think", "203.0.113.42,"),
        ("ip", "at 2001:db8::1", "2001:db8::1"),
        (
            "ip",
            "one ninety two dot one sixty eight dot one dot one",
            "one ninety two dot one sixty eight dot one dot one",
        ),
    ],
)
def test_what_names_a_person_is_found_spoken_and_written(kind, text, place):
    assert found(kind, text) == [" ".join(place.split())]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("card", "4111 1111 1111 1112"),  # the check digit is wrong
        ("card", "the order 4829 1746 2231 9083"),
        ("card", "4111 1111 1111"),
        ("card", "1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2"),
        ("card", "45391488034364670126123"),  # written as one number, it is one
        ("card", "2123 0031 2200 3220"),  # of no bank
        ("iban", "GB29 NWBK 6016 1331 9268 18"),
        ("iban", "everyone is better off without me"),
        ("email", "I saw it on ebay dot com"),
        ("email", "look at example.com"),
        ("phone", "we sold 350 in 2023"),
        ("phone", "the part 8812 0045 7719 2203"),
        ("ssn", "000-12-3456 and 666-12-3456"),
        ("ssn", "invoice 219099999"),
        ("ip", "version 2.4.1 at 10:30"),
        ("ip", "256.1.1.1"),
    ],
)
def test_what_looks_like_it_is_not(kind, text):
    assert found(kind, text) == []


ONE_WRONG = "4539 1488 0343 6468"  # its last digit
BY_DIGITS = "45391488034364680126123"  # with date and code


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"my card number is {ONE_WRONG}", ONE_WRONG),
        (f"card number {ONE_WRONG} thank you", ONE_WRONG),
        (f"can I take your card number please? Yes, it's {ONE_WRONG}", ONE_WRONG),
        (f"it's a Visa, the number on the card is {ONE_WRONG}", ONE_WRONG),
        (f"the long number is, uh, {ONE_WRONG}", ONE_WRONG),
        ("the card is 4539 1488 0343", "4539 1488 0343"),  # a group was lost
        ("the card is 4539 1488 1488 0343 646", "4539 1488 1488 0343 646"),  # one was doubled
        ("my card number is 1539 1488 0343 6467", "1539 1488 0343 6467"),  # no card begins so
        (f"the card is {ONE_WRONG} 08 27 123", f"{ONE_WRONG} 08"),  # 19 digits at most
        (f"the card is {' '.join(BY_DIGITS)}, thank you", f"{' '.join(BY_DIGITS)},"),  # or one word
    ],
)
def test_a_number_that_is_announced_as_a_cards_is_found_though_a_digit_is_wrong(text, place):
    assert found("misheard_card", text) == [place]


@pytest.mark.parametrize(
    "text",
    [
        "my card number is 4539 1488 0343 6467",  # it is one
        "my card number is 4539 1488 0343 6467 12",  # and has something behind it
        f"the order number is {ONE_WRONG}",
        f"the tracking number of my card is on the way, {ONE_WRONG}",
        f"I paid by card for order {ONE_WRONG}",
        f"card payments go to reference {ONE_WRONG}",
        f"my gift card number is {ONE_WRONG}",
        f"the SIM card is {ONE_WRONG}",
        f"your membership card number is {ONE_WRONG}",
        "the number on the card is +44 20 7946 0958",  # whom to call
        "my card number is 4539 1488",
        "my card is in the drawer since 2019",
        ONE_WRONG,
    ],
)
def test_what_is_a_card_or_not_announced_as_one_is_no_misheard_card(text):
    assert found("misheard_card", text) == []


def test_a_card_between_other_numbers_is_found():
    assert found("card", "order 12 card 4111111111111111 99") == ["4111111111111111"]


@pytest.mark.parametrize(
    "text", ["1 " * 5000, "20 19 " * 3000, "4" * 10_000, "a@" * 3000, "d e " * 3000, "x dot " * 3000]
)
@pytest.mark.parametrize("kind", pii.KINDS)
def test_nothing_in_a_text_makes_it_slow_or_fail(kind, text):
    assert len(found(kind, text)) <= 6000


def test_the_check_digit_holds_each_digit():
    assert pii.luhn("4111111111111111")
    assert not any(pii.luhn(f"411111111111111{digit}") for digit in "023456789")
