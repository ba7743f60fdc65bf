"""Numbers and addresses that name a person or reach his money: what is spoken or written, checked.

A card has its check digit (Luhn), an IBAN its length and remainder (ISO 7064, mod 97-10), a phone number is
one that libphonenumber takes for valid, in the United States and the United Kingdom where no country is said.
A US social security number has no check: it is written 3-2-4, or its name is said near it. A card's number in
which a model has lost, doubled or misheard a digit has none either: it is announced as one.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from operator import attrgetter

from whisperd.risk.words import Span, Stream, Token

REGIONS = ("US", "GB")  # whose numbers are known without their country
NAME_WITHIN = 12  # words between a social security number and its name

_CARD_DIGITS = range(13, 20)
_BEGINS_CARD = re.compile(r"[3456]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720")  # ISO 7812, of banks
# With the length that a card of this network has: American Express, Diners Club, and those of 16 digits.
_ISSUED = re.compile(
    r"3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|(?:35|4\d|5[1-5]|6[0245])\d{14}"
    r"|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
)
_LENGTHS = (14, 15, 16)
_MOST_IN_BREATH = 40  # digits: a card, its date and code, and something before
_MISHEARD_DIGITS = range(12, 20)  # models lose digits, and double them
_BEFORE_A_CARD = 12  # words that may announce it
_ANNOUNCES = re.compile(
    r"(?:\b(\w+) )?\b"
    r"(?:card(?: number)?|visa(?: number)?|mastercard(?: number)?|amex(?: number)?|long number"
    r"|(?:long number|number|digits) on (?:the |my |its )?(?:front|card)(?: of (?:it|the card|my card))?)"
    r"(?: (?:is|it|that|was|are|yes|yeah|sure|of|course|okay|ok|so|well|please|uh|um|being)){0,5}$"
)
_NO_PAYMENT_CARDS = frozenset(
    (
        *(
            "gift",
            "sim",
            "library",
            "loyalty",
            "membership",
            "member",
            "id",
            "identity",
            "insurance",
            "health",
        ),
        *(
            "medicare",
            "medical",
            "business",
            "graphics",
            "memory",
            "sd",
            "report",
            "boarding",
            "travel",
            "bus",
        ),
        *("rewards", "reward", "points", "club", "green", "key", "access", "phone", "calling", "donor"),
    )
)
_PHONE_DIGITS = range(9, 16)
_FOR_FILMS = re.compile(r"(?:0|44)7700900\d{3}")  # set aside by Ofcom, so valid to no one: what demos say
_FILLERS = 2  # digits at most, of a number beside a phone number: "two times"
# Lengths as the registry of ISO 13616 has them.
_IBAN_COUNTRIES = {
    15: "no",
    16: "be",
    18: "dk fi fo gl nl",
    19: "mk si",
    20: "at ba ee kz lt lu xk",
    21: "ch hr li lv",
    22: "bg bh de gb ge ie me rs",
    23: "ae gi il",
    24: "ad cz es md pk ro sa se sk tn vg",
    25: "pt",
    26: "is tr",
    27: "fr gr it mc sm",
    28: "al az cy do gt hu lb pl",
    29: "br ps qa ua",
    30: "jo kw mu",
    31: "mt",
}
_IBAN_LENGTHS = {code: length for length, codes in _IBAN_COUNTRIES.items() for code in codes.split()}
_WRITTEN_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_TLD = "com|net|org|edu|gov|io|co|info|biz|me|us|uk|ca|au|de|fr|eu"
_SPOKEN_EMAIL = re.compile(
    r"\b\w+(?: (?:dot|underscore|dash|hyphen) \w+){0,4} at \w+(?: (?:dash |hyphen |dot )?\w+){0,2}?"
    rf" dot (?:{_TLD})\b(?: dot (?:{_TLD})\b)?"
)
_HALF_WRITTEN_EMAIL = re.compile(rf"[\w-]{{1,63}}(?:\.[\w-]{{1,63}}){{0,4}}\.(?:{_TLD})")  # behind "at"
# Before "at", where a place follows and no address.
_NO_NAMES = frozenset(
    (
        "look",
        "is",
        "are",
        "was",
        "were",
        "me",
        "us",
        "it",
        "him",
        "her",
        "them",
        "you",
        "be",
        "buy",
        "bought",
        "shop",
        "order",
        "ordered",
        "found",
        "available",
        "works",
        "live",
        "online",
        "site",
        "website",
        "page",
        "up",
        "again",
        "here",
        "there",
        "sale",
        "job",
        "work",
        "and",
        "start",
        "out",
        "anything",
        "stuff",
        "things",
        "one",
    )
)
_SPOKEN_IP = re.compile(r"\b\d{1,3}(?: \d{1,2})?(?: dot \d{1,3}(?: \d{1,2})?){3}\b")
_SSN_NAMES = frozenset(("social", "ssn", "socials"))


def spans(kind: str, stream: Stream) -> list[Span]:
    """Where such a thing is said, in order. Raises KeyError for a kind that is not in KINDS."""
    return sorted(set(KINDS[kind](stream)))


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before (ISO 7812)."""
    doubled = "0246813579"  # the digit sum of twice the digit
    odd, even = digits[::-2], digits[-2::-2]
    return (sum(map(int, odd)) + sum(int(doubled[int(digit)]) for digit in even)) % 10 == 0


