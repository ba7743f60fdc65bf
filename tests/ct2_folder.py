"""Writes CTranslate2 folders of very small Whisper models, for the tests of what reads them."""

import json
import struct
from functools import cache

import numpy as np

from whisperd import ggml

TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
ALPHABET = [*"!#$%", "Ġthe", "Ċ", "Ã©"]  # in GPT-2's letters: " the", a line feed, "é"


def a_model(n_vocab=51864, n=4, n_mels=80, layers=1, audio_ctx=6, text_ctx=5):
    """The variables of a Whisper model with random weights, all float16: {name: array}."""
    random = np.random.default_rng(1)

    def some(*shape):
        return random.normal(0, 0.1, shape).astype(np.float16)

    def linear(name, rows, columns=n):
        return {f"{name}/weight": some(rows, columns), f"{name}/bias": some(rows)}

    def norm(name):
        return {f"{name}/gamma": some(n), f"{name}/beta": some(n)}

    model = norm("decoder/layer_norm") | norm("encoder/layer_norm")
    for layer in [f"{side}/layer_{i}" for side in ("decoder", "encoder") for i in range(layers)]:
        model |= norm(f"{layer}/ffn/layer_norm") | norm(f"{layer}/self_attention/layer_norm")
        model |= linear(f"{layer}/ffn/linear_0", 4 * n) | linear(f"{layer}/ffn/linear_1", n, 4 * n)
        model |= linear(f"{layer}/self_attention/linear_0", 3 * n)
        model |= linear(f"{layer}/self_attention/linear_1", n)
        if layer.startswith("decoder"):
            model |= norm(f"{layer}/attention/layer_norm")
            for i, rows in enumerate((n, 2 * n, n)):
                model |= linear(f"{layer}/attention/linear_{i}", rows)
    for i, inputs in ((1, n_mels), (2, n)):
        model |= {f"encoder/conv{i}/weight": some(n, inputs, 3), f"encoder/conv{i}/bias": some(n)}
    model |= {f"{side}/num_heads": np.int16(2) for side in ("decoder", "encoder")}
    model["decoder/embeddings/weight"] = some(n_vocab, n)
    model["decoder/position_encodings/encodings"] = some(text_ctx, n)
    model["encoder/position_encodings/encodings"] = some(audio_ctx, n)
    return model


@cache
def words(n_vocab):
    """A vocabulary of that size with <|endoftext|> where Whisper has it."""
    end = 50256 if n_vocab == 51864 else 50257
    text = [ALPHABET[i % len(ALPHABET)] for i in range(end)]
    return [*text, "<|endoftext|>", *(f"<|{i}|>" for i in range(n_vocab - end - 1))]


def write_model(path, model, aliases=None, version=6, kind="WhisperSpec"):
    """Write model.bin. An array of dtype uint16 is stored as bfloat16."""
    with path.open("wb") as file:
        file.write(struct.pack("<I", version) + _string(kind) + struct.pack("<II", 3, len(model)))
        for name, array in sorted(model.items()):
            array = np.asarray(array)
            type_id = TYPES.index("bfloat16" if array.dtype == np.uint16 else array.dtype.name)
            file.write(_string(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape))
            file.write(struct.pack("<BI", type_id, array.nbytes) + array.tobytes())
        file.write(struct.pack("<I", len(aliases or {})))
        for alias, name in (aliases or {}).items():
            file.write(_string(alias) + _string(name))


def write_folder(folder, model=None, **options):
    """A whole folder, with its vocabulary as vocabulary.txt. Returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = a_model() if model is None else model
    write_model(folder / "model.bin", model, **options)
    (folder / "vocabulary.txt").write_text("\n".join(words(len(model["decoder/embeddings/weight"]))) + "\n")
    (folder / "config.json").write_text(json.dumps({"suppress_ids": []}))
    return folder


def write_multilingual(path, folder):
    """A ggml file that can be loaded and asked for languages. The choice is noise, but always the same."""
    model = a_model(n_vocab=51865, n=64, layers=4, audio_ctx=1500, text_ctx=448)
    write_folder(folder, model)
    # As in real ones the last is empty: by it CTranslate2 tells that a model knows languages.
    names = [*(f"{number}x" for number in range(50256)), ""]
    (folder / "vocabulary.txt").write_text("\n".join([*names, *words(51865)[50257:]]) + "\n")
    with path.open("wb") as out:
        ggml.convert(folder, out)
    return path


def quantized(model, name):
    """The model with one weight as int8 and a scale a row, as CTranslate2's converter makes it."""
    weight = model[name].astype(np.float32)
    scale = 127 / np.abs(weight).reshape(len(weight), -1).max(axis=1)
    rows = scale.reshape(-1, *(1 for _ in weight.shape[1:]))
    return model | {name: np.rint(weight * rows).astype(np.int8), f"{name}_scale": scale.astype(np.float32)}


def _string(text):
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data
