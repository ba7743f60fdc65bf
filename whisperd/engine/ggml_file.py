"""whisper.cpp's model file, read: its measures, its vocabulary, its tensors.

The format is that of whisper.cpp's `models/convert-pt-to-ggml.py`. The file was checked against its hash
before a child is told of it; still no length is believed before the file is seen to be that long.
"""

from __future__ import annotations

import errno
import math
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whisperd.engine.model import ModelBroken

MAGIC = 0x67676D6C
_HEAD = struct.Struct("<12i")  # the magic, the measures, the type of the weights
_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2")}


class Size(NamedTuple):
    """The numbers of the header, in its order; the type of the weights follows them."""

    n_vocab: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    n_mels: int


Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class GgmlFile:
    size: Size
    filters: NDArray[np.float32]  # (n_mels, 201)
    tokens: list[bytes]  # the ordinary ones; of some models <|endoftext|> too
    tensors: dict[str, Array]  # mapped, not read


def read(path: str) -> GgmlFile:
    """The model of `path`, in float16. Raises ModelBroken for a quantised and for a damaged one."""
    try:
        return _Reader(np.memmap(path, np.uint8, "r")).model()
    except FileNotFoundError as error:
        raise ModelBroken("the model is gone") from error
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from error
        raise
    except (struct.error, ValueError) as error:
        raise ModelBroken("it is no model of whisper.cpp, or a damaged one") from error


def quantised(path: str) -> bool:
    """Whether its matrices are in fewer bits than 16; False too for what is no model, or is not there."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD.size)
    except OSError:
        return False
    return len(head) == _HEAD.size and _HEAD.unpack(head)[-1] not in _TYPES


class _Reader:
    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data
        self._at = 0

    def model(self) -> GgmlFile:
        magic, *numbers, _ = self._numbers(12)
        if magic != MAGIC:
            raise ValueError("another format")
        filters = self._array(self._numbers(2), _TYPES[0])
        tokens = [self._bytes(self._numbers(1)[0]) for _ in range(self._numbers(1)[0])]
        tensors = {}
        while self._at < len(self._data):
            rank, length, kind = self._numbers(3)
            dims = self._numbers(rank)[::-1]
            name = self._bytes(length).decode()
            if kind not in _TYPES:
                raise ModelBroken("CTranslate2 takes models in float16, and this one is quantised")
            tensors[name] = self._array(dims, _TYPES[kind])
        return GgmlFile(Size(*numbers), filters, tokens, tensors)

    def _numbers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}i", self._bytes(4 * count))

    def _array(self, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
        return self._take(math.prod(shape) * kind.itemsize).view(kind).reshape(shape)

    def _bytes(self, count: int) -> bytes:
        return self._take(count).tobytes()

    def _take(self, count: int) -> NDArray[np.uint8]:
        if count < 0 or self._at + count > len(self._data):
            raise ValueError("the file ends too soon")
        self._at += count
        return self._data[self._at - count : self._at]
