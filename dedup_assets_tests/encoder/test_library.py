"""Folders with more modules, other poolings or a prompt give the vectors of `SentenceTransformer.encode`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from dedup_assets.encoder.models import load_encoder, locate_model
from dedup_assets.errors import ModelError
from dedup_assets_tests.encoder.tiny_bert import saved

library = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.models")

TEXTS = ["a text", "another one, longer than the first", "", "日本 ሰላም", "x " * 200, "Straße 5", "one more of them"]
SIZE = 32


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformer")
    tokenizer = AutoTokenizer.from_pretrained(locate_model("all-MiniLM-L6-v2").folder)
    return saved(folder, tokenizer, 2, initializer_range=0.3)


def layer_norm() -> Any:
    made = modules.LayerNorm(SIZE)
    with torch.no_grad():
        made.norm.weight.copy_(torch.linspace(-2, 3, SIZE))
        made.norm.bias.copy_(torch.linspace(1, -1, SIZE))
    return made


def dense(activation: Any) -> Any:
    torch.manual_seed(7)
    return modules.Dense(SIZE, 12, activation_function=activation)


CHAINS: dict[str, Any] = {
    "dense": lambda: ("mean", [dense(torch.nn.Identity())], {}),
    "dense tanh": lambda: ("cls", [dense(torch.nn.Tanh()), modules.Normalize()], {}),
    "layer norm": lambda: ("mean", [layer_norm()], {}),
    "max": lambda: ("max", [], {}),
    "weighted mean": lambda: ("weightedmean", [modules.Normalize()], {}),
    "root of the length": lambda: ("mean_sqrt_len_tokens", [], {}),
    "two poolings": lambda: (("cls", "mean"), [], {}),
    "prompt": lambda: ("mean", [], {"prompts": {"query": "query: "}, "default_prompt_name": "query"}),
}


def made(folder: Path, transformer: Path, name: str) -> Path:
    pooling, more, options = CHAINS[name]()
    first = modules.Transformer(str(transformer), max_seq_length=24)
    chain = [first, modules.Pooling(SIZE, pooling_mode=pooling), *more]
    library.SentenceTransformer(modules=chain, device="cpu", **options).save(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize("name", CHAINS)
def test_vectors_are_those_of_the_library_and_depend_on_their_text_alone(
    name: str, transformer: Path, tmp_path: Path
) -> None:
    folder = made(tmp_path / "model", transformer, name)
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    encoder = load_encoder(locate_model(str(folder)))
    ours = encoder.encode(TEXTS)
    assert ours.vectors.shape == theirs.shape == (len(TEXTS), encoder.dimension)
    assert (ours.vectors * theirs).sum(1).min() >= 0.999
    assert ours.truncated.tolist() == [text.startswith("x x") for text in TEXTS]
    assert encoder.max_length == 24
    for at in (4, 2, 0):
        assert np.array_equal(encoder.encode(TEXTS[at : at + 1]).vectors[0], ours.vectors[at])
    assert np.array_equal(encoder.encode(TEXTS[::-1]).vectors[::-1], ours.vectors)


def test_all_that_decides_is_in_the_fingerprint(transformer: Path, tmp_path: Path) -> None:
    folder = made(tmp_path / "model", transformer, "dense")
    before = locate_model(str(folder)).fingerprint
    weights = next(folder.glob("2_Dense/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x3f")
    assert locate_model(str(folder)).fingerprint != before
    folder = made(tmp_path / "prompt", transformer, "prompt")
    before = locate_model(str(folder)).fingerprint
    told = json.loads((folder / "config_sentence_transformers.json").read_text())
    told["prompts"] = {"query": "passage: "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))
    assert locate_model(str(folder)).fingerprint != before


@pytest.mark.parametrize(
    ("name", "what"), [("dense", "a module Dense"), ("prompt", "the prompt 'query'"), ("max", "a pooling")]
)
def test_without_the_library_it_is_refused_by_name(
    name: str, what: str, transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "model", transformer, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=rf"{what}.*pip install 'dedup-assets\[sentence-transformers\]'"):
        load_encoder(locate_model(str(folder)), max_length=20)  # not one that is loaded already


def test_what_the_library_would_run_otherwise_or_import_is_refused(transformer: Path, tmp_path: Path) -> None:
    folder = made(tmp_path / "model", transformer, "dense")
    with pytest.raises(ModelError, match="float32 alone; bfloat16"):
        load_encoder(locate_model(str(folder)), precision="bfloat16")
    with pytest.raises(ModelError, match="reads only 24 tokens"):
        load_encoder(locate_model(str(folder)), max_length=30)
    told = json.loads((folder / "config_sentence_transformers.json").read_text())
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told | {"similarity_fn_name": "dot"}))
    with pytest.raises(ModelError, match="similarity_fn_name = 'dot'"):
        load_encoder(locate_model(str(folder)))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))
    config = folder / "2_Dense" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"activation_function": "evil.Module"}))
    with pytest.raises(ModelError, match=r"evil\.Module"):
        load_encoder(locate_model(str(folder)))
    assert "evil" not in sys.modules
    chain = json.loads((folder / "modules.json").read_text())
    chain[2]["type"] = "elsewhere.Dense"
    (folder / "modules.json").write_text(json.dumps(chain))
    with pytest.raises(ModelError, match=r"elsewhere\.Dense"):
        load_encoder(locate_model(str(folder)))
