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

from dedup_assets.encoder.library import LibraryEncoder
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


def weighted_layers() -> Any:
    made = modules.WeightedLayerPooling(SIZE, num_hidden_layers=2, layer_start=1)
    with torch.no_grad():
        made.layer_weights.copy_(torch.tensor([5.0, -2.0]))
    return made


CHAINS: dict[str, Any] = {
    "dense": lambda: ("mean", [dense(torch.nn.Identity())], {}),
    "dense tanh": lambda: ("cls", [dense(torch.nn.Tanh()), modules.Normalize()], {}),
    "layer norm": lambda: ("mean", [layer_norm()], {}),
    "max": lambda: ("max", [], {}),
    "weighted mean": lambda: ("weightedmean", [modules.Normalize()], {}),
    "root of the length": lambda: ("mean_sqrt_len_tokens", [], {}),
    "two poolings": lambda: (("cls", "mean"), [], {}),
    "prompt": lambda: ("mean", [], PROMPTED),
    "prompt and dense": lambda: ("mean", [dense(torch.nn.Tanh())], PROMPTED),
    "prompt that is not pooled": lambda: ("mean", [], PROMPTED | {"include_prompt": False}),
    "weighted layers": lambda: ("mean", [], {"before": weighted_layers}),
    "convolutions": lambda: ("max", [], {"before": lambda: modules.CNN(SIZE, 8, [1, 3])}),
    "dot product of unit vectors": lambda: ("mean", [modules.Normalize()], {"similarity_fn_name": "dot"}),
}
PROMPTED = {"prompts": {"query": "query: ", "other": "a long passage of something: "}, "default_prompt_name": "query"}
BY_LIBRARY = set(CHAINS) - {"prompt", "dot product of unit vectors"}


