"""whisper.cpp, through pywhispercpp's raw binding: one loaded model, one window of speech at a time.

The wheel's own Model class is not used: it drops whisper.cpp's return code, and given a path it runs the
ffmpeg program on it. Success is proven by the code and by what came out.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NoReturn, TypeAlias

import _pywhispercpp as cpp
import msgspec
import numpy as np
from numpy.typing import NDArray

from whisperd.engine import memory
from whisperd.engine.model import (
    BEST_OF,
    EngineFailed,
    EngineStopped,
    ModelBroken,
    plain,
    without_loops,
    words,
)
from whisperd.engine.vocabulary import BESIDE_LANGUAGES
from whisperd.task import SAMPLE_RATE, Options, Segment, Word

Token: TypeAlias = cpp.whisper_token_data  # id, p (probability), plog, t0 and t1 (centiseconds), …
HOTTER = 0.4  # the temperature of a second try without a prompt to blame
PROBE_CONTEXT, PROBE_TOKENS = 128, 8  # 50 positions of the encoder are a second
_ERROR = 4  # GGML_LOG_LEVEL_ERROR
_FALLBACKS = re.compile(r"fallbacks = +(\d+) p / +(\d+) h")


def system_info() -> str:
    """Its own line about what it was built for."""
    return str(cpp.whisper_print_system_info())


class Whisper:
    """A model in memory. The same window, options and thread count always give the same segments.

    whisper.cpp draws random numbers where it decodes at a temperature above 0 or with beams, from a
    generator that lives as long as the context; so after such a run the context is made anew, else a
    transcript would depend on what the worker did before, and a resumed one would differ.
    """

    def __init__(self, path: str, *, threads: int, gpu: bool) -> None:
        """Load the ggml model at `path`. Raises ModelBroken, MemoryError."""
        self.path = path
        self._threads = threads
        self._gpu = gpu
        self._log: list[tuple[int, str]] = []  # what whisper.cpp said lately: level, text
        self._used_random = False
        self._context: cpp.whisper_context | None = None
        cpp.whisper_log_set(self._heard)
        self._load()

    def transcribe(
        self,
        window: NDArray[np.float32],
        options: Options,
        language: str,
        stop: Callable[[], bool],
        part: int = 0,
    ) -> tuple[list[Segment], tuple[str, ...]]:
        """See Engine.transcribe. It parts nothing: of the shortest window the encoder makes 30 s."""
        first = self._decode(window, options, language, stop, context=True)
        others = (
            partial(self._decode, window, other, language, stop, context=False)
            for other in _second_tries(options)
        )
        return without_loops(first, others, vad=options.vad)

    def _decode(
        self,
        window: NDArray[np.float32],
        options: Options,
        language: str,
        stop: Callable[[], bool],
        *,
        context: bool,
    ) -> list[Segment]:
        if self._used_random:
            self._load()
        params = self._params(options, language)
        if not context:
            params.n_max_text_ctx = 0  # nor that of what it has just decoded of the same window
        self._run(params, window, stop, draws=_draws(options))
        return list(self._segments(len(window) / SAMPLE_RATE, options))

    def probe(self, window: NDArray[np.float32], stop: Callable[[], bool]) -> None:
        """See Engine.probe: the encoder computes no more than is there, which would cost accuracy."""
        params = self._params(Options(beam_size=1), "en")
        params.audio_ctx, params.max_tokens, params.temperature_inc = PROBE_CONTEXT, PROBE_TOKENS, 0.0
        used_random = self._used_random  # then the next window loads the model anew, and not this one
        self._run(params, window, stop, draws=used_random)

    def _run(
        self,
        params: cpp.whisper_full_params,
        window: NDArray[np.float32],
        stop: Callable[[], bool],
        *,
        draws: bool,
    ) -> None:
        cpp.assign_abort_callback(params, stop)
        try:
            code = cpp.whisper_full(self._context, params, window, len(window))
        finally:
            cpp.assign_abort_callback(params, None)
        self._used_random = code != 0 or draws or self._fell_back()
        if stop():
            raise EngineStopped
        if code != 0:
            self._fail(EngineFailed(f"whisper.cpp returned {code}"))

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes (ISO 639-1) of what it understands, in the order of its tokens; perhaps "en" alone."""
        if not cpp.whisper_is_multilingual(self._context):
            return ("en",)
        count = cpp.whisper_n_vocab(self._context) - BESIDE_LANGUAGES
        return tuple(str(cpp.whisper_lang_str(number)) for number in range(count))

    def language_probabilities(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """How likely each of `languages` is spoken in `window` (mono, 16 kHz, up to 30 s); their sum is 1.

        The context answers as a fresh one would: nothing of an earlier window is in it, and no random number.
        Raises EngineFailed.
        """
        known = len(self.languages)
        if known == 1:
            return np.ones(1, np.float32)
        if code := cpp.whisper_pcm_to_mel(self._context, window, len(window), self._threads):
            raise EngineFailed(f"whisper_pcm_to_mel returned {code}")
        probabilities = np.zeros(cpp.whisper_lang_max_id() + 1, np.float32)
        if (code := cpp.whisper_lang_auto_detect(self._context, 0, self._threads, probabilities)) < 0:
            raise EngineFailed(f"whisper_lang_auto_detect returned {code}")
        # Of an older model it takes the token behind the last language for Cantonese.
        return np.asarray(probabilities[:known] / probabilities[:known].sum())

    def close(self) -> None:
        """Free the model: the binding does not when its object goes."""
        if self._context is not None:
            cpp.whisper_free(self._context)
        self._context = None

    def _load(self) -> None:
        self.close()  # first: two large models may not fit
        settings = cpp.whisper_context_default_params()
        settings.use_gpu = self._gpu
        self._log.clear()
        self._context = cpp.whisper_init_from_file_with_params(self.path, settings)
        # The binding wraps the NULL of a failure in an object like any other: only the log tells.
        if any(level == _ERROR and "failed" in text for level, text in self._log):
            self._context = None
            self._fail(ModelBroken("whisper.cpp could not load the model"))
        self._used_random = False

    def _heard(self, level: int, text: str) -> None:
        self._log.append((level, text))
        if level == _ERROR:  # it may be followed by an abort of the process: these are the words to judge by
            os.write(2, text.encode(errors="replace"))

    def _fail(self, error: EngineFailed) -> NoReturn:
        """Raise it, or MemoryError if that was the cause."""
        if memory.lacking("".join(text for _, text in self._log)):
            raise MemoryError from error
        raise error

    def _params(self, options: Options, language: str) -> cpp.whisper_full_params:
        sampling = cpp.whisper_sampling_strategy
        beams = options.beam_size > 1
        params = cpp.whisper_full_default_params(
            sampling.WHISPER_SAMPLING_BEAM_SEARCH if beams else sampling.WHISPER_SAMPLING_GREEDY
        )
        params.greedy = {"best_of": BEST_OF}
        if beams:
            params.beam_search = {"beam_size": options.beam_size, "patience": -1.0}
        params.n_threads = self._threads
        params.print_progress = params.print_realtime = params.print_timestamps = False
        params.no_context = True  # a chunk stands alone: any worker may run it, in any order
        params.language = language
        params.translate = options.translate
        params.temperature = options.temperature
        params.initial_prompt = options.prompt or ""
        params.token_timestamps = options.word_timestamps
        return params

    def _fell_back(self) -> bool:
        """Whether a window was decoded again, hotter; whisper.cpp tells it in a log line only."""
        self._log.clear()
        cpp.whisper_print_timings(self._context)
        cpp.whisper_reset_timings(self._context)
        found = _FALLBACKS.search("".join(text for _, text in self._log))
        return found is None or found.groups() != ("0", "0")

    def _segments(self, seconds: float, options: Options) -> Iterator[Segment]:
        ended = 0.0
        for number in range(cpp.whisper_full_n_segments(self._context)):
            text = plain(cpp.whisper_full_get_segment_text(self._context, number))
            tokens = self._tokens(number)
            if not text:
                continue
            start = min(max(cpp.whisper_full_get_segment_t0(self._context, number) / 100, ended), seconds)
            ended = min(max(cpp.whisper_full_get_segment_t1(self._context, number) / 100, start), seconds)
            yield Segment(
                start=start,
                end=ended,
                text=text,
                tokens=tuple(token.id for token in tokens),
                avg_logprob=math.fsum(token.plog for token in tokens) / max(1, len(tokens)),
                temperature=options.temperature,
                words=tuple(self._words(tokens, start, ended)) if options.word_timestamps else (),
            )

    def _tokens(self, segment: int) -> list[Token]:
        """The text tokens, without time stamps and other special ones."""
        count = cpp.whisper_full_n_tokens(self._context, segment)
        tokens = [cpp.whisper_full_get_token_data(self._context, segment, n) for n in range(count)]
        return [token for token in tokens if token.id < cpp.whisper_token_eot(self._context)]

    def _words(self, tokens: Sequence[Token], start: float, end: float) -> Iterator[Word]:
        texts = [self._bytes(token) for token in tokens]
        for places in words(texts):
            word = plain(b"".join(texts[place] for place in places))
            if not word:
                continue
            group = [tokens[place] for place in places]
            start = min(max(start, group[0].t0 / 100), end)
            word_end = min(max(start, group[-1].t1 / 100), end)
            yield Word(start=start, end=word_end, word=word, probability=sum(t.p for t in group) / len(group))
            start = word_end

    def _bytes(self, token: Token) -> bytes:
        return bytes(cpp.whisper_token_to_bytes(self._context, token.id))


def _second_tries(options: Options) -> Iterator[Options]:
    """Without context and with other searches, if the text repeats itself."""
    if options.prompt:
        yield msgspec.structs.replace(options, prompt=None)
    yield msgspec.structs.replace(
        options, prompt=None, beam_size=1, temperature=max(HOTTER, options.temperature)
    )


def _draws(options: Options) -> bool:
    return options.temperature > 0 or options.beam_size > 1
