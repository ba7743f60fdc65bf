"""A model of whisper.cpp, turned into CTranslate2's files in memory: one file serves both engines.

Format of model.bin, version 6: CTranslate2's `specs/model_spec.py` and `specs/whisper_spec.py`; of what
lies beside it: its `converters/transformers.py`.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray

from whisperd.engine.ggml_file import GgmlFile, Size
from whisperd.engine.layout import Tensor, layout
from whisperd.engine.model import ModelBroken
from whisperd.engine.vocabulary import TIMES, Vocabulary

_TYPES = {np.dtype("<f4"): 0, np.dtype("i1"): 1, np.dtype("<i2"): 2, np.dtype("<f2"): 4}
_GELU = 3  # ActivationType of CTranslate2
# The heads of the decoder whose attention follows the audio, found by OpenAI
# (whisper/__init__.py, spelled out in whisper.cpp): by layers of encoder and decoder and number of tokens. Of
# others, as of large-v1 and v2, which their size does not tell apart, all of the upper half are taken.
_HEADS: dict[tuple[int, int, int], str] = {
    (4, 4, 51_864): "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",
    (4, 4, 51_865): "2.2 3.0 3.2 3.3 3.4 3.5",
    (6, 6, 51_864): "3.3 4.7 5.1 5.5 5.7",
    (6, 6, 51_865): "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",
    (12, 12, 51_864): "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2 11.4",
    (12, 12, 51_865): "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",
    (24, 24, 51_864): "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3 20.9 "
    "20.14 21.12",
    (24, 24, 51_865): "13.15 15.4 15.15 16.1 20.0 23.4",
    (32, 32, 51_866): "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",
    (32, 4, 51_866): "2.4 2.11 3.3 3.6 3.11 3.14",
}


def files(model: GgmlFile, vocabulary: Vocabulary) -> dict[str, bytes]:
    """What CTranslate2 wants of the model, by file name."""
    return {
        "model.bin": _model_bin(model),
        "config.json": json.dumps(_config(model.size, vocabulary)).encode(),
        "vocabulary.json": json.dumps(_spelled(vocabulary)).encode(),
    }


def _model_bin(model: GgmlFile) -> bytes:
    """One tensor is copied at a time: beside what is made here nothing of the model is in memory."""
    measures = dict(_measures(model.size))
    count = len({tensor.variable for tensor in layout(model.size)}) + len(measures)
    out = io.BytesIO()
    out.write(struct.pack("<I", 6) + _string("WhisperSpec") + struct.pack("<II", 3, count))
    for name, values in chain(_variables(model), measures.items()):
        out.write(_string(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape))
        out.write(struct.pack("<BI", _TYPES[values.dtype], values.nbytes))
        out.write(np.ascontiguousarray(values).data)
    out.write(
        struct.pack("<I", 1) + _string("decoder/projection/weight") + _string("decoder/embeddings/weight")
    )
    return out.getvalue()


def _variables(model: GgmlFile) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Each with the tensors stacked that are one there; a key has no bias in Whisper, and zeros there."""
    ordered = sorted(layout(model.size), key=lambda tensor: tensor.variable)
    for variable, group in groupby(ordered, key=lambda tensor: tensor.variable):
        tensors = {tensor.part: tensor for tensor in group}
        first = next(iter(tensors.values()))
        parts = [_values(model, tensors.get(part), first) for part in range(first.parts)]
        yield variable, parts[0] if len(parts) == 1 else np.concatenate(parts)


def _values(model: GgmlFile, tensor: Tensor | None, like: Tensor) -> NDArray[np.generic]:
    if tensor is None:
        return np.zeros(like.shape, np.float32)
    try:
        return model.tensors[tensor.name].reshape(tensor.shape)
    except (KeyError, ValueError) as error:
        raise ModelBroken(f"the model has no {tensor.name} of the size that its head tells of") from error


def _measures(size: Size) -> Iterator[tuple[str, NDArray[np.generic]]]:
    yield "encoder/num_heads", np.array(size.n_audio_head, np.int16)
    yield "decoder/num_heads", np.array(size.n_text_head, np.int16)
    yield "decoder/activation", np.array(_GELU, np.int8)
    yield "decoder/alibi", np.array(0, np.int8)
    yield "decoder/alignment_heads", np.array(1, np.int16)
    yield "decoder/alignment_layer", np.array(-1, np.int16)
    yield "decoder/pre_norm", np.array(1, np.int8)
    yield "decoder/scale_embeddings", np.array(0, np.int8)
    yield "decoder/start_from_zero_embedding", np.array(0, np.int8)


def _config(size: Size, vocabulary: Vocabulary) -> dict[str, list[int] | list[list[int]]]:
    never = ("startoftranscript", "translate", "transcribe", "startoflm", "startofprev", "nospeech")
    first = vocabulary.id("startoftranscript") + 1
    return {
        "alignment_heads": _heads(size),
        "lang_ids": list(range(first, vocabulary.id("translate"))),
        "suppress_ids": sorted([*vocabulary.symbols(), *map(vocabulary.id, never)]),
        "suppress_ids_begin": [*vocabulary.tokens(" "), vocabulary.end],
    }


def _heads(size: Size) -> list[list[int]]:
    known = _HEADS.get((size.n_audio_layer, size.n_text_layer, size.n_vocab))
    if known is not None:
        return [[int(number) for number in pair.split(".")] for pair in known.split()]
    upper = range(size.n_text_layer // 2, size.n_text_layer)
    return [[layer, head] for layer in upper for head in range(size.n_text_head)]


def _spelled(vocabulary: Vocabulary) -> list[str]:
    times = [f"<|{number / 50:.2f}|>" for number in range(TIMES)]
    special = [f"<|{name}|>" for name in vocabulary.special]
    words = ["".join(map(_LETTERS.__getitem__, word)) for word in vocabulary.words]
    unused = [f"<|unused {number}|>" for number in range(len(words), vocabulary.end)]  # in none but a test's
    return words + unused + special + times


def _letters() -> list[str]:
    """GPT-2's letter of each byte (`bytes_to_unicode` in its encoder.py)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


_LETTERS = _letters()


def _string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"
