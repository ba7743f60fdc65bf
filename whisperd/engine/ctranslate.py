"""CTranslate2, which calculates in int8: one loaded model, one window of speech at a time.

Whisper was trained on windows of 30 s, filled up with silence, and hears worse in shorter ones. So as much as
was spoken is encoded, and behind it stands what the encoder makes of silence, which was computed once: the
decoder finds the window that it knows, at the cost of what is in it.

A long window is heard in two parts at once, where its plan knows a pause to part it in: the encoder's
attention grows with the square of its length, and two texts take less than twice the time of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from whisperd.engine import ct2_model, ggml_file, memory
from whisperd.engine.mel import FRAMES_PER_SECOND, log_mel
from whisperd.engine.model import (
    BEST_OF,
    LEAST_LIKELY,
    EngineFailed,
    EngineStopped,
    ModelBroken,
    compression,
    plain,
    without_loops,
    words,
)
from whisperd.engine.vocabulary import Vocabulary
from whisperd.task import SAMPLE_RATE, Options, Segment, Word

LONGEST = 3000  # frames of 10 ms, two of which become one position of the encoder's
# Of real silence behind the speech, before the one that was computed once. With 0.5 s tiny.en hears as well,
# but base goes on behind the end of short clips: WER 72 % (1 s: 20 %, 2 s: 6.7 %, all 30 s: 6.6 %).
MARGIN_SECONDS = 2.0
SHORTEST = 10  # frames at the end of a window that are worth a run; whisper.cpp leaves out as many
LEAST = 100  # frames to go on by: of a decoder that says two times and no more, there would be no end
THINNED = (
    1000  # positions of a part, with as much of the silence behind as fits: less for the decoder to look at
)
THINNED_FRAMES = 1950  # of the longest part for which that leaves silence enough
BEYOND = 150  # frames behind the end of the sound at which what was "heard" is made up
FASTEST = 20.0  # tokens a second, above which it is, too
PART_COMPRESSIBLE = 1.8  # of a part's text, which is half as long; loops had 2.1, speech 1.1 to 1.6
LOOP = 5  # tokens in a row that a text which went round may have once only
SILENCE = -1.5  # in a spectrogram: (log10(1e-10) + 4) / 4
NO_SPEECH = 0.6  # the probability at which an unlikely text is none, as OpenAI's
MOST_TOKENS = 224  # of a window, and of the text before it; the library takes twice as much for its bound
PROBE_TOKENS = 8

Array = NDArray[np.float32]


@dataclass(frozen=True)
class _Heard:
    """What a window is, for the decoder."""

    encoded: Array  # (1, positions, state)
    frames: int  # that hold sound
    tokens: list[int]
    likelihood: float  # mean log probability of the tokens
    silent: bool


class _Search(NamedTuple):
    """How a text is looked for: with the prompt and what was said before; without runs of tokens twice."""

    context: bool = False
    no_repeat: int = 0


class _Part(NamedTuple):
    """Of a window, the sound from one moment to another, in seconds."""

    mel: Array
    start: float
    end: float


class _Asked(NamedTuple):
    """What is asked of the decoder, and how it begins."""

    options: Options
    start: list[int]
    said: list[int]  # the tokens of the prompt
    stop: Callable[[], bool]


class CTranslate:
    _whisper: Any  # ctranslate2.models.Whisper, None when it is closed

    def __init__(self, path: str, *, threads: int, gpu: bool) -> None:
        """Load the ggml model at `path`. Raises ModelBroken, MemoryError."""
        self.path = path
        self._threads = threads
        self._gpu = gpu
        self._load()
        silence = np.full((len(self._filters), LONGEST), SILENCE, np.float32)
        with _errors(ModelBroken):
            self._silence = np.array(self._whisper.encode(_view(silence[np.newaxis]), to_cpu=True))

    def _load(self) -> None:
        self.close()  # first: two large models may not fit
        model = ggml_file.read(self.path)
        self._vocabulary = Vocabulary(model.tokens, model.size.n_vocab)
        self._filters = np.array(model.filters)  # a copy: else the whole file would stay mapped
        ctranslate2.set_random_seed(1)
        with _errors(ModelBroken):
            self._whisper = ctranslate2.models.Whisper(
                self.path,
                "cuda" if self._gpu else "cpu",
                compute_type="auto" if self._gpu else "int8",
                intra_threads=self._threads,
                files=ct2_model.files(model, self._vocabulary),
            )
        self._used_random = False

    @property
    def languages(self) -> tuple[str, ...]:
        """See Engine.languages."""
        return self._vocabulary.languages

    def language_probabilities(self, window: Array) -> Array:
        """See Engine.language_probabilities."""
        if len(self.languages) == 1:
            return np.ones(1, np.float32)
        with _errors():
            (found,) = self._whisper.detect_language(_view(self._encode(self._mel(window))))
        likely = {token.strip("<|>"): probability for token, probability in found}
        return np.array([likely.get(code, 0.0) for code in self.languages], np.float32)

    def transcribe(
        self, window: Array, options: Options, language: str, stop: Callable[[], bool], part: int = 0
    ) -> tuple[list[Segment], tuple[str, ...]]:
        """See Engine.transcribe. It stops between two runs of the model, not within one; whoever cannot wait
        for that ends the process. That it works shows in the processor time that it takes.

        What is drawn at a temperature above 0 comes from a generator that lives as long as a thread of the
        library: so after such a run the model is loaded anew.
        """
        if self._used_random:
            self._load()
        self._used_random = options.temperature > 0
        asked = _Asked(options, self._start(options, language), self._said(options), stop)

        def whole(search: _Search) -> list[Segment]:
            return list(self._passages(self._part(window), asked, search))

        with _errors():
            if part and (texts := self._in_parts(window, part, asked)):
                return texts, ()  # what either of them says by itself goes round in neither
            first = whole(_Search(context=True))
            others = [_Search(), _Search(no_repeat=LOOP)] if options.prompt else [_Search(no_repeat=LOOP)]
            return without_loops(first, (partial(whole, other) for other in others), vad=options.vad)

    def probe(self, window: Array, stop: Callable[[], bool]) -> None:
        """See Engine.probe."""
        with _errors():
            prompt = self._start(Options(), "en")
            self._hear([self._mel(window)], prompt, Options(beam_size=1), _Search(), most=PROBE_TOKENS)
        if stop():
            raise EngineStopped

    def close(self) -> None:
        """Free the model, and the file that the library keeps a copy of."""
        self._whisper = None

    def _in_parts(self, window: Array, place: int, asked: _Asked) -> list[Segment] | None:
        """Segments of the window, heard in two parts; None if a part is in doubt.

        What goes round or on behind its end in a part is often well in the whole window, with more to go by.
        """
        if asked.stop():
            raise EngineStopped
        parts = [self._part(window[:place]), self._part(window[place:], place)]
        search, prompt = _Search(context=True), [*self._before(asked.said), *asked.start]
        heard = self._hear([part.mel for part in parts], prompt, asked.options, search)
        if any(map(self._made_up, heard)):
            return None
        texts = [
            list(self._passages(part, asked, search, begun)) for part, begun in zip(parts, heard, strict=True)
        ]
        loops = any(compression(text) > PART_COMPRESSIBLE for text in texts)
        return None if loops else [segment for text in texts for segment in text]

    def _made_up(self, heard: _Heard) -> bool:
        times = [token - self._vocabulary.first_time for token in heard.tokens]
        sound = heard.frames - MARGIN_SECONDS * FRAMES_PER_SECOND
        beyond = 2 * max(times, default=0) > sound + BEYOND
        return beyond or len(heard.tokens) > FASTEST * max(1.0, sound / FRAMES_PER_SECOND)

    def _part(self, samples: Array, start: int = 0) -> _Part:
        return _Part(self._mel(samples), start / SAMPLE_RATE, (start + len(samples)) / SAMPLE_RATE)

    def _passages(
        self, part: _Part, asked: _Asked, search: _Search, begun: _Heard | None = None
    ) -> Iterator[Segment]:
        """Segments of the whole part: where the decoder ends too early, it goes on from there.

        `begun` is what was heard from its start, if that was done.
        """
        at, before = 0, asked.said
        while at == 0 or at + SHORTEST <= (part.end - part.start) * FRAMES_PER_SECOND:
            if asked.stop():
                raise EngineStopped
            prompt = [*(self._before(before) if search.context else []), *asked.start]
            heard = begun or self._well_heard(part.mel[:, at : at + LONGEST], prompt, asked.options, search)
            begun = None
            spans, ended = self._spans(heard)
            # What was silence is no context either: a text made up over it would be believed.
            if not heard.silent:
                yield from self._segments(heard, spans, part.start + at / FRAMES_PER_SECOND, part.end, asked)
                before = [*before, *heard.tokens]
            at += max(ended, LEAST) if ended else LONGEST
        if asked.stop():
            raise EngineStopped

    def _well_heard(self, mel: Array, prompt: list[int], options: Options, search: _Search) -> _Heard:
        """With silence to hear up to 30 s where, with the computed one, more was heard than there is.

        A window that is as long has no computed one: it would be heard as before.
        """
        [heard] = self._hear([mel], prompt, options, search)
        if self._made_up(heard) and mel.shape[1] < LONGEST:
            [heard] = self._hear([_filled(mel)], prompt, options, search)
            heard = replace(heard, frames=mel.shape[1])
        return heard

    def _hear(
        self,
        mels: Sequence[Array],
        prompt: list[int],
        options: Options,
        search: _Search,
        *,
        most: int = MOST_TOKENS,
    ) -> list[_Heard]:
        """Each on its own, decoded at once: which others there are changes nothing."""
        fit = len(mels) > 1 and max(mel.shape[1] for mel in mels) <= THINNED_FRAMES
        encoded = [self._encode(mel, THINNED if fit else LONGEST // 2) for mel in mels]
        draws = options.temperature > 0
        found = self._whisper.generate(
            _view(np.concatenate(encoded)),
            [prompt] * len(mels),
            beam_size=1 if draws else options.beam_size,
            num_hypotheses=BEST_OF if draws else 1,
            sampling_topk=0 if draws else 1,
            sampling_temperature=options.temperature if draws else 1.0,
            no_repeat_ngram_size=search.no_repeat,
            max_length=2 * most,
            return_scores=True,
            return_no_speech_prob=True,
        )
        heard = zip(encoded, mels, found, strict=True)
        return [self._heard(states, mel.shape[1], result) for states, mel, result in heard]

    def _heard(self, encoded: Array, frames: int, found: Any) -> _Heard:
        tokens = [token for token in found.sequences_ids[0] if token != self._vocabulary.end]
        likelihood = found.scores[0] * max(1, len(tokens)) / (len(tokens) + 1)  # <|endoftext|> counts
        silent = found.no_speech_prob > NO_SPEECH and likelihood < LEAST_LIKELY
        return _Heard(encoded, frames, tokens, likelihood, silent)

    def _said(self, options: Options) -> list[int]:
        return self._vocabulary.tokens(f" {options.prompt.strip()}") if options.prompt else []

    def _before(self, tokens: list[int]) -> list[int]:
        text = [token for token in tokens if token < self._vocabulary.end]
        return [self._vocabulary.id("startofprev"), *text[-(MOST_TOKENS - 1) :]] if text else []

    def _start(self, options: Options, language: str) -> list[int]:
        start = [self._vocabulary.id("startoftranscript")]
        if self._vocabulary.multilingual:
            task = "translate" if options.translate else "transcribe"
            start += [self._vocabulary.id(language), self._vocabulary.id(task)]
        return start

    def _spans(self, heard: _Heard) -> tuple[list[list[int]], int]:
        """Tokens of each segment, its times with them; and the frame at which they end, 0 if all was heard.

        As OpenAI's whisper/transcribe.py reads them: two times in a row part two segments.
        """
        tokens, first_time = heard.tokens, self._vocabulary.first_time
        times = [token >= first_time for token in tokens]
        parts = [place + 1 for place, pair in enumerate(pairwise(times)) if all(pair)]
        finished = times[-2:] == [False, True] or not parts
        ends = [0, *parts, *([len(tokens)] if finished else [])]
        spans = [tokens[start:end] for start, end in pairwise(ends) if end > start]
        return spans, 0 if finished else (tokens[parts[-1] - 1] - first_time) * 2

    def _segments(
        self,
        heard: _Heard,
        spans: list[list[int]],
        offset: float,
        seconds: float,
        asked: _Asked,
    ) -> Iterator[Segment]:
        wanted = asked.options.word_timestamps
        aligned = self._aligned(heard, spans, asked.start) if wanted else [()] * len(spans)
        ended = offset
        for span, found in zip(spans, aligned, strict=True):
            tokens = [token for token in span if token < self._vocabulary.end]
            text = plain(self._vocabulary.text(tokens))
            if not text:
                continue
            times = [(t - self._vocabulary.first_time) / 50 for t in span if t >= self._vocabulary.first_time]
            start = min(max(offset + (times[0] if times else 0.0), ended), seconds)
            last = times[-1] if len(times) > 1 else heard.frames / FRAMES_PER_SECOND
            ended = min(max(offset + last, start), seconds)
            yield Segment(
                start=start,
                end=ended,
                text=text,
                tokens=tuple(tokens),
                avg_logprob=heard.likelihood,
                temperature=asked.options.temperature,
                words=tuple(_within(found, offset, start, ended)),
            )

    def _aligned(self, heard: _Heard, spans: list[list[int]], prompt: list[int]) -> Iterator[Sequence[Word]]:
        """The words of each span, by the decoder's attention; times in seconds from the start of the mel."""
        texts = [[token for token in span if token < self._vocabulary.end] for span in spans]
        flat = [token for text in texts for token in text]
        if not flat:
            yield from ([] for _ in texts)
            return
        (found,) = self._whisper.align(_view(heard.encoded), prompt, [flat], heard.frames)
        starts = np.full(len(flat) + 1, np.inf)
        for token, position in reversed(found.alignments):
            starts[token] = position / 50
        starts = np.minimum.accumulate(starts[::-1])[::-1]
        first = 0
        for text in texts:
            pieces = [self._vocabulary.words[token] for token in text]
            yield [
                Word(
                    start=float(starts[first + places.start]),
                    end=float(starts[first + places.stop]),
                    word=plain(b"".join(pieces[place] for place in places)),
                    probability=float(np.mean([found.text_token_probs[first + place] for place in places])),
                )
                for places in words(pieces)
            ]
            first += len(text)

    def _mel(self, window: Array) -> Array:
        """With a margin of silence behind: (mels, an even number of frames)."""
        silence = np.zeros(round(MARGIN_SECONDS * SAMPLE_RATE), np.float32)
        mel = log_mel(np.concatenate([window, silence]), self._filters)
        return mel[:, : mel.shape[1] // 2 * 2]

    def _encode(self, mel: Array, positions: int = LONGEST // 2) -> Array:
        """Of at most 30 s: (1, positions, state), silence from where the sound ends, thinned to fit."""
        heard = np.array(self._whisper.encode(_view(mel[np.newaxis, :, :LONGEST]), to_cpu=True))
        silence = self._silence[:, heard.shape[1] :]
        kept = np.linspace(0, silence.shape[1] - 1, positions - heard.shape[1]).round().astype(int)
        return np.concatenate([heard, silence[:, kept]], axis=1)


def _filled(mel: Array) -> Array:
    """With absolute silence up to 30 s: softer than what is silent in the window and in its margin, which
    counts as eight tenfold steps below the loudest. So it was measured (docs/decisions.md)."""
    return np.pad(mel, ((0, 0), (0, LONGEST - mel.shape[1])), constant_values=SILENCE)


def _view(values: Array) -> ctranslate2.StorageView:
    return ctranslate2.StorageView.from_array(np.ascontiguousarray(values))


def _within(found: Sequence[Word], offset: float, start: float, end: float) -> Iterator[Word]:
    """Words in order, inside of their segment; those of nothing but a space left out."""
    for word in found:
        if not word.word:
            continue
        start = min(max(start, offset + word.start), end)
        word_end = min(max(start, offset + word.end), end)
        yield Word(start=start, end=word_end, word=word.word, probability=word.probability)
        start = word_end


@contextmanager
def _errors(kind: type[EngineFailed] = EngineFailed) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        _fail(kind, error)


def _fail(kind: type[EngineFailed], error: Exception) -> NoReturn:
    if memory.lacking(str(error)):
        raise MemoryError from error
    raise kind(f"CTranslate2: {error}") from error
