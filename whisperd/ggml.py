"""whisper.cpp's ggml files, written from CTranslate2 folders with NumPy and nothing else.

Knows the format; no model names, no folders of ours, no network (models.py does). The layout is that of
whisper.cpp's `models/convert-pt-to-ggml.py` down to the order of the tensors, so that the same weights give
the same bytes: `tiny.en` made from a faster-whisper folder has the SHA-256 of the published
`ggml-tiny.en.bin`.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from whisperd.catalogue import BadSource
from whisperd.ct2 import Weights, open_weights, tokens
from whisperd.engine.ggml_file import MAGIC, Size
from whisperd.engine.layout import Tensor, layout

_FLOAT16 = 1

# The id of <|endoftext|> by the number of ids: English only, multilingual, and large-v3 with Cantonese.
_END_OF_TEXT = {51864: 50256, 51865: 50257, 51866: 50257}
# As many as the published files carry: <|endoftext|> too for .en. whisper.cpp names the rest itself.
_TOKENS_WRITTEN = 50257


def convert(folder: Path, out: BinaryIO) -> None:
    """Write the CTranslate2 Whisper model in `folder` (model.bin, a vocabulary) to `out` as float16 ggml.

    Takes weights of every CTranslate2 type: float32, float16, bfloat16, and int8 and int16 with their scales.
    Holds one tensor at a time. Raises BadSource, and leaves a useless beginning in `out`.
    """
    with open_weights(folder) as file:
        weights = Weights(file)
        size = _measure(weights)
        _write_header(out, size, tokens(folder, _TOKENS_WRITTEN, _END_OF_TEXT[size.n_vocab]))
        for tensor in layout(size):
            _write_tensor(out, tensor, weights)


def mel_filters(n_mels: int) -> NDArray[np.float32]:
    """Slaney's triangular mel filters for 16 kHz and a 400-point FFT: float32, shape (n_mels, 201).

    Computed in float64, so that another libm does not show, and rounded where librosa rounds (the triangle,
    then the scaled one): bit for bit what OpenAI's `mel_filters.npz` and the published ggml files hold.
    """
    top = 15 + math.log(8000 / 1000) / _LOG_STEP
    edges = np.array([_hz(top * i / (n_mels + 1)) for i in range(n_mels + 2)])
    ramps = edges[:, None] - np.linspace(0, 8000, 201)
    widths = np.diff(edges)[:, None]
    triangles = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]))
    triangles += 0.0  # which of 0.0 and -0.0 maximum() takes is up to the CPU; this makes both 0.0
    scale = 2 / (edges[2:] - edges[:-2])
    return np.asarray(triangles.astype(np.float32).astype(np.float64) * scale[:, None], dtype=np.float32)


_LOG_STEP = math.log(6.4) / 27  # Slaney: 15 mels linearly to 1 kHz, then 27 to 6.4 kHz


def _hz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp(_LOG_STEP * (mel - 15))


def _measure(weights: Weights) -> Size:
    n_vocab, n_text_state = _shape(weights, "decoder/embeddings/weight", 2)
    n_audio_ctx, n_audio_state = _shape(weights, "encoder/position_encodings/encodings", 2)
    size = Size(
        n_vocab=n_vocab,
        n_audio_ctx=n_audio_ctx,
        n_audio_state=n_audio_state,
        n_audio_head=weights.integer("encoder/num_heads"),
        n_audio_layer=_layers(weights, "encoder"),
        n_text_ctx=_shape(weights, "decoder/position_encodings/encodings", 2)[0],
        n_text_state=n_text_state,
        n_text_head=weights.integer("decoder/num_heads"),
        n_text_layer=_layers(weights, "decoder"),
        n_mels=_shape(weights, "encoder/conv1/weight", 3)[1],
    )
    _check(size)
    return size


def _shape(weights: Weights, name: str, rank: int) -> tuple[int, ...]:
    shape = weights.shape(name)
    if len(shape) != rank:
        raise BadSource(f"{name} in model.bin has shape {shape}, expected {rank} dimensions")
    return shape


def _layers(weights: Weights, side: str) -> int:
    layer = 0
    while f"{side}/layer_{layer}/ffn/linear_0/weight" in weights:
        layer += 1
    return layer


def _check(size: Size) -> None:
    if size.n_vocab not in _END_OF_TEXT:
        raise BadSource(f"model.bin has {size.n_vocab} tokens, a Whisper model 51864, 51865 or 51866")
    sound = min(size) > 0 and size.n_mels in (80, 128) and size.n_audio_state == size.n_text_state
    if not sound or size.n_audio_state % size.n_audio_head or size.n_text_state % size.n_text_head:
        raise BadSource(f"model.bin does not have the measures of a Whisper model: {size}")


def _write_header(out: BinaryIO, size: Size, words: list[bytes]) -> None:
    filters = mel_filters(size.n_mels)
    out.write(struct.pack("<12i", MAGIC, *size, _FLOAT16))
    out.write(struct.pack("<2i", *filters.shape) + filters.astype("<f4").tobytes())
    out.write(struct.pack("<i", len(words)))
    out.writelines(struct.pack("<i", len(word)) + word for word in words)


def _write_tensor(out: BinaryIO, tensor: Tensor, weights: Weights) -> None:
    # whisper.cpp adds vectors and positions in float32 and multiplies matrices in float16. The bias of a
    # convolution is a column there: it is added to every frame.
    exact = len(tensor.shape) == 1 or tensor.name.endswith("positional_embedding")
    column = tensor.name in ("encoder.conv1.bias", "encoder.conv2.bias")
    dims = (*tensor.shape, 1) if column else tensor.shape
    values = _values(tensor, weights, np.dtype("<f4" if exact else "<f2"))
    name = tensor.name.encode()
    out.write(struct.pack("<3i", len(dims), len(name), 0 if exact else _FLOAT16))
    out.write(struct.pack(f"<{len(dims)}i", *reversed(dims)) + name)
    out.write(values.tobytes())


def _values(tensor: Tensor, weights: Weights, kind: np.dtype[np.floating]) -> NDArray[np.floating]:
    stacked = (tensor.shape[0] * tensor.parts, *tensor.shape[1:])
    if (shape := weights.shape(tensor.variable)) != stacked:
        raise BadSource(f"{tensor.variable} in model.bin has shape {shape}, expected {stacked}")
    with np.errstate(all="ignore"):
        values = weights.floats(tensor.variable, tensor.part, tensor.parts).astype(kind)
    if not np.isfinite(values).all():
        raise BadSource(f"{tensor.variable} in model.bin holds numbers that are not finite: it is damaged")
    return values
