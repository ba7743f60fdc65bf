import io
import json
import struct
import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ct2_folder import a_model, quantized, words, write_folder, write_model
from whisperd.catalogue import BadSource, ModelError
from whisperd.ggml import MAGIC, convert, mel_filters

N = 4
QKV = "decoder/layer_0/self_attention/linear_0/weight"
MLP = "encoder/layer_0/ffn/linear_0/weight"


class Ggml(NamedTuple):
    header: tuple[int, ...]
    filters: np.ndarray
    tokens: list[bytes]
    tensors: dict[str, np.ndarray]


def parse(data):
    """A ggml file as whisper.cpp's loader reads it."""
    file = io.BytesIO(data)

    def numbers(count):
        return struct.unpack(f"<{count}i", file.read(4 * count))

    magic, *header = numbers(12)
    assert magic == MAGIC
    shape = numbers(2)
    filters = np.frombuffer(file.read(4 * shape[0] * shape[1]), "<f4").reshape(shape)
    tokens = [file.read(numbers(1)[0]) for _ in range(numbers(1)[0])]
    tensors = {}
    while file.tell() < len(data):
        rank, length, kind = numbers(3)
        dims = numbers(rank)[::-1]
        name = file.read(length).decode()
        values = np.dtype(("<f4", "<f2")[kind])
        tensors[name] = np.frombuffer(file.read(values.itemsize * int(np.prod(dims))), values).reshape(dims)
    return Ggml(tuple(header), filters, tokens, tensors)


def converted(folder):
    out = io.BytesIO()
    convert(folder, out)
    return out.getvalue()


def test_the_header_has_the_models_measures(tmp_path):
    folder = write_folder(tmp_path, a_model(layers=2))

    ggml = parse(converted(folder))

    assert ggml.header == (51864, 6, N, 2, 2, 5, N, 2, 2, 80, 1)


def test_a_model_with_cantonese_and_128_mels_is_read(tmp_path):
    folder = write_folder(tmp_path, a_model(n_vocab=51866, n_mels=128))

    ggml = parse(converted(folder))

    assert ggml.header[0] == 51866
    assert ggml.filters.shape == (128, 201)
    assert ggml.tensors["encoder.conv1.weight"].shape == (N, 128, 3)


def test_stacked_attention_weights_are_taken_apart(tmp_path):
    model = a_model()
    tensors = parse(converted(write_folder(tmp_path, model))).tensors

    block = "decoder.blocks.0"
    own = np.concatenate([tensors[f"{block}.attn.{part}.weight"] for part in ("query", "key", "value")])
    cross = np.concatenate([tensors[f"{block}.cross_attn.{part}.weight"] for part in ("key", "value")])

    assert np.array_equal(own, model[QKV])
    assert np.array_equal(cross, model["decoder/layer_0/attention/linear_1/weight"])
    assert np.array_equal(
        tensors["decoder.blocks.0.attn.value.bias"], model[QKV.replace("weight", "bias")][2 * N :]
    )
    assert "decoder.blocks.0.attn.key.bias" not in tensors


def test_vectors_and_positions_are_float32_and_the_rest_is_float16(tmp_path):
    tensors = parse(converted(write_folder(tmp_path))).tensors

    exact = {name for name, tensor in tensors.items() if tensor.dtype == np.float32}

    vectors = ("bias", "ln.weight", "ln_post.weight", "positional_embedding")
    assert exact == {name for name in tensors if name.endswith(vectors)}


def test_the_bias_of_a_convolution_is_a_column(tmp_path):
    model = a_model()

    tensors = parse(converted(write_folder(tmp_path, model))).tensors

    assert np.array_equal(tensors["encoder.conv1.bias"], model["encoder/conv1/bias"][:, None])


def test_tokens_are_bytes_again_and_end_where_the_special_ones_begin(tmp_path):
    english = parse(converted(write_folder(tmp_path / "en"))).tokens
    multilingual = parse(converted(write_folder(tmp_path / "all", a_model(n_vocab=51865)))).tokens

    assert english[4:7] == [b" the", b"\n", "é".encode()]
    assert (len(english), english[-1]) == (50257, b"<|endoftext|>")
    assert (len(multilingual), multilingual[-1]) == (50257, b"%")