def made(folder: Path, transformer: Path, name: str) -> Path:
    pooling, more, options = CHAINS[name]()
    layers = {"config_args": {"output_hidden_states": True}} if name == "weighted layers" else {}
    chain = [modules.Transformer(str(transformer), max_seq_length=24, **layers)]
    chain += [options.pop("before")()] if "before" in options else []
    width = chain[-1].get_embedding_dimension()
    kept = {"include_prompt": options.pop("include_prompt", True)}
    chain += [modules.Pooling(width, pooling_mode=pooling, **kept), *more]
    library.SentenceTransformer(modules=chain, device="cpu", **options).save(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize("name", CHAINS)
def test_vectors_are_those_of_the_library_and_depend_on_their_text_alone(
    name: str, transformer: Path, tmp_path: Path
) -> None:
    folder = made(tmp_path / "model", transformer, name)
    reference = library.SentenceTransformer(str(folder), device="cpu")
    # Convolutions reach into the padding, so that a vector of the library depends on its batch too.
    size = {"batch_size": 1 if name == "convolutions" else 32, "normalize_embeddings": True}
    theirs = reference.encode(TEXTS, **size)
    encoder = load_encoder(locate_model(str(folder)))
    assert isinstance(encoder, LibraryEncoder) == (name in BY_LIBRARY)
    ours = encoder.encode(TEXTS)
    assert ours.vectors.shape == theirs.shape == (len(TEXTS), encoder.dimension)
    assert (ours.vectors * theirs).sum(1).min() >= 0.999
    assert ours.truncated.tolist() == [text.startswith("x x") for text in TEXTS]
    assert encoder.max_length == 24
    for at in (4, 2, 0):
        assert np.array_equal(encoder.encode(TEXTS[at : at + 1]).vectors[0], ours.vectors[at])
    assert np.array_equal(encoder.encode(TEXTS[::-1]).vectors[::-1], ours.vectors)
    # Other prompts, and fewer numbers: as the library has them, and of the text alone as before.
    for prompt, kept in (("other", 5), ("one of mine: ", None), ("", 7)):
        told = {"prompt_name": prompt} if prompt == "other" else {"prompt": prompt}
        if prompt == "other" and "prompt" not in name:
            continue
        theirs = reference.encode(TEXTS, truncate_dim=kept, **told, **size)
        turned = load_encoder(locate_model(str(folder)), prompt=prompt, truncate_dim=kept)
        found = turned.encode(TEXTS)
        assert (found.vectors * theirs).sum(1).min() >= 0.999, (prompt, kept)
        assert np.array_equal(turned.encode(TEXTS[3:4]).vectors[0], found.vectors[3])
        assert np.array_equal(found.unknown, ours.unknown), "a prompt makes no text better known"


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
    ("name", "what"),
    [
        ("dense", "a module Dense"),
        ("prompt that is not pooled", "a pooling without its prompt"),
        ("max", "a pooling"),
        ("weighted layers", "a module WeightedLayerPooling"),
    ],
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
    with pytest.raises(ModelError, match="similarity_fn_name = 'dot': the lengths"):
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


def clip(folder: Path) -> Path:
    """A CLIP of a few letters, as transformers saves one."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *[f"{letter}</w>" for letter in letters], "ab</w>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    tokenizer = CLIPTokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=20
    )
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokens), "max_position_embeddings": 20, "eos_token_id": 1, "initializer_factor": 5.0}
    vision = {"image_size": 32, "patch_size": 16}
    torch.manual_seed(3)
    CLIPModel(CLIPConfig(text_config=shape | text, vision_config=shape | vision, projection_dim=12)).save_pretrained(
        folder
    )
    CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32), tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["CLIPModel", "Transformer"])
def test_the_text_side_of_clip_gives_the_vectors_of_the_library(kind: str, tmp_path: Path) -> None:
    first = getattr(modules, kind)(str(clip(tmp_path / "source")))
    folder = tmp_path / "model"
    library.SentenceTransformer(modules=[first], device="cpu").save(str(folder), create_model_card=False)
    if kind == "CLIPModel":  # as older versions save it
        (folder / "0_CLIPModel").mkdir()
        for file in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
            file.rename(folder / "0_CLIPModel" / file.name)
        chain = json.loads((folder / "modules.json").read_text())
        chain[0]["path"] = "0_CLIPModel"
        (folder / "modules.json").write_text(json.dumps(chain))
    texts = ["a text", "ab ab", "", "x " * 50, "a"]
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
    encoder = load_encoder(locate_model(str(folder)))
    ours = encoder.encode(texts)
    assert (ours.vectors * theirs).sum(1).min() >= 0.999 and ours.vectors.shape == (5, 12)
    assert ours.unknown.tolist() == [0, 0, 1, 0, 0] and ours.truncated.tolist() == [False] * 3 + [True, False]
    assert np.array_equal(encoder.encode(texts[3:4]).vectors[0], ours.vectors[3])
    config = next(folder.rglob("sentence_bert_config.json"))
    config.write_text(config.read_text().replace("get_text_features", "save_pretrained"))
    with pytest.raises(ModelError, match="names the method"):
        load_encoder(locate_model(str(folder)))


def test_weights_that_would_be_random_are_refused(transformer: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = made(tmp_path / "model", transformer, "dense")
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if "layer.1.output.dense.weight" in name)
    save_file({name: value for name, value in weights.items() if name != gone}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="lacks weights"):
        load_encoder(locate_model(str(folder)))


def test_code_that_comes_with_a_model_is_run_where_it_is_asked_for_and_belongs_to_the_fingerprint(
    transformer: Path, tmp_path: Path
) -> None:
    folder = made(tmp_path / "model", transformer, "dense")
    code = folder / "mine.py"
    code.write_text(
        "from sentence_transformers.sentence_transformer.modules import Dense\n"
        "class Mine(Dense):\n    def forward(self, features):\n"
        "        features = super().forward(features)\n"
        "        features['sentence_embedding'] = features['sentence_embedding'].flip(-1)\n"
        "        return features\n"
    )
    plain = load_encoder(locate_model(str(folder))).encode(TEXTS).vectors
    chain = json.loads((folder / "modules.json").read_text())
    chain[2]["type"] = "mine.Mine"
    (folder / "modules.json").write_text(json.dumps(chain))
    with pytest.raises(ModelError, match=r"mine\.Mine.*--trust-remote-code"):
        load_encoder(locate_model(str(folder)))
    location = locate_model(str(folder))
    flipped = load_encoder(location, trusted=True).encode(TEXTS).vectors
    assert np.allclose(flipped, plain[:, ::-1], atol=1e-6)
    code.write_text(code.read_text() + "# changed\n")
    assert locate_model(str(folder)).fingerprint != location.fingerprint

    def refused_as_elsewhere() -> None:
        with pytest.raises(ModelError, match=r"in another repository \(some/where\)"):
            load_encoder(locate_model(str(folder)), trusted=True)

    chain[2]["type"] = "some/where--mine.Mine"
    (folder / "modules.json").write_text(json.dumps(chain))
    refused_as_elsewhere()
    chain[2]["type"] = "mine.Mine"
    (folder / "modules.json").write_text(json.dumps(chain))
    for name, classes in (
        ("tokenizer_config.json", {"AutoTokenizer": [None, "some/where--m.Mine"]}),
        ("tokenizer_config.json", ["some/where--m.Mine", None]),
        ("config.json", {"AutoTokenizer": "some/where--m.Mine"}),
        ("config.json", {"AutoModel": "some/where--m.Mine"}),
    ):
        before = (folder / name).read_text()
        (folder / name).write_text(json.dumps(json.loads(before) | {"auto_map": classes}))
        refused_as_elsewhere()
        (folder / name).write_text(before)
