"""Times of the window become times of the audio."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from whisperd.engine.placing import placed
from whisperd.task import Cut, Options, Piece, Segment, Word

TICK = 320  # samples in 0.02 s, by which the engines count: so a border is hit now and then


@given(
    lengths=st.lists(st.tuples(st.integers(1, 4), st.integers(50, 99)), min_size=1, max_size=4),
    moments=st.lists(st.integers(0, 16), min_size=4, max_size=8),
)
def test_nothing_ends_before_it_starts_and_words_stay_in_their_segment(lengths, moments):
    """What had no length, on the border of two pieces, ended where the silence between them begins."""
    pieces, at = [], 0
    for length, silence in lengths:
        pieces.append(Piece(at * TICK, (at + length) * TICK))
        at += length + silence
    first, *inner, last = (moment * 0.02 for moment in sorted(moments))
    words = [Word(start=a, end=b, word="x", probability=1.0) for a, b in pairwise([first, *inner, last])]
    segment = Segment(start=first, end=last, text="x", words=tuple(words))
    said = placed(segment, Cut(pieces=tuple(pieces)), Options())
    times = [said.start, *(time for word in said.words for time in (word.start, word.end)), said.end]

    assert times == sorted(times)
