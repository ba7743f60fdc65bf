"""Which language is spoken: a vote of several windows, spread over the file.

One window can be music, a quotation or a guest; so up to MOST are asked, from the middle of the file
outwards, and each answers with a probability for every language. What counts is the mean. Pure of everything
but NumPy: who knows the languages is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from whisperd.task import Cut

MOST = 5  # windows asked; each costs a run of the encoder, as a chunk does
FEWEST = 2  # of them, where there are so many
SURE = 0.9  # the mean probability at which no more are asked

Array = NDArray[np.float32]


def vote(cuts: Sequence[Cut], ask: Callable[[Cut], Array]) -> tuple[int, float]:
    """The language that wins, as its place in the answers of `ask`, and its mean probability, 0 to 1.

    Of one cut at least. The same cuts and answers elect the same language; of equals the first.
    """
    answers: list[Array] = []
    for cut in voters(cuts):
        answers.append(ask(cut))
        if len(answers) >= FEWEST and _winner(answers)[1] >= SURE:
            break
    return _winner(answers)


def voters(cuts: Sequence[Cut]) -> Iterator[Cut]:
    """The cut with the most speech of each of MOST equal parts of the row; the middle part's comes first."""
    parts = min(MOST, len(cuts))
    ends = [len(cuts) * part // parts for part in range(parts + 1)]
    for part in sorted(range(parts), key=lambda part: abs(2 * part - (parts - 1))):
        yield max(cuts[ends[part] : ends[part + 1]], key=lambda cut: cut.samples * cut.speech)


def _winner(answers: Sequence[Array]) -> tuple[int, float]:
    mean = np.stack(answers).mean(axis=0, dtype=np.float64)
    best = int(mean.argmax())
    return best, round(float(mean[best]), 4)
