"""Packed models: hidden states are those that transformers gives for each text by itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from dedup_assets.encoder import packed_bert
from dedup_assets.encoder.batching import packed_batches
from dedup_assets.encoder.encoder import Encoder
from dedup_assets.encoder.models import locate_model
from dedup_assets.encoder.packed_bert import PackedBert
from dedup_assets.encoder.parts import load_parts

torch = pytest.importorskip("torch")
SHAPE = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
}


def make(kind: str, **options: object):
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(3)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **SHAPE, **options)).eval()
    with torch.no_grad():  # freshly made biases are zero, which would hide one that is left out
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.1)
    return model


@pytest.mark.parametrize("prepacked", [True, False])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bert", {}),
        ("bert", {"hidden_act": "relu"}),
        ("bert", {"hidden_act": "gelu_new"}),
        ("roberta", {"pad_token_id": 1}),
        ("xlm-roberta", {"pad_token_id": 1}),
    ],
)
def test_hidden_states_are_those_of_each_text_by_itself(kind, options, prepacked, monkeypatch):
    if not prepacked:  # as where torch has no oneDNN
        monkeypatch.setattr(packed_bert, "_prepacks", lambda weight: False)
    model = make(kind, **options)
    assert PackedBert.fits(model)
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 100, n) for n in (2, 7, 7, 7, 31, 64, 70, 3)]
    packed = PackedBert(model, 96)
    for batch in packed_batches(np.array([len(text) for text in texts]), 96):
        laid = np.concatenate([texts[text] for text in batch.texts])
        ids = np.concatenate([laid, np.ones(batch.height - len(laid), np.int64)])
        with torch.inference_mode():
            found = packed.hidden(torch.from_numpy(ids), batch.runs)
            start = 0
            for text in batch.texts:
                expected = model(input_ids=torch.from_numpy(texts[text])[None]).last_hidden_state[0]
                np.testing.assert_allclose(found[start : start + len(expected)], expected, atol=2e-5)
                start += len(expected)


def test_what_is_computed_otherwise_is_not_taken_for_a_bert():
    assert not PackedBert.fits(make("bert", is_decoder=True))
    assert not PackedBert.fits(make("mpnet"))
    assert not PackedBert.fits(SimpleNamespace(config=make("albert").config))


@pytest.mark.parametrize("kind", ["mpnet", "distilbert"])
def test_models_that_packing_does_not_fit_keep_their_vectors_in_any_company(kind):
    _, tokenizer = load_parts(locate_model("sentence-transformers/all-MiniLM-L6-v2").folder)
    model = make(kind) if kind == "mpnet" else make(kind, dim=32, hidden_dim=64, n_layers=2, n_heads=4)
    model.resize_token_embeddings(len(tokenizer))
    encoder = Encoder(model, tokenizer, max_length=64, precision="float32")
    texts = ["", "a", *(f"some words, {n} of them: " + "word " * n for n in range(0, 80, 3))]
    together = encoder.encode(texts).vectors
    rows = np.random.default_rng(5).permutation(len(texts))[:9]
    np.testing.assert_array_equal(encoder.encode([texts[i] for i in rows]).vectors, together[rows])
    for text, vector in zip(texts, together, strict=True):
        with torch.inference_mode():
            ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")["input_ids"]
            expected = model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
