import pytest

from tests.risk.heard import heard, said, stream, with_words
from whisperd.risk.words import normal, streams
from whisperd.task import Segment


@pytest.mark.parametrize(
    ("written", "normalised"),
    [
        ("Hello, WORLD!", "hello world"),
        ("caf\u00e9 \uff21\uff22", "caf\u00e9 ab"),
        ("Stra\u00dfe", "strasse"),
        ("I don\u2019t, can't, won't", "i do not can not will not"),
        ("you're we've they'll I'm", "you are we have they will i am"),
        ("it's the bank's", "it is the banks"),
        ("gonna wanna gotta", "going to want to got to"),
        ("a one-time code", "a 1 time code"),
        ("$1,250.50", "1250 50"),
    ],
)
def test_words_are_normalised(written, normalised):
    assert " ".join(normal(written)) == normalised


@pytest.mark.parametrize(
    ("spoken", "digits"),
    [
        ("four one one one", "4111"),
        ("4 1 1, 1", "4111"),
        ("double three triple oh", "33000"),
        ("oh seven seven double oh nine hundred one two three", "07700 900 123"),
        ("twenty five", "25"),
        ("five hundred and one", "501"),
        ("seven hundred ninety nine dollars", "799 dollars"),
        ("two thousand and twenty four", "2024"),
        ("five million two hundred thousand", "5200000"),
        ("two hundred and five thousand three hundred and one", "205301"),
        ("one thousand two thousand", "1000 2000"),
        ("five thousand one two three", "5000 123"),
        ("2 thousand", "2000"),
        ("nineteen seventy one", "19 71"),
        ("forty one eleven", "41 11"),
        ("a hundred", "a 100"),
    ],
)
def test_spoken_numbers_are_digits(spoken, digits):
    assert " ".join(normal(spoken)) == digits


def test_an_oh_is_a_zero_only_among_digits():
    assert normal("oh no, oh one more") == ["oh", "no", "oh", "1", "more"]


@pytest.mark.parametrize("text", ["", "and", "hundred and", "double", "thousand", "oh", "one hundred and"])
def test_the_rest_of_a_number_is_only_words(text):
    assert isinstance(normal(text), list)


def test_what_is_found_leads_back_to_the_words_as_they_were_written():
    line = stream("Well, it's Four-One one, okay?")

    assert line.text == "well it is 411 okay"
    assert said(line, [line.around(11, 14)]) == ["Four-One one,"]


def test_words_have_the_times_that_the_model_gave_them():
    line = streams([with_words("give me the code")])[0]

    assert (line.begins((2, 4)), line.ends((2, 4))) == (11.0, 12.0)


def test_without_times_of_words_a_word_is_where_its_letters_are():
    line = streams([Segment(start=10.0, end=14.0, text="abcd efg")])[0]

    assert (line.begins((1, 2)), line.ends((1, 2))) == (12.5, 14.0)


def test_words_that_are_not_those_of_an_edited_text_are_not_believed():
    segment = with_words("give me the code")
    edited = Segment(start=segment.start, end=segment.end, text="send me money", words=segment.words)

    assert streams([edited])[0].spoken[0].probability is None


def test_a_stream_goes_over_the_borders_of_segments():
    assert streams(heard("give me the", "code please"))[0].text == "give me the code please"


def test_each_speaker_has_a_stream():
    lines = streams(heard(("B", "hello"), ("A", "good"), ("B", "there"), ("A", "day")))

    assert [(line.speaker, line.text) for line in lines] == [("A", "good day"), ("B", "hello there")]


def test_what_the_voice_detection_heard_no_speech_in_is_left_out():
    assert streams(heard("thank you for watching", no_speech_prob=0.9)) == []


def test_the_third_of_equal_segments_is_a_loop():
    assert streams(heard("so", "so", "so", "so", "what"))[0].text == "so so what"
