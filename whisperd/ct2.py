"""CTranslate2 (faster-whisper) folders: the numbers and the vocabulary of a Whisper model, with NumPy alone.

Knows model.bin v6 and the three ways a vocabulary is stored; what is made of them is ggml.py's business.
Files are taken as hostile: no length is believed before the file is seen to be that long, and all that can be
wrong is BadSource. Format: CTranslate2's `specs/model_spec.py` and `specs/whisper_spec.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from whisperd.catalogue import BadSource

# By type id. bfloat16, the last, is read as the upper half of a float32.
_TYPES = tuple(np.dtype(kind) for kind in ("<f4", "<i1", "<i2", "<i4", "<f2", "<u2"))
_BFLOAT16 = 5
_END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * _TYPES[self.type_id].itemsize


class Weights:
    """The variables of an open model.bin by name: the index is read at once, the numbers when asked for."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the index. Raises BadSource for another format or kind of model and for a truncated file."""
        self._file = file
        self._end = file.seek(0, 2)
        file.seek(0)
        self._check_kind()
        variables = [self._read_variable() for _ in range(self._number(4))]
        self._variables = {variable.name: variable for variable in variables}
        for _ in range(self._number(4)):
            alias, name = self._string(), self._string()
            self._variables[alias] = self._variable(name)

    def __contains__(self, name: str) -> bool:
        return name in self._variables

    def shape(self, name: str) -> tuple[int, ...]:
        """The dimensions of a variable, () for a single number. Raises BadSource if there is none such."""
        return self._variable(name).shape

    def integer(self, name: str) -> int:
        """The value of a variable that is a single number. Raises BadSource if it is not."""
        variable = self._variable(name)
        if variable.shape or _TYPES[variable.type_id].kind != "i":
            raise BadSource(f"{name} in model.bin is not a single integer")
        return int(self._rows(variable, 0, 1))

    def floats(self, name: str, part: int = 0, parts: int = 1) -> NDArray[Any]:
        """Rows `part` of `parts` of a variable as float16 or float32; integers are divided by their scale.

        What is divided by a scale of 0 is not finite: the caller looks. Raises BadSource.
        """
        variable = self._variable(name)
        count = variable.shape[0] // parts
        values = self._rows(variable, part * count, count)
        if variable.type_id == _BFLOAT16:
            return (values.astype("<u4") << 16).view("<f4")
        if values.dtype.kind == "f":
            return values
        return np.asarray(values / self._scale(variable, part * count, count))

    def _variable(self, name: str) -> _Variable:
        if name not in self._variables:
            raise BadSource(f"model.bin lacks {name}: not a Whisper model of the usual build")
        return self._variables[name]

    def _scale(self, variable: _Variable, first: int, count: int) -> NDArray[Any]:
        # One for all (int16), one a row (int8), or one a row and tap (int8 convolutions of some versions). An
        # aliased weight's has the name of what the alias stands for: the one the variable carries.
        scale = self._variable(f"{variable.name}_scale")
        values = self._rows(scale, 0, scale.shape[0] if scale.shape else 1).astype("<f4")
        if scale.shape in ((), (1,)):
            return values
        values = values[first : first + count]
        if scale.shape == variable.shape[:1]:
            return values.reshape(-1, *(1 for _ in variable.shape[1:]))
        if len(variable.shape) == 3 and scale.shape == (variable.shape[0], variable.shape[2]):
            return values[:, None, :]
        raise BadSource(f"{variable.name} {variable.shape} cannot be scaled by {scale.shape}")

    def _rows(self, variable: _Variable, first: int, count: int) -> NDArray[Any]:
        self._file.seek(variable.offset + first * variable.row_bytes)
        data = self._take(count * variable.row_bytes)
        shape = (count, *variable.shape[1:]) if variable.shape else ()
        return np.frombuffer(data, _TYPES[variable.type_id]).reshape(shape)

    def _check_kind(self) -> None:
        version = self._number(4)
        if version != 6:
            raise BadSource(f"model.bin has CTranslate2's format version {version}; only 6 can be read")
        kind, revision = self._string(), self._number(4)
        if (kind, revision) != ("WhisperSpec", 3):
            raise BadSource(f"model.bin holds {kind!r} of revision {revision}, not WhisperSpec of revision 3")

    def _read_variable(self) -> _Variable:
        name = self._string()
        shape = tuple(self._number(4) for _ in range(self._number(1)))
        type_id, n_bytes = self._number(1), self._number(4)
        if type_id >= len(_TYPES) or n_bytes != math.prod(shape) * _TYPES[type_id].itemsize:
            raise BadSource(f"{name} in model.bin: {n_bytes} bytes cannot be {shape} of type {type_id}")
        variable = _Variable(name, shape, type_id, self._file.tell())
        if variable.offset + n_bytes > self._end:
            raise BadSource(f"model.bin is truncated: it ends inside {name}")
        self._file.seek(n_bytes, 1)
        return variable

    def _string(self) -> str:
        return self._take(self._number(2)).rstrip(b"\0").decode(errors="replace")

    def _number(self, n_bytes: int) -> int:
        return int.from_bytes(self._take(n_bytes), "little")

    def _take(self, n_bytes: int) -> bytes:
        # Asked of the file's length first: read() would reserve what a lying length says.
        if self._file.tell() + n_bytes > self._end:
            raise BadSource(f"model.bin is truncated: it ends after {self._end} bytes")
        return self._file.read(n_bytes)


def open_weights(folder: Path) -> BinaryIO:
    """The model.bin of a folder, for Weights to read and the caller to close. Raises BadSource."""
    try:
        return (folder / "model.bin").open("rb")
    except OSError as error:
        raise BadSource(f"{folder} is no CTranslate2 model folder: model.bin: {error.strerror}") from error


def tokens(folder: Path, count: int, end_of_text: int) -> list[bytes]:
    """The bytes of the first `count` tokens. Raises BadSource unless token `end_of_text` is <|endoftext|>."""
    words = _words(folder)
    if len(words) <= end_of_text or words[end_of_text] != _END_OF_TEXT:
        raise BadSource(f"the vocabulary in {folder} does not have {_END_OF_TEXT} as token {end_of_text}")
    try:
        return [bytes(_BYTE_OF[char] for char in word) for word in words[:count]]
    except KeyError as error:
        raise BadSource(f"the vocabulary in {folder} is not byte-level: it has the letter {error}") from error


def _words(folder: Path) -> list[str]:
    for name, parse in _VOCABULARIES.items():
        path = folder / name
        if path.is_file():
            try:
                return parse(path.read_bytes().decode())
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                raise BadSource(f"{path} is not a vocabulary: {error}") from error
    raise BadSource(f"{folder} has no vocabulary: none of {', '.join(_VOCABULARIES)}")


def _words_of_list(text: str) -> list[str]:
    words = json.loads(text)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise TypeError("not a list of strings")
    return words


def _words_of_tokenizer(text: str) -> list[str]:
    tokenizer = json.loads(text)
    ids = dict(tokenizer["model"]["vocab"]) | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    words = {int(index): str(word) for word, index in ids.items()}
    return [words.get(index, "") for index in range(len(words))]


_VOCABULARIES: dict[str, Callable[[str], list[str]]] = {
    "vocabulary.json": _words_of_list,
    "vocabulary.txt": lambda text: text.split("\n"),  # not splitlines: a token may hold other line ends
    "tokenizer.json": _words_of_tokenizer,
}


def _byte_of() -> dict[str, int]:
    """GPT-2's alphabet (`bytes_to_unicode` in its encoder.py): printable bytes, then the rest from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_of()
