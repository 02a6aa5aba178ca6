"""The encoder: the same vectors as a plain loop, and a text's vector is a function of the text alone."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dedup_assets.compute.precision import native_bfloat16
from dedup_assets.encoder.encoder import Encoder
from dedup_assets.encoder.models import locate_model
from dedup_assets.encoder.parts import load_parts
from dedup_assets.errors import ModelError
from dedup_assets_tests.benchmarks.encoder import docstrings, plain_loop

torch = pytest.importorskip("torch")
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
PRECISIONS = ["float32", *(["bfloat16"] if native_bfloat16("cpu") else [])]


def minilm(**options: object) -> Encoder:
    return Encoder(*load_parts(locate_model(MINILM).folder), **options)


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {precision: minilm(precision=precision) for precision in PRECISIONS}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    # Every class of lengths: empty, one token, just below and at the window, and far beyond it.
    return [*docstrings(50), "", "a", "word " * 253, "word " * 254, "word " * 255, "long text " * 5000]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_vectors_agree_with_a_plain_transformers_loop(encoders, texts, precision):
    model, tokenizer = load_parts(locate_model(MINILM).folder)
    expected = plain_loop(model.eval(), tokenizer, texts, 256)
    found = encoders[precision].encode(texts)
    assert found.vectors.dtype == np.float32
    assert found.vectors.shape == (len(texts), encoders[precision].dimension) == (len(texts), 384)
    # bfloat16 has 8 bits of precision: at worst 0.9995 of cosine; float32 differs in the order of sums only.
    assert (found.vectors * expected).sum(axis=1).min() >= (0.9995 if precision == "bfloat16" else 0.999999)
    np.testing.assert_allclose(np.linalg.norm(found.vectors.astype(np.float64), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_vector_does_not_depend_on_company_or_order(encoders, texts, precision):
    encoder = encoders[precision]
    together = encoder.encode(texts).vectors
    rng = np.random.default_rng(5)
    for size in (1, 7, len(texts)):
        rows = rng.permutation(len(texts))[:size]
        np.testing.assert_array_equal(encoder.encode([texts[i] for i in rows]).vectors, together[rows])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("made_with", "used_with"), [(1, 2), (2, 1)])
def test_a_vector_does_not_depend_on_batch_size_or_threads(encoders, texts, threads, precision, made_with, used_with):
    rows = list(range(0, len(texts), 8))
    some = [texts[i] for i in rows]
    together = encoders[precision].encode(texts).vectors[rows]
    threads(made_with)
    other = minilm(precision=precision, batch_size=3)
    threads(used_with)
    np.testing.assert_array_equal(other.encode(some).vectors, together)
    assert torch.get_num_threads() == used_with


def test_no_texts_and_empty_texts(encoders):
    encoder = encoders["float32"]
    assert encoder.encode([]).vectors.shape == (0, 384)
    found = encoder.encode(["", "   "])
    assert found.tokens.tolist() == [2, 2] and np.isfinite(found.vectors).all()
    np.testing.assert_array_equal(found.vectors[0], found.vectors[1])


@pytest.fixture(scope="module")
def tiny():
    """Model and tokenizer: random weights, 32 dimensions, window of 64."""
    from transformers import AutoModel, BertConfig

    _, tokenizer = load_parts(locate_model(MINILM).folder)

    def make():
        torch.manual_seed(3)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        return AutoModel.from_config(config), tokenizer

    return make


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_takes_the_right_tokens_whatever_the_padding(tiny, pooling):
    model, tokenizer = tiny()
    texts = ["", "a", "several words here", "word " * 30, "word " * 100]
    found = Encoder(model, tokenizer, pooling=pooling, max_length=64, precision="float32").encode(texts)
    reference = tiny()[0].eval()
    for text, vector in zip(texts, found.vectors, strict=True):
        batch = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            hidden = reference(**batch).last_hidden_state[0]
        expected = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling].numpy()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"max_length": 65}, "only 64 positions"),
        ({"max_length": 2}, "special tokens"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_arguments_are_refused_with_what_was_expected(tiny, options, complaint):
    with pytest.raises(ModelError, match=complaint):
        Encoder(*tiny(), **{"max_length": 64, **options})


def test_concurrent_callers_get_the_same_vectors(tiny, texts):
    encoder = Encoder(*tiny(), max_length=64)
    some = texts[:40]
    expected = encoder.encode(some).vectors
    found: list[np.ndarray] = []
    callers = [threading.Thread(target=lambda: found.append(encoder.encode(some).vectors)) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 3
    for vectors in found:
        np.testing.assert_array_equal(vectors, expected)


def test_texts_beyond_the_window_are_reported(tiny, texts):
    model, tokenizer = tiny()
    found = Encoder(model, tokenizer, max_length=64).encode(texts)
    lengths = np.array([len(row) for row in tokenizer(texts, truncation=False)["input_ids"]])
    np.testing.assert_array_equal(found.truncated, lengths > 64)
    np.testing.assert_array_equal(found.tokens, np.minimum(lengths, 64))
    assert found.truncated.any() and not found.truncated.all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_on_a_gpu_a_vector_does_not_depend_on_company(texts):
    encoder = minilm(device="cuda")
    together = encoder.encode(texts).vectors
    rows = np.random.default_rng(5).permutation(len(texts))[:30]
    np.testing.assert_array_equal(encoder.encode([texts[i] for i in rows]).vectors, together[rows])
    assert (minilm(precision="float32").encode(texts).vectors * together).sum(axis=1).min() >= 0.9995
