"""Which of CTranslate2's variables holds which of whisper.cpp's tensors, for both ways between the two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from whisperd.engine.ggml_file import Size


class Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    variable: str
    part: int = 0
    parts: int = 1  # CTranslate2 stacks query, key and value into one


def layout(size: Size) -> Iterator[Tensor]:
    """Every tensor of a model, in the order of OpenAI's checkpoints."""
    n, hidden = size.n_text_state, 4 * size.n_text_state
    for side, ctx in (("decoder", size.n_text_ctx), ("encoder", size.n_audio_ctx)):
        yield Tensor(f"{side}.positional_embedding", (ctx, n), f"{side}/position_encodings/encodings")
    yield Tensor("decoder.token_embedding.weight", (size.n_vocab, n), "decoder/embeddings/weight")
    for layer in range(size.n_text_layer):
        ours, theirs = f"decoder.blocks.{layer}", f"decoder/layer_{layer}"
        yield from _block(ours, theirs, n, hidden)
        yield from _norm(f"{ours}.cross_attn_ln", f"{theirs}/attention/layer_norm", n)
        yield from _cross_attention(f"{ours}.cross_attn", f"{theirs}/attention", n)
    yield from _norm("decoder.ln", "decoder/layer_norm", n)
    yield from _linear("encoder.conv1", "encoder/conv1", (n, size.n_mels, 3))
    yield from _linear("encoder.conv2", "encoder/conv2", (n, n, 3))
    for layer in range(size.n_audio_layer):
        yield from _block(f"encoder.blocks.{layer}", f"encoder/layer_{layer}", n, hidden)
    yield from _norm("encoder.ln_post", "encoder/layer_norm", n)


def _block(ours: str, theirs: str, n: int, hidden: int) -> Iterator[Tensor]:
    yield from _norm(f"{ours}.mlp_ln", f"{theirs}/ffn/layer_norm", n)
    yield from _linear(f"{ours}.mlp.0", f"{theirs}/ffn/linear_0", (hidden, n))
    yield from _linear(f"{ours}.mlp.2", f"{theirs}/ffn/linear_1", (n, hidden))
    yield from _norm(f"{ours}.attn_ln", f"{theirs}/self_attention/layer_norm", n)
    yield from _self_attention(f"{ours}.attn", f"{theirs}/self_attention", n)


# A key has no bias in Whisper; CTranslate2 stacks zeros in its place, which are left out.


def _self_attention(ours: str, theirs: str, n: int) -> Iterator[Tensor]:
    yield from _linear(f"{ours}.query", f"{theirs}/linear_0", (n, n), 0, 3)
    yield Tensor(f"{ours}.key.weight", (n, n), f"{theirs}/linear_0/weight", 1, 3)
    yield from _linear(f"{ours}.value", f"{theirs}/linear_0", (n, n), 2, 3)
    yield from _linear(f"{ours}.out", f"{theirs}/linear_1", (n, n))


def _cross_attention(ours: str, theirs: str, n: int) -> Iterator[Tensor]:
    yield from _linear(f"{ours}.query", f"{theirs}/linear_0", (n, n))
    yield Tensor(f"{ours}.key.weight", (n, n), f"{theirs}/linear_1/weight", 0, 2)
    yield from _linear(f"{ours}.value", f"{theirs}/linear_1", (n, n), 1, 2)
    yield from _linear(f"{ours}.out", f"{theirs}/linear_2", (n, n))


def _linear(ours: str, theirs: str, shape: tuple[int, ...], *part: int) -> Iterator[Tensor]:
    yield Tensor(f"{ours}.weight", shape, f"{theirs}/weight", *part)
    yield Tensor(f"{ours}.bias", shape[:1], f"{theirs}/bias", *part)


def _norm(ours: str, theirs: str, n: int) -> Iterator[Tensor]:
    yield Tensor(f"{ours}.weight", (n,), f"{theirs}/gamma")
    yield Tensor(f"{ours}.bias", (n,), f"{theirs}/beta")
