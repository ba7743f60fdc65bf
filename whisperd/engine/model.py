"""What every engine is, whichever library it runs on; and how a text that repeats itself is judged."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whisperd.task import Options, Segment

REPETITION = "repetition"  # the warning
# As OpenAI's whisper/transcribe.py: compression_ratio_threshold, logprob_threshold.
MOST_COMPRESSIBLE, LEAST_LIKELY = 2.4, -1.0
BEST_OF = 5  # tries at each temperature above 0, as whisper.cpp's own command line does


class EngineFailed(Exception):
    """The library returned an error."""


class ModelBroken(EngineFailed):
    """The model could not be loaded, with memory enough."""


class EngineStopped(Exception):
    """The run was stopped because `stop` said so."""


class Engine(Protocol):
    """A model in memory. The same window, part, options and threads always give the same segments."""

    path: str

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes (ISO 639-1) of what it understands, in the order of its tokens; perhaps "en" alone."""

    def language_probabilities(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """How likely each of `languages` is spoken in `window` (mono, 16 kHz, up to 30 s); their sum is 1.

        What was heard before does not count. Raises EngineFailed.
        """

    def transcribe(
        self,
        window: NDArray[np.float32],
        options: Options,
        language: str,
        stop: Callable[[], bool],
        part: int = 0,
    ) -> tuple[list[Segment], tuple[str, ...]]:
        """Segments of `window` (mono, 16 kHz, shape (n,), at most 30 s), times in seconds in it; warnings.

        An engine for which two short windows are less work than a long one may part it before sample `part`.
        `stop` is asked often, from another thread. Raises EngineStopped, EngineFailed, MemoryError.
        """

    def probe(self, window: NDArray[np.float32], stop: Callable[[], bool]) -> None:
        """Encode and decode a second or two, to see that it can be done. Raises as `transcribe`.

        It is cheap, and there is one try. Nothing of it is in what comes after.
        """

    def close(self) -> None:
        """Free the model."""


def without_loops(
    first: list[Segment], others: Iterable[Callable[[], list[Segment]]], *, vad: bool
) -> tuple[list[Segment], tuple[str, ...]]:
    """The first text, or a better one of `others`, which are made only if it repeats itself; and warnings.

    REPETITION warns of it either way: real refrains compress as well as loops do. `vad`: speech was heard.
    """
    best = first
    if not repeats(best):
        return best, ()
    for other in others:
        found = other()
        if _likelihood(found) >= LEAST_LIKELY and compression(found) < compression(best):
            best = found if found or not vad else best  # where speech was heard there is some
        if not repeats(best):
            break
    return best, (REPETITION,)


def repeats(segments: Sequence[Segment]) -> bool:
    return compression(segments) > MOST_COMPRESSIBLE


def compression(segments: Sequence[Segment]) -> float:
    """How many times shorter zlib makes the text, as OpenAI's whisper/utils.py; below 1 for a short one."""
    text = " ".join(segment.text for segment in segments).encode()
    return len(text) / len(zlib.compress(text))


def plain(raw: bytes) -> str:
    """Bytes of tokens as text; they are joined first: a token may end in the middle of a character."""
    return raw.decode("utf-8", errors="replace").strip()


def words(tokens: Sequence[bytes]) -> Iterator[range]:
    """The places of the tokens of each word: it begins with a space. Characters stay whole."""
    starts = [place for place, token in enumerate(tokens) if place == 0 or token.startswith(b" ")]
    for first, last in pairwise([*starts, len(tokens)]):
        yield range(first, last)


def _likelihood(segments: Sequence[Segment]) -> float:
    """Mean log probability of the text tokens."""
    tokens = max(1, sum(len(segment.tokens) for segment in segments))
    return math.fsum(segment.avg_logprob * len(segment.tokens) for segment in segments) / tokens