def test_a_vocabulary_says_the_same_in_each_of_its_three_forms(tmp_path):
    folder = write_folder(tmp_path)
    text = converted(folder)
    vocabulary = words(51864)

    (folder / "vocabulary.txt").unlink()
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    assert converted(folder) == text
    (folder / "vocabulary.json").unlink()
    # A tokenizer has each word once; the odd ones are made distinct, and read back as what they then are.
    plain = {f"{word}!{i}" if i < 50256 else word: i for i, word in enumerate(vocabulary)}
    added = [{"id": plain.pop("<|endoftext|>"), "content": "<|endoftext|>"}]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": plain}, "added_tokens": added}))
    assert parse(converted(folder)).tokens[4:6] == [b" the!4", b"\n!5"]


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint16, np.int16, np.int8])
def test_weights_of_every_ctranslate2_type_come_out_as_they_were(tmp_path, kind):
    model = a_model()
    weight = model[MLP].astype(np.float32)
    if kind is np.int8:
        stored = quantized(model, MLP)
    elif kind is np.int16:
        scale = np.float32(2**10 / np.abs(weight).max())
        stored = model | {MLP: np.rint(weight * scale).astype(np.int16), f"{MLP}_scale": scale}
    elif kind is np.uint16:
        stored = model | {MLP: (weight.view(np.uint32) >> 16).astype(np.uint16)}
    else:
        stored = model | {MLP: weight.astype(kind)}

    tensors = parse(converted(write_folder(tmp_path, stored))).tensors

    assert np.allclose(tensors["encoder.blocks.0.mlp.0.weight"], weight, atol=0.002)


def test_a_stacked_int8_weight_is_scaled_row_by_row(tmp_path):
    model = a_model()

    tensors = parse(converted(write_folder(tmp_path, quantized(model, QKV)))).tensors

    assert np.allclose(tensors["decoder.blocks.0.attn.value.weight"], model[QKV][2 * N :], atol=0.002)


def test_an_int8_convolution_has_a_scale_a_row_or_a_row_and_tap(tmp_path):
    name, model = "encoder/conv1/weight", a_model()
    weight = model[name].astype(np.float32)
    by_tap = (127 / np.abs(weight).max(axis=1)).astype(np.float32)
    taps = {name: np.rint(weight * by_tap[:, None, :]).astype(np.int8), f"{name}_scale": by_tap}

    a_row = parse(converted(write_folder(tmp_path / "row", quantized(model, name)))).tensors
    a_tap = parse(converted(write_folder(tmp_path / "tap", model | taps))).tensors

    assert np.allclose(a_row["encoder.conv1.weight"], weight, atol=0.002)
    assert np.allclose(a_tap["encoder.conv1.weight"], weight, atol=0.002)


