"""`static:MODEL` is made once from its transformer, kept in the cache, and known by what it is made from."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dedup_assets as da
from dedup_assets.encoder import distilled
from dedup_assets.encoder.models import load_encoder, locate_model
from dedup_assets.encoder.parts import load_parts
from dedup_assets.encoder.static import StaticEncoder
from dedup_assets.errors import DedupError, ModelError
from dedup_assets_tests.encoder.tiny_bert import saved

SIZE = 32


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of `SIZE` dimensions with a vocabulary of a few hundred tokens."""
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("source")
    whole = (Path(locate_model("all-MiniLM-L6-v2").folder) / "vocab.txt").read_text().splitlines()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *whole[999:1400], *whole[2000:2600]]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    return saved(folder, tokenizer, 5, num_hidden_layers=1, initializer_range=0.5)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dedup-assets" / "static"


def encoder_of(name: str, **options: Any) -> StaticEncoder:
    encoder = load_encoder(locate_model(name), **options)
    assert isinstance(encoder, StaticEncoder)
    return encoder


def test_a_made_model_has_the_vectors_of_its_transformer(source: Path, cache: Path) -> None:
    """What model2vec does under the transformers that is installed: mean of [CLS] token [SEP], centred and turned."""
    import torch

    encoder = encoder_of(f"static:{source}", max_length=100)
    model, tokenizer = load_parts(str(source))
    tokens = [t for t in encoder._tokenizer.get_vocab() if t.isalpha() and t in tokenizer.get_vocab()]
    assert len(tokens) > 500
    with torch.inference_mode():
        ids = [[tokenizer.cls_token_id, tokenizer.get_vocab()[t], tokenizer.sep_token_id] for t in tokens]
        theirs = model(torch.tensor(ids)).last_hidden_state.mean(1).double().numpy()
    ours = encoder._table.of(np.array([encoder._tokenizer.token_to_id(t) for t in tokens])).astype(np.float64)
    # Distances between tokens survive centring and turning; weights only scale a token's own vector, about the centre.
    ranks = np.array([encoder._tokenizer.token_to_id(t) for t in tokens])
    share = 1 / np.arange(2, encoder._tokenizer.get_vocab_size() + 2)
    weights = 1e-4 / (1e-4 + share / share.sum())
    ours /= weights[ranks][:, None]
    pairs = np.random.default_rng(1).integers(0, len(tokens), (400, 2))
    found = np.linalg.norm(ours[pairs[:, 0]] - ours[pairs[:, 1]], axis=1)
    expected = np.linalg.norm(theirs[pairs[:, 0]] - theirs[pairs[:, 1]], axis=1)
    assert np.allclose(found, expected, rtol=0.01, atol=0.02)


def test_it_is_made_once_and_known_by_what_it_is_made_from(
    source: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = locate_model(f"static:{source}")
    assert not cache.exists()
    assert location.origin == "distilled" and location.fingerprint != locate_model(str(source)).fingerprint
    first = encoder_of(f"static:{source}").encode(["the second"]).vectors
    assert [path.name for path in cache.iterdir()] == [location.fingerprint]
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    monkeypatch.setattr(distilled, "_make", lambda *_: pytest.fail("made again"))
    assert locate_model(f"static:{copy}").fingerprint == location.fingerprint
    assert np.array_equal(encoder_of(f"static:{copy}", max_length=40).encode(["the second"]).vectors, first)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.5}))
    assert locate_model(f"static:{copy}").fingerprint != location.fingerprint


def test_made_again_it_is_the_same(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = ["the second of these", "another one", "very long words of another kind"]
    first = encoder_of(f"static:{source}", max_length=41).encode(texts).vectors
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    again = encoder_of(f"static:{source}", max_length=42).encode(texts).vectors
    assert (tmp_path / "other").is_dir()
    assert (first * again).sum(1).min() >= 1 - 1e-5


def test_what_was_changed_in_the_cache_is_not_run(source: Path, cache: Path) -> None:
    encoder_of(f"static:{source}")
    table = next(cache.glob("*/model.safetensors"))
    table.write_bytes(table.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="not as it was when static:"):
        encoder_of(f"static:{source}")


def test_without_the_extra_it_says_what_to_install(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(("model2vec.distill", "skeletoken"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "skeletoken", None)
    with pytest.raises(ModelError, match=r"skeletoken.*pip install 'dedup-assets\[distill\]'"):
        encoder_of(f"static:{source}", max_length=43)
    assert not list(cache.glob("*"))


def test_what_cannot_be_made_is_refused_by_name(source: Path, cache: Path, tmp_path: Path) -> None:
    encoder_of(f"static:{source}")
    made = next(cache.iterdir())
    for name in (f"static:{made}", f"static:static:{source}"):
        with pytest.raises(ModelError, match="a static model already"):
            locate_model(name)
    dense = Path(shutil.copytree(source, tmp_path / "dense"))
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in ("Transformer", "Dense")]
    (dense / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="Dense"):
        encoder_of(f"static:{dense}")
    with pytest.raises(ModelError, match="no/such-model"):
        locate_model("static:no/such-model")


def test_a_corpus_is_curated_with_it_and_held_to_it(source: Path, cache: Path, tmp_path: Path) -> None:
    texts = ["the second of these", "second the of these", "very long words", "ሰላም ሰላም", "ሰላም", "the second of these"]
    shard = tmp_path / "shard.jsonl"
    shard.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(texts)))
    name = f"static:{source}"
    curation = da.curate(str(shard), workspace=tmp_path / "ws", model=name, threshold=0.99)
    # The same words are the same vector; what has no known token is compared by its characters only.
    assert sorted(row["id"] for row in curation.kept) == ["0", "2", "3", "4"]
    assert {row["kind"] for row in curation.removed} == {"exact", "semantic"}
    shutil.rmtree(cache)  # made again when it is needed again
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"id": "x", "text": "these the of second"}) + "\n")
    assert da.curate(str(more), workspace=tmp_path / "ws").summary["kept"] == 4
    with pytest.raises(DedupError, match="precision is float32"):
        da.curate(str(shard), workspace=tmp_path / "ws2", model=name, precision="bfloat16")