def iban(text: str) -> bool:
    """Lower case, without spaces."""
    if _IBAN_LENGTHS.get(text[:2]) != len(text) or not (
        text.isascii() and text.isalnum() and text[2:4].isdigit()
    ):
        return False
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def ssn(digits: str) -> bool:
    """Nine digits that the United States could have given out."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _digits(stream: Stream, span: Span) -> str:
    return "".join(token.text for token in stream.tokens[span[0] : span[1]])


def _cards(stream: Stream) -> Iterator[Span]:
    for first, past in stream.numbers:
        yield from _cards_within(stream, first, past)


def _cards_within(stream: Stream, begin: int, past: int) -> Iterator[Span]:
    while begin < past:
        span = _card_from(stream, begin, past) or _card_in_breath(stream, begin, past)
        if span:
            yield span
        begin = span[1] if span else begin + 1


def _card_from(stream: Stream, begin: int, past: int) -> Span | None:
    """The longest that begins here."""
    for end in range(min(past, begin + _CARD_DIGITS.stop), begin, -1):
        digits = _digits(stream, (begin, end))
        if len(digits) in _CARD_DIGITS and _BEGINS_CARD.match(digits) and luhn(digits):
            return begin, end
    return None


def _card_in_breath(stream: Stream, begin: int, past: int) -> Span | None:
    """One said digit by digit, and its date or code right behind it, or a number before it: all of that."""
    digits, first = "", stream.tokens[begin]
    for end in range(begin, past):
        token, before = stream.tokens[end], len(digits)
        digits += token.text
        if len(digits) > _MOST_IN_BREATH:
            return None
        ends_inside = _is_spelt(token) and any(_is_card(digits[:n]) for n in _LENGTHS if before < n)
        begins_inside = _is_spelt(first) and any(
            _is_card(digits[-n:]) for n in _LENGTHS if n > len(digits) - len(first.text)
        )
        if ends_inside or begins_inside:
            return begin, end + 1
    return None


def _is_spelt(token: Token) -> bool:
    """Whether its digits were said one by one, so that more than one number may be in it."""
    return 1 < token.past - token.first <= len(token.text)


def _is_card(digits: str) -> bool:
    return _ISSUED.fullmatch(digits) is not None and luhn(digits)


def _misheard_cards(stream: Stream) -> Iterator[Span]:
    for first, past in stream.numbers:
        # The first is the cheaper: few numbers are announced so.
        if not _is_announced(stream, first) or any(_cards_within(stream, first, past)):
            continue
        if span := _misheard_card_from(stream, first, past):
            yield span


def _misheard_card_from(stream: Stream, first: int, past: int) -> Span | None:
    """The longest that begins here, unless it is the phone number of some country.

    Read out digit by digit, a number is one word with the date and code behind it: then all of it is.
    """
    if len(stream.tokens[first].text) >= _MISHEARD_DIGITS.stop:
        return first, first + 1
    for end in range(min(past, first + _MISHEARD_DIGITS.stop), first, -1):
        digits = _digits(stream, (first, end))
        if len(digits) in _MISHEARD_DIGITS:
            return None if _is_phone(digits, has_country=True) else (first, end)
    return None


def _is_announced(stream: Stream, first: int) -> bool:
    """Whether the words before say that a payment card's number comes."""
    before = " ".join(stream.words[max(0, first - _BEFORE_A_CARD) : first])
    found = _ANNOUNCES.search(before)
    return found is not None and found[1] not in _NO_PAYMENT_CARDS


def _ibans(stream: Stream) -> Iterator[Span]:
    for begin, token in enumerate(stream.tokens):
        text = token.text
        if len(text) == 1 or (text[:2] in _IBAN_LENGTHS and (len(text) == 2 or text[2].isdigit())):
            span = _iban_from(stream, begin)
            if span:
                yield span