def test_an_aliased_int8_weight_is_scaled_by_what_it_stands_for(tmp_path):
    model = quantized(a_model(), MLP)
    alias = "decoder/layer_0/ffn/linear_0/weight"
    del model[alias]

    tensors = parse(converted(write_folder(tmp_path, model, aliases={alias: MLP}))).tensors

    assert np.array_equal(tensors["decoder.blocks.0.mlp.0.weight"], tensors["encoder.blocks.0.mlp.0.weight"])


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    folder = write_folder(tmp_path)

    assert converted(folder) == converted(folder)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_mel_filters_are_triangles_of_equal_area_in_order(n_mels):
    filters = mel_filters(n_mels)

    peaks = filters.argmax(axis=1)
    assert filters.shape == (n_mels, 201)
    assert filters.dtype == np.float32
    assert filters.min() == 0
    assert not np.signbit(filters).any()  # -0.0 would be other bytes
    assert (np.diff(peaks) >= 0).all()
    assert np.allclose(filters[n_mels // 2 :].sum(axis=1) * 40, 1, atol=0.1)  # bins are 40 Hz apart


def test_a_folder_without_a_model_is_refused_with_its_name(tmp_path):
    with pytest.raises(BadSource, match=r"is no CTranslate2 model folder: model\.bin: No such file"):
        converted(tmp_path)


def test_a_bad_source_is_a_model_error_and_a_value_error():
    assert issubclass(BadSource, ModelError)
    assert issubclass(BadSource, ValueError)


def test_another_format_version_is_refused_with_its_number(tmp_path):
    with pytest.raises(BadSource, match="format version 5; only 6"):
        converted(write_folder(tmp_path, version=5))


def test_a_model_that_is_not_whisper_is_refused(tmp_path):
    with pytest.raises(BadSource, match="holds 'TransformerSpec'"):
        converted(write_folder(tmp_path, kind="TransformerSpec"))


def test_a_truncated_file_is_refused_with_what_it_ends_inside(tmp_path):
    folder = write_folder(tmp_path)
    data = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(data[: data.index(b"decoder/embeddings/weight") + 1000])

    with pytest.raises(BadSource, match="truncated: it ends inside decoder/embeddings/weight"):
        converted(folder)


def test_a_file_that_lacks_its_last_byte_is_refused(tmp_path):
    folder = write_folder(tmp_path)
    data = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(data[:-1])

    with pytest.raises(BadSource, match=f"truncated: it ends after {len(data) - 1} bytes"):
        converted(folder)


def test_a_model_that_lacks_a_tensor_is_refused_with_its_name(tmp_path):
    model = a_model()
    del model[QKV]

    with pytest.raises(BadSource, match=f"lacks {QKV}"):
        converted(write_folder(tmp_path, model))


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(tmp_path):
    model = a_model()
    model[MLP] = model[MLP][:-1]

    with pytest.raises(BadSource, match=r"has shape \(15, 4\), expected \(16, 4\)"):
        converted(write_folder(tmp_path, model))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_number_that_is_not_finite_in_float16_is_refused(tmp_path, value):
    model = a_model()
    model[MLP] = model[MLP].astype(np.float32)
    model[MLP][3, 1] = value

    with pytest.raises(BadSource, match="not finite"):
        converted(write_folder(tmp_path, model))


def test_a_vocabulary_of_another_model_is_refused(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "vocabulary.txt").write_text("\n".join(words(51865)))

    with pytest.raises(BadSource, match=r"does not have <\|endoftext\|> as token 50256"):
        converted(folder)


@pytest.mark.parametrize("text", ["{", "3", '["a", 3]', "[" * 100_000, "\udcff"])
def test_a_vocabulary_that_is_none_is_refused_with_its_path(tmp_path, text):
    folder = write_folder(tmp_path)
    (folder / "vocabulary.json").write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(BadSource, match=r"vocabulary\.json is not a vocabulary"):
        converted(folder)


def test_a_folder_without_a_vocabulary_is_refused(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "vocabulary.txt").unlink()

    with pytest.raises(BadSource, match="has no vocabulary"):
        converted(folder)


@pytest.mark.parametrize("n_vocab", [51864, 100])
def test_measures_no_whisper_model_has_are_refused(tmp_path, n_vocab):
    model = a_model()
    model["decoder/embeddings/weight"] = model["decoder/embeddings/weight"][:n_vocab]
    model["encoder/num_heads"] = np.int16(0)
    folder = write_folder(tmp_path)
    write_model(folder / "model.bin", model)

    with pytest.raises(BadSource, match="100 tokens" if n_vocab == 100 else "measures"):
        converted(folder)


def test_a_length_that_lies_reserves_no_memory(tmp_path):
    folder = write_folder(tmp_path)
    data = (folder / "model.bin").read_bytes()
    at = data.index(b"decoder/embeddings/weight\0") + len("decoder/embeddings/weight\0") + 1
    huge = struct.pack("<IIBI", 2**31 - 1, 1, 1, 2**31 - 1)
    (folder / "model.bin").write_bytes(data[:at] + huge + data[at + len(huge) :])

    tracemalloc.start()
    with pytest.raises(BadSource, match="truncated"):
        converted(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2**20


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder whose model.bin tests may spoil, and its sound bytes."""
    folder = write_folder(tmp_path_factory.mktemp("sound"), a_model(n=2))
    return folder, (folder / "model.bin").read_bytes()


often = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@often
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(sound, where):
    folder, data = sound
    (folder / "model.bin").write_bytes(data[: int(len(data) * where)])

    with pytest.raises(BadSource):
        converted(folder)


@often
@given(data=st.data())
def test_a_garbled_file_is_converted_or_refused_and_nothing_else(sound, data):
    folder, good = sound
    spoilt = bytearray(good)
    weights = good.index(b"decoder/embeddings/weight") + 40  # the long stretch of numbers is the dull part
    outside = [*range(weights), *range(weights + 2 * 2 * 51864, len(good))]
    for _ in range(data.draw(st.integers(1, 8))):
        spoilt[data.draw(st.sampled_from(outside))] = data.draw(st.integers(0, 255))
    (folder / "model.bin").write_bytes(spoilt)

    try:
        size = len(converted(folder))
    except BadSource:
        return

    assert size < 2**21
