"""Where what was heard in a window lies in the whole audio. Pure: from a cut and times to times."""

from __future__ import annotations

from msgspec.structs import replace

from whisperd.engine.speech import to_source_time
from whisperd.task import Cut, Options, Segment, Word


def placed(segment: Segment, cut: Cut, options: Options) -> Segment:
    """The segment with its times in the whole audio, and its speaker when channels are split."""
    start, end = _span(cut, segment.start, segment.end)
    return replace(
        segment,
        start=start,
        end=end,
        no_speech_prob=round(1.0 - cut.speech, 4),
        avg_logprob=round(segment.avg_logprob, 4),
        speaker=chr(ord("A") + cut.channel) if options.channels == "split" else None,
        words=tuple(_placed_word(word, cut, start, end) for word in segment.words),
    )


def _placed_word(word: Word, cut: Cut, start: float, end: float) -> Word:
    """Inside of its segment: on the border of two pieces it could be taken for the other one's."""
    starts, ends = (min(max(moment, start), end) for moment in _span(cut, word.start, word.end))
    return replace(word, start=starts, end=ends, probability=round(word.probability, 4))


def _span(cut: Cut, start: float, end: float) -> tuple[float, float]:
    """Start and end in the whole audio. What has no length ends there, and so it starts there, too."""
    starts = to_source_time(cut, start, ending=start >= end)
    return round(starts, 3), round(max(starts, to_source_time(cut, end, ending=True)), 3)