def _iban_from(stream: Stream, begin: int) -> Span | None:
    text = ""
    for end in range(begin, min(len(stream.tokens), begin + max(_IBAN_LENGTHS.values()))):
        text += stream.tokens[end].text
        length = _IBAN_LENGTHS.get(text[:2])
        if (length is None and len(text) > 1) or (length and len(text) > length):
            return None
        if len(text) > 2 and not text[2:4].isdigit():  # "be" and "it" are countries, too
            return None
        if iban(text):
            return begin, end + 1
    return None


def _phones(stream: Stream) -> Iterator[Span]:
    for first, past in stream.numbers:
        has_plus = first > 0 and stream.tokens[first - 1].text == "plus"
        has_plus_sign = stream.spoken[stream.tokens[first].first].text.lstrip("(").startswith("+")
        for span in _trimmed(stream, first, past):
            if _is_phone(_digits(stream, span), has_plus or has_plus_sign):
                yield span[0] - (has_plus and span[0] == first), span[1]
                break


def _trimmed(stream: Stream, first: int, past: int) -> Iterator[Span]:
    """The stretch, and without a short number at an end; none that is too long to be one."""
    yield first, past
    if past - first > 1 and len(stream.tokens[past - 1].text) <= _FILLERS:
        yield first, past - 1
    if past - first > 1 and len(stream.tokens[first].text) <= _FILLERS:
        yield first + 1, past


def _is_phone(digits: str, has_country: bool) -> bool:
    if len(digits) not in _PHONE_DIGITS:
        return False
    if _FOR_FILMS.fullmatch(digits):
        return True
    import phonenumbers

    for region in (None,) if has_country else REGIONS:
        try:
            number = phonenumbers.parse(f"+{digits}" if has_country else digits, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            return True
    return False


def _ssns(stream: Stream) -> Iterator[Span]:
    for first, past in stream.numbers:
        digits = _digits(stream, (first, past))
        if len(digits) != 9 or not ssn(digits):
            continue
        shape = [len(token.text) for token in stream.tokens[first:past]]
        near = stream.tokens[max(0, first - NAME_WITHIN) : past + NAME_WITHIN]
        if shape == [3, 2, 4] or any(token.text in _SSN_NAMES for token in near):
            yield first, past


def _emails(stream: Stream) -> Iterator[Span]:
    yield from _written(stream, lambda word: _WRITTEN_EMAIL.search(word) is not None)
    for found in _SPOKEN_EMAIL.finditer(stream.text):
        if found.group().split(" ", 1)[0] not in _NO_NAMES:
            yield stream.around(*found.span())
    for at in stream.places.get("at", ()):
        if span := _half_written(stream, at):
            yield span


def _half_written(stream: Stream, at: int) -> Span | None:
    """ "accounts at northfield.co.uk": said, and written down by half."""
    if not 0 < at < len(stream.tokens) - 1 or stream.tokens[at - 1].text in _NO_NAMES:
        return None
    word = stream.tokens[at + 1].first
    if not _HALF_WRITTEN_EMAIL.fullmatch(stream.spoken[word].text.rstrip(".,;:!?").lower()):
        return None
    past = at + 1
    while past < len(stream.tokens) and stream.tokens[past].first == word:
        past += 1
    return at - 1, past


def _ips(stream: Stream) -> Iterator[Span]:
    yield from _written(stream, _is_ip)
    for found in _SPOKEN_IP.finditer(stream.text):
        if _is_ip(found.group().replace(" dot ", ".").replace(" ", "")):
            yield stream.around(*found.span())


def _is_ip(word: str) -> bool:
    plain = word.strip(".,;:!?()[]")
    if plain.count(".") != 3 and plain.count(":") < 2:
        return False
    try:
        ip_address(plain)
    except ValueError:
        return False
    return True


def _written(stream: Stream, is_one: Callable[[str], bool]) -> Iterator[Span]:
    """Tokens of the words that are one as they are written."""
    for number in stream.signed:
        if is_one(stream.spoken[number].text):
            begin = bisect_left(stream.tokens, number, key=attrgetter("first"))
            past = bisect_right(stream.tokens, number, key=attrgetter("first"))
            if begin < past:
                yield begin, past


KINDS: dict[str, Callable[[Stream], Iterator[Span]]] = {
    "card": _cards,
    "misheard_card": _misheard_cards,
    "iban": _ibans,
    "email": _emails,
    "phone": _phones,
    "ssn": _ssns,
    "ip": _ips,
}
