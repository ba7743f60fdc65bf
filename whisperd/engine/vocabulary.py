"""Whisper's tokens: the ordinary ones by their bytes, the special ones by their places, text to tokens.

The order of the special tokens is that of OpenAI's whisper/tokenizer.py; their number tells the languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from whisperd.engine.languages import LANGUAGES

ENGLISH_ONLY = 51_864  # tokens; one more with languages, two with Cantonese
BESIDE_LANGUAGES = 51_766  # of a multilingual model, whose other tokens are 99 or 100 languages
TIMES = 1501  # tokens of times, 0.00 to 30.00 s
_PARTS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
_MARKS = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪"
_SYMBOLS = [
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *_MARKS.split(),
]
_NOTES = "♩♪♫♬♭♮♯"


class Vocabulary:
    def __init__(self, words: list[bytes], n_vocab: int) -> None:
        """`words`: the bytes of the ordinary tokens, of which there are the fewer, the more languages."""
        self.multilingual = n_vocab > ENGLISH_ONLY
        codes = tuple(LANGUAGES)[: n_vocab - BESIDE_LANGUAGES] if self.multilingual else tuple(LANGUAGES)[:99]
        self.languages = codes if self.multilingual else ("en",)
        self.end = 50_256 + self.multilingual  # <|endoftext|>
        self.words = words[: self.end]
        self._ids = {word: number for number, word in enumerate(self.words)}
        self._longest = max(map(len, self.words), default=1)  # bytes
        names = ("startoftranscript", *codes, "translate", "transcribe", "startoflm", "startofprev")
        self.special = ("endoftext", *names, "nospeech", "notimestamps")
        self.first_time = self.end + len(self.special)

    def id(self, special: str) -> int:
        """Of a special token, by its name: a language's code, "startofprev", …"""
        return self.end + self.special.index(special)

    def text(self, tokens: list[int]) -> bytes:
        return b"".join(self.words[token] for token in tokens if token < self.end)

    def tokens(self, text: str) -> list[int]:
        """Each part of the text by the longest tokens, from the left, as whisper.cpp does it."""
        return [token for part in _PARTS.findall(text) for token in self._split(part.encode())]

    def symbols(self) -> list[int]:
        """Tokens that write no speech, as `non_speech_tokens` of OpenAI's tokenizer lists them."""
        found = {token for text in (" -", " '") for token in self.tokens(text)[:1]}
        for symbol in [*_SYMBOLS, *_NOTES]:
            for tokens in (self.tokens(symbol), self.tokens(" " + symbol)):
                if len(tokens) == 1 or symbol in _NOTES:
                    found.update(tokens[:1])
        return sorted(found)

    def _split(self, part: bytes) -> Iterator[int]:
        while part:
            longest = min(len(part), self._longest)
            end = next((end for end in range(longest, 0, -1) if part[:end] in self._ids), 0)
            if end:
                yield self._ids[part[:end]]
            part = part[end or 1 :]  # every byte is a token, but of a model made for tests
