"""The encoder's path on GPUs, on CPU tensors: device "cpu:0" goes through the same functions as "cuda"."""

from __future__ import annotations

import numpy as np
import pytest

from dedup_assets.encoder import choices as encoder_choices
from dedup_assets.encoder import encoder as module
from dedup_assets.encoder.choices import GPU_BATCH_BYTES, GPU_TOKENS, automatic_precision, gpu_tokens
from dedup_assets.encoder.encoder import Encoder
from dedup_assets.errors import ModelError, NoRoomError
from dedup_assets.settings import Settings
from dedup_assets_tests.benchmarks.encoder import docstrings
from dedup_assets_tests.encoder.test_encoder import tiny  # noqa: F401  # a fixture

torch = pytest.importorskip("torch")


@pytest.fixture
def encoders(tiny, monkeypatch):  # noqa: F811
    """The same weights on the path of CPUs and on that of GPUs, with batches that a CPU does in no time."""
    monkeypatch.setattr(encoder_choices, "GPU_TOKENS", 2048)
    return tuple(Encoder(*tiny(), max_length=64, device=device, precision="float32") for device in ("cpu", "cpu:0"))


@pytest.fixture(scope="module")
def texts():
    return [*docstrings(60), "", "a", "word " * 61, "word " * 62, "word " * 63, "long text " * 3000] * 3


def test_both_paths_give_the_same_vectors(encoders, texts, monkeypatch):
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


def refusing(monkeypatch, encoder, refused):
    """The encoder's batches fail for lack of memory where `refused` says so of their number; gives their shapes."""
    forward, shapes = encoder._unit_vectors, []

    def limited(ids, length, height):
        shapes.append((height, length))
        if refused(len(shapes)):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(ids, length, height)

    monkeypatch.setattr(encoder, "_unit_vectors", limited)
    return shapes


def test_after_a_lack_of_memory_the_vectors_have_the_same_bits(encoders, texts, monkeypatch):
    encoder = encoders[1]
    wanted = encoder.encode(texts).vectors
    shapes = refusing(monkeypatch, encoder, lambda attempt: attempt % 3 == 1)
    np.testing.assert_array_equal(encoder.encode(texts).vectors, wanted)
    assert {height for height, length in shapes if length == 64} == {2048 // 64}, "a shape changed"
    assert len(shapes) > 4


def test_the_shape_of_a_batch_follows_from_the_model_alone(monkeypatch):
    class Config:
        hidden_size, intermediate_size, num_attention_heads = 384, 1536, 12

    small, large, huge = Config(), Config(), Config()
    large.hidden_size, large.intermediate_size, large.num_attention_heads = 1024, 4096, 16
    huge.hidden_size, huge.intermediate_size, huge.num_attention_heads = 4096, 14336, 32
    assert gpu_tokens(small, 256) == GPU_TOKENS
    sizes = [gpu_tokens(*shape) for shape in ((small, 256), (large, 512), (huge, 512), (huge, 32768))]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]
    assert all(size & (size - 1) == 0 for size in sizes)
    assert gpu_tokens(huge, 512) * 4 * (8 * 4096 + 2 * 14336 + 32 * 512) <= GPU_BATCH_BYTES


def test_no_room_for_a_batch_is_said_clearly(encoders, monkeypatch):
    shapes = refusing(monkeypatch, encoders[1], lambda attempt: True)
    with pytest.raises(NoRoomError, match=r"no memory for a batch of .* texts of 8 tokens.*--device cpu"):
        encoders[1].encode(["a"])
    assert len(shapes) == 2, "once more after what was cached is free, and no more"


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_a_model_that_leaves_the_range_of_float16_is_refused(tiny, device, monkeypatch):  # noqa: F811
    monkeypatch.setattr(encoder_choices, "GPU_TOKENS", 512)
    model, tokenizer = tiny()
    with torch.no_grad():
        # Beyond 65,504, as the inner activations of some published models are.
        model.encoder.layer[0].intermediate.dense.bias.fill_(60_000.0)
        model.encoder.layer[0].output.dense.weight.fill_(3.0)
    encoder = Encoder(model, tokenizer, max_length=64, device=device, precision="float16")
    with pytest.raises(ModelError, match=r"no finite vector in float16.*for 2 of 2 texts.*bfloat16.*float32"):
        encoder.encode(["a word", "another"])


def test_on_a_gpu_float16_is_taken_by_itself_and_the_fingerprint_names_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert automatic_precision("cuda") == automatic_precision("cuda:1") == "float16"
    assert automatic_precision("cpu") in ("bfloat16", "float32")
    prints = {Settings(precision=name).fingerprint("vectors") for name in ("float32", "bfloat16", "float16")}
    assert len(prints) == 3


def test_other_errors_are_not_taken_for_a_lack_of_memory(encoders, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("index out of range")

    monkeypatch.setattr(encoders[1], "_unit_vectors", broken)
    with pytest.raises(RuntimeError, match="index out of range"):
        encoders[1].encode(["a"])
