"""The encoder's path on GPUs, on CPU tensors: device "cpu:0" goes through the same functions as "cuda"."""

from __future__ import annotations

import numpy as np
import pytest

from dedup_assets.compute import encoder as module
from dedup_assets.compute.encoder import Encoder
from dedup_assets.errors import ModelError
from dedup_assets_tests.benchmarks.encoder import docstrings
from dedup_assets_tests.compute.test_encoder import tiny  # noqa: F401  # a fixture

torch = pytest.importorskip("torch")


@pytest.fixture
def encoders(tiny):  # noqa: F811
    """The same weights on the path of CPUs and on that of GPUs."""
    return tuple(Encoder(*tiny(), max_length=64, device=device, precision="float32") for device in ("cpu", "cpu:0"))


@pytest.fixture(scope="module")
def texts():
    return [*docstrings(60), "", "a", "word " * 61, "word " * 62, "word " * 63, "long text " * 3000] * 3


def test_both_paths_give_the_same_vectors(encoders, texts, monkeypatch):
    monkeypatch.setattr(module, "GPU_TOKENS", 1024)
    monkeypatch.setattr(module, "TOKENIZE_CHUNK", 40)  # many chunks: tokenised ahead while batches run
    host, device = (encoder.encode(texts) for encoder in encoders)
    np.testing.assert_array_equal(device.tokens, host.tokens)
    np.testing.assert_array_equal(device.truncated, host.truncated)
    np.testing.assert_allclose(device.vectors, host.vectors, atol=1e-6)


def test_on_the_path_of_gpus_too_company_and_order_do_not_matter(encoders, texts):
    encoder = encoders[1]
    together = encoder.encode(texts).vectors
    rows = np.random.default_rng(5).permutation(len(texts))[:30]
    np.testing.assert_array_equal(encoder.encode([texts[i] for i in rows]).vectors, together[rows])
    assert len(encoder.encode([]).vectors) == 0


def test_batches_are_as_small_as_asked_for(tiny, texts, monkeypatch):  # noqa: F811
    encoder = Encoder(*tiny(), max_length=64, device="cpu:0", batch_size=7)
    sizes, launched = [], encoder._launched
    monkeypatch.setattr(encoder, "_launched", lambda ids, step: sizes.append(len(ids)) or launched(ids, step))
    encoder.encode(texts)
    assert max(sizes) == 7 and sum(sizes) == len(texts)


def test_without_room_batches_are_halved_and_the_vectors_stay(encoders, texts, monkeypatch):
    host, encoder = encoders
    wanted = host.encode(texts).vectors
    forward, tried = encoder._unit_vectors, []

    def limited(ids, length, height):
        tried.append(length * height)
        if tried[-1] > 2048:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(ids, length, height)

    monkeypatch.setattr(encoder, "_unit_vectors", limited)
    np.testing.assert_allclose(encoder.encode(texts).vectors, wanted, atol=1e-6)
    assert max(tried) > 2048 and encoder._tokens == 2048
    failures = sum(size > 2048 for size in tried)
    encoder.encode(texts)
    assert sum(size > 2048 for size in tried) == failures, "what was learnt is kept"


def test_no_room_for_the_smallest_batch_is_said_clearly(encoders, monkeypatch):
    def no_room(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(encoders[1], "_unit_vectors", no_room)
    with pytest.raises(ModelError, match=r"no memory for a batch of .* texts of 8 tokens.*device 'cpu'"):
        encoders[1].encode(["a"])


def test_other_errors_are_not_taken_for_a_lack_of_memory(encoders, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("index out of range")

    monkeypatch.setattr(encoders[1], "_unit_vectors", broken)
    with pytest.raises(RuntimeError, match="index out of range"):
        encoders[1].encode(["a"])
