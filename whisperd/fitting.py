"""How many workers share the GPUs: as many as their free memory has room for.

An estimate, from the measures of the model and what whisper.cpp says that it needs. Where it is too high,
the pool steps down (restraint.py). Knows neither the engine nor the pool.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from whisperd import gpu
from whisperd.catalogue import ModelError, file_name
from whisperd.config import Config
from whisperd.engine import features

MOST = 4  # `whisperd bench` tries no more: what one does on the processor, another uses the GPU meanwhile

# What a worker holds beside the weights. whisper.cpp's README ("Memory usage") has 273 MB for tiny up to
# 3.9 GB for large; less the file, that is at most 0.63 MB for each of the encoder's columns (384 to 1280).
BYTES_A_COLUMN = 650_000
# Keys and values, float16, of 512 tokens in each layer of the decoder: seven times with 5 beams, or with 5
# tries at a temperature above 0 (whisper_full_with_state: two more than there are decoders).
BYTES_OF_TOKENS = 7 * 512 * 2 * 2
CUDA_BYTES = 512 * 2**20  # of a process, before it has a model: a guess, not measured

_MAGIC = 0x67676D6C
_HEAD = struct.Struct("<12i")  # whisper.cpp's models/convert-pt-to-ggml.py


def on_gpu(config: Config) -> Sequence[str]:
    """For each worker that the GPUs have memory for the number of its GPU, in turn; none where none is used.

    "" is whichever the engine takes: one, where nobody tells or none has enough; as many as the first has
    room for, where the engine cannot be told which. Blocks. The memory is asked for once in a process: later
    our own workers would have it.
    """
    if not (config.workers.gpu and features.on_gpu(config.workers.engine)):
        return ()
    rooms = room(config)
    if len(rooms) < 2 or not features.by_cuda(config.workers.engine):
        return ("",) * max(1, next(iter(rooms.values()), 0))
    turns = sorted((turn, place) for place, most in enumerate(rooms.values()) for turn in range(most))
    return [list(rooms)[place] for _, place in turns] or ("",)


def room(config: Config) -> Mapping[str, int]:
    """How many workers each GPU has memory for, up to MOST, by its number. Blocks.

    Of none where it or the model does not tell. For the largest of the models that workers start with.
    """
    free = gpu.free()
    with suppress(OSError, ModelError, struct.error, ValueError):
        names = {config.workers.model, *config.models.preload}
        needed = max(bytes_needed(config.models_dir / file_name(name)) for name in names)
        return {number: min(MOST, bytes_free // needed) for number, bytes_free in free.items()}
    return {}


def bytes_needed(model: Path) -> int:
    """On the GPU, by a worker that runs it. Raises OSError; struct.error, ValueError for what is no model."""
    with model.open("rb") as file:
        magic, *sizes = _HEAD.unpack(file.read(_HEAD.size))
    columns, text_columns, text_layers = sizes[2], sizes[6], sizes[8]
    if magic != _MAGIC:
        raise ValueError(f"{model} is no model of whisper.cpp")
    tokens: int = BYTES_OF_TOKENS * text_columns * text_layers
    buffers: int = BYTES_A_COLUMN * columns
    return model.stat().st_size + buffers + tokens + CUDA_BYTES
