"""A model of whisper.cpp as CTranslate2 has it: against the very folder that the weights were made from."""

import json

import pytest

from whisperd import models
from whisperd.ct2 import Weights, open_weights
from whisperd.engine import ct2_model, ggml_file
from whisperd.engine.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def original():
    return models._package(models._WHEEL) / "model"


@pytest.fixture(scope="module")
def vocabulary(weights):
    model = ggml_file.read(str(weights / "ggml-tiny.en.bin"))
    return Vocabulary(model.tokens, model.size.n_vocab)


@pytest.fixture(scope="module")
def made(weights, vocabulary, tmp_path_factory):
    """A folder of what is made of the ggml file."""
    folder = tmp_path_factory.mktemp("ct2")
    model = ggml_file.read(str(weights / "ggml-tiny.en.bin"))
    for name, content in ct2_model.files(model, vocabulary).items():
        (folder / name).write_bytes(content)
    return folder


def test_every_number_is_the_one_it_came_from(original, made):
    with open_weights(original) as one, open_weights(made) as other:
        theirs, ours = Weights(one), Weights(other)
        names = sorted(theirs._variables)

        assert sorted(ours._variables) == names
        for name in names:
            assert ours.shape(name) == theirs.shape(name), name
            if ours.shape(name):
                assert (ours.floats(name) == theirs.floats(name)).all(), name
            else:
                assert ours.integer(name) == theirs.integer(name), name


def test_the_configuration_is_the_same_but_for_languages_that_it_left_out(original, made):
    theirs, ours = (json.loads((folder / "config.json").read_bytes()) for folder in (original, made))

    assert ours.keys() == theirs.keys()
    assert {**ours, "lang_ids": 0} == {**theirs, "lang_ids": 0}
    assert set(theirs["lang_ids"]) <= set(ours["lang_ids"])


def test_the_vocabulary_is_the_same(original, made):
    theirs = (original / "vocabulary.txt").read_text().rstrip("\n").split("\n")
    ours = json.loads((made / "vocabulary.json").read_bytes())

    renamed = {"<|nospeech|>": "<|nocaptions|>", "<|he|>": "<|iw|>"}
    assert [renamed.get(word, word) for word in ours] == theirs


@pytest.mark.parametrize(
    "text", [" And so, my fellow Americans", " don't", " naïve café 42", " 你好", "\n\n a"]
)
def test_tokens_of_a_text_are_the_text(vocabulary, text):
    tokens = vocabulary.tokens(text)

    assert vocabulary.text(tokens).decode() == text
    assert len(tokens) < len(text.encode())


def test_common_words_are_one_token_each(vocabulary):
    assert len(vocabulary.tokens(" ask what you can do for your country")) == 8


@pytest.mark.parametrize(
    ("n_vocab", "end", "no_times", "languages"),
    [(51_864, 50_256, 50_362, 1), (51_865, 50_257, 50_363, 99), (51_866, 50_257, 50_364, 100)],
)
def test_special_tokens_stand_where_openai_put_them(n_vocab, end, no_times, languages):
    words = Vocabulary([bytes([n % 256]) for n in range(50_257)], n_vocab)

    assert (words.end, words.id("notimestamps"), len(words.languages)) == (end, no_times, languages)
    assert words.first_time + 1501 == n_vocab


def test_a_distilled_model_has_not_the_heads_of_the_one_with_as_many_layers_and_tokens():
    """distil-small.en had those of tiny.en, and times of words by chance."""
    tiny = ggml_file.Size(51_864, 1500, 384, 6, 4, 448, 384, 6, 4, 80)
    distilled = tiny._replace(
        n_audio_state=768, n_audio_head=12, n_audio_layer=12, n_text_state=768, n_text_head=12
    )

    assert ct2_model._heads(tiny)[:2] == [[1, 0], [2, 0]]
    assert ct2_model._heads(distilled) == [[layer, head] for layer in (2, 3) for head in range(12)]


def test_a_quantised_model_is_known_by_its_head(tmp_path, weights):
    head = (weights / "ggml-tiny.en.bin").read_bytes()[:48]
    quantised = tmp_path / "ggml-q8.bin"
    quantised.write_bytes(head[:44] + (7).to_bytes(4, "little"))

    assert [ggml_file.quantised(str(path)) for path in (weights / "ggml-tiny.en.bin", quantised)] == [
        False,
        True,
    ]


@pytest.mark.parametrize("kept", [0, 100, 100_000, 30_000_000])
def test_a_truncated_model_is_refused(tmp_path, weights, kept):
    path = tmp_path / "ggml-short.bin"
    path.write_bytes((weights / "ggml-tiny.en.bin").read_bytes()[:kept])

    with pytest.raises(ggml_file.ModelBroken):
        ggml_file.read(str(path))


def test_a_model_without_one_of_its_tensors_is_refused(weights, vocabulary):
    model = ggml_file.read(str(weights / "ggml-tiny.en.bin"))
    del model.tensors["encoder.ln_post.bias"]

    with pytest.raises(ggml_file.ModelBroken, match=r"encoder\.ln_post\.bias"):
        ct2_model.files(model, vocabulary)


def test_a_text_of_letters_without_end_takes_no_time(vocabulary):
    """4,000 letters of four bytes each: what a prompt may have."""
    text = "\U00010400" * 4000

    assert vocabulary.text(vocabulary.tokens(text)).decode() == text
