"""A model folder is run as its files say, or refused in a line that names what is wrong; never run otherwise."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2Model, RobertaConfig, RobertaModel

import dedup_assets as da
from dedup_assets.corpus.output import read_manifest
from dedup_assets.encoder.models import load_encoder, locate_model
from dedup_assets.encoder.parts import load_parts
from dedup_assets.encoder.probe import PROBE_TEXTS, hold_to_probe, probe_of
from dedup_assets.encoder.window import WindowTokenizer
from dedup_assets.errors import DedupError, ModelError
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.encoder.tiny_bert import tiny_bert

MINILM = "all-MiniLM-L6-v2"
TEXTS = ["a text", "another one, longer than the first", "日本 ሰላም", "x " * 200]


def sentence_transformer(folder: Path, model: Any, tokenizer: Any, **pooling: Any) -> Path:
    """A folder as sentence-transformers saves one."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    named = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    put(folder / "modules.json", named)
    put(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    told = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True, **pooling}
    put(folder / "1_Pooling" / "config.json", told)
    put(folder / "config_sentence_transformers.json", {"__version__": {}, "prompts": {}, "default_prompt_name": None})
    return folder


def put(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def change(path: Path, **values: Any) -> None:
    put(path, json.loads(path.read_text()) | values)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(locate_model(MINILM).folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return sentence_transformer(tmp_path_factory.mktemp("made") / "bert", tiny_bert(tokenizer, 1), tokenizer)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def vectors(folder: Path, **options: Any) -> np.ndarray:
    return load_encoder(locate_model(str(folder)), precision="float32", **options).encode(TEXTS).vectors


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        vectors(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what sentence-transformers adds -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Router", "WordWeights"])
def test_a_module_that_is_not_run_refuses_the_model_by_name(folder: Path, kind: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"idx": 2, "name": "2", "path": "2_More", "type": f"sentence_transformers.models.{kind}"})
    put(folder / "modules.json", modules)
    assert f"a module {kind}" in refused(folder) and "--embedding-column" in refused(folder)


@pytest.mark.parametrize("kind", ["Dense", "LayerNorm", "WeightedLayerPooling", "CNN"])
def test_a_module_whose_files_are_missing_is_not_left_out(folder: Path, kind: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"idx": 2, "name": "2", "path": "2_More", "type": f"sentence_transformers.models.{kind}"})
    put(folder / "modules.json", modules)
    assert "sentence-transformers" in refused(folder)


def test_a_default_prompt_stands_before_every_text(folder: Path) -> None:
    plain = load_encoder(locate_model(str(folder)), precision="float32")
    expected = plain.encode([f"query: {text}" for text in TEXTS]).vectors
    prompts = folder / "config_sentence_transformers.json"
    change(prompts, prompts={"query": "query: ", "other": "x", "x": "x"}, default_prompt_name="query")
    assert (vectors(folder) * expected).sum(1).min() > 0.9999
    assert (vectors(folder, prompt="") == plain.encode(TEXTS).vectors).all()
    assert (vectors(folder, prompt="x") == plain.encode([f"x{text}" for text in TEXTS]).vectors).all(), (
        "a prompt by its name"
    )
    assert "has no prompt 'qurey'. Its prompts: other, query, x." in refused(folder, prompt="qurey")
    for value in ({"query": 7}, {}, [], "x"):
        change(prompts, prompts=value, default_prompt_name="query")
        assert "config_sentence_transformers.json" in refused(folder)
    change(prompts, prompts={}, default_prompt_name=7)
    assert "default_prompt_name = 7" in refused(folder)


def test_lower_case_and_other_similarities_are_refused_by_name(folder: Path) -> None:
    prompts = folder / "config_sentence_transformers.json"
    change(prompts, prompts={"query": ""}, default_prompt_name="query")
    vectors(folder)
    change(prompts, default_prompt_name=None, similarity_fn_name="euclidean")
    assert "similarity_fn_name = 'euclidean'" in refused(folder)
    change(prompts, similarity_fn_name="cosine")
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    assert "do_lower_case = True" in refused(folder)


FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json")
VALUES = [None, True, False, 0, 1, 7, "x", "", "cls", [], ["a"], {}, {"a": 1}, 10**6]


def changed_folders(folder: Path, rng: random.Random, count: int) -> Iterator[tuple[str, str, Any]]:
    """The folder with one key of one file changed, left out or added, in place, one after the other."""
    for _ in range(count):
        path = folder / rng.choice([*FILES, *FILES, "tokenizer_config.json", "config.json"])
        before = path.read_text()
        told = json.loads(before)
        entry = rng.choice(told) if isinstance(told, list) else told
        key = rng.choice([*entry, "a_new_key"])
        value = rng.choice([*VALUES, "left out"])
        if value == "left out":
            entry.pop(key, None)
        else:
            entry[key] = value
        put(path, told)
        yield path.name, key, value
        path.write_text(before)


def test_a_changed_key_is_obeyed_or_refused_and_never_passed_over(folder: Path, tmp_path: Path) -> None:
    """What is accepted with other vectors was obeyed: only the window, the pooling and the model itself do that."""
    expected = vectors(folder)
    outcomes = {"same": 0, "refused": 0, "obeyed": 0}
    for number, (name, key, value) in enumerate(changed_folders(folder, random.Random(3), 150)):
        copy = Path(shutil.copytree(folder, tmp_path / str(number)))
        try:
            found = vectors(copy)
        except ModelError as problem:
            assert "\n" not in str(problem), (name, key, value)
            outcomes["refused"] += 1
        else:
            same = found.shape == expected.shape and (found == expected).all()
            outcomes["same" if same else "obeyed"] += 1
            if not same and name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
                assert key in ("max_seq_length", "pooling_mode", "pooling_mode_cls_token"), (name, key, value)
        shutil.rmtree(copy)
    assert outcomes["refused"] > 50 and outcomes["same"] > 20


# -- weights -----------------------------------------------------------------------------------------


def rename(folder: Path, how: Any) -> None:
    path = folder / "model.safetensors"
    weights = {how(name): value.clone() for name, value in load_file(path).items()}
    save_file({name: value for name, value in weights.items() if name}, path, {"format": "pt"})


def test_missing_weights_are_named_and_those_that_reach_no_vector_are_not_needed(folder: Path) -> None:
    expected = vectors(folder)
    rename(folder, lambda name: "" if name.startswith("pooler") else name)
    assert (vectors(folder) == expected).all(), "the pooler is not used"
    rename(folder, lambda name: "" if "layer.1.output.dense.weight" in name else name)
    assert "lacks weights" in refused(folder) and "encoder.layer.1.output.dense.weight" in refused(folder)


def test_weights_under_another_prefix_and_of_other_numbers_of_layers_are_refused(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    rename(other, lambda name: f"student.{name}")
    assert "lacks weights" in refused(other)
    for layers, says in ((4, "lacks weights"), (1, "weights of layers that its configuration does not name")):
        change(folder / "config.json", num_hidden_layers=layers)
        assert says in refused(folder)


# -- what does not fit together ----------------------------------------------------------------------


def test_other_families_run_or_are_refused_in_a_line(tmp_path: Path, tokenizer: Any) -> None:
    torch.manual_seed(2)
    gpt = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=40)
    found = vectors(sentence_transformer(tmp_path / "gpt", GPT2Model(gpt), tokenizer))
    assert found.shape == (len(TEXTS), 32)
    roberta = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40,
    )  # fmt: skip
    place = sentence_transformer(tmp_path / "roberta", RobertaModel(roberta), tokenizer)
    vectors(place)
    change(place / "sentence_bert_config.json", max_seq_length=60)
    vectors(place)
    assert "fails on a text of 40 tokens or less: IndexError" in refused(place, max_length=40)


def test_a_vocabulary_larger_than_the_table_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "word_embeddings" in name)
    weights[name] = weights[name][:1_000].clone()
    save_file(weights, path, {"format": "pt"})
    change(folder / "config.json", vocab_size=1_000)
    assert "knows 30522 tokens, and the model has vectors for 1000" in refused(folder)


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import T5Config, T5Model

    config = T5Config(vocab_size=len(tokenizer), d_model=32, num_layers=1, num_heads=2, d_kv=16, d_ff=32)
    T5Model(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "encoder with a decoder" in refused(tmp_path)


def test_code_adapters_and_missing_tokenizers_are_refused_by_name(folder: Path) -> None:
    change(folder / "config.json", auto_map={"AutoModel": "modeling.Mine"})
    assert "AutoModel in auto_map" in refused(folder)
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Mine"})
    vectors(folder)
    put(folder / "adapter_config.json", {"peft_type": "LORA"})
    assert "adds an adapter" in refused(folder)
    (folder / "adapter_config.json").unlink()
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    assert "has no tokenizer" in refused(folder)


def test_a_model_of_images_with_a_tokenizer_beside_it_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32)
    ViTModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "no vectors of tokens" in refused(tmp_path)


def test_pooling_in_a_folder_of_any_name_belongs_to_the_model(folder: Path) -> None:
    (folder / "1_Pooling").rename(folder / "pool")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "pool"
    put(folder / "modules.json", modules)
    mean, before = vectors(folder), locate_model(str(folder)).fingerprint
    change(folder / "pool" / "config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)
    assert locate_model(str(folder)).fingerprint != before
    assert not np.allclose(vectors(folder), mean)
    for place in ("../pool", 7, "/pool"):
        modules[1]["path"] = place
        put(folder / "modules.json", modules)
        assert "Expected a folder inside" in refused(folder)


# -- the same model in every process -----------------------------------------------------------------


def test_a_workspace_goes_on_with_the_vectors_it_was_begun_with_and_with_no_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "one"}\n')
    da.curate(tmp_path / "a.jsonl", workspace=tmp_path / "ws", model=str(folder))
    assert Workspace.open(tmp_path / "ws").ledger.meta("probe_vectors")
    encoder = load_encoder(locate_model(str(folder)))
    kept = probe_of(encoder)
    hold_to_probe(encoder, kept, "m")
    turned = [row[::-1] for row in kept]
    with pytest.raises(ModelError, match="cosine of"):
        hold_to_probe(encoder, turned, "m")
    (tmp_path / "b.jsonl").write_text('{"id": "b", "text": "two"}\n')
    asset = importlib.import_module("dedup_assets.assets.embeddings")
    monkeypatch.setattr(asset, "settled_probe", lambda workspace: turned)
    monkeypatch.setattr("dedup_assets.resources.worker_tasks._held", {})
    with pytest.raises(DedupError, match="gives other vectors here"):
        da.curate(tmp_path / "b.jsonl", workspace=tmp_path / "ws")
    assert len(kept) == len(PROBE_TEXTS)


# -- texts that a model cannot read ------------------------------------------------------------------

UNREADABLE = ["ሰላም ለዓለም", "እንዴት ነህ", "សួស្តី", "😀😀😀", "🙈", "\u200b\u200b", "\ue000\ue001", "ગુજરાતી"]
READABLE = ["hello world", "hello, world", "a sentence about banks"]


def test_the_precision_belongs_to_the_vectors_and_the_default_is_float32_everywhere(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "one"}\n')
    first = da.curate(tmp_path / "a.jsonl", workspace=tmp_path / "ws", model=str(folder))
    assert read_manifest(Workspace.open(tmp_path / "ws"))["precision"] == "float32"
    assert load_encoder(locate_model(str(folder))).precision == "float32"
    with pytest.raises(DedupError, match="precision is 'float32', asked for 'bfloat16'"):
        da.curate(tmp_path / "a.jsonl", workspace=tmp_path / "ws", precision="bfloat16")
    other = da.curate(tmp_path / "a.jsonl", workspace=tmp_path / "low", model=str(folder), precision="bfloat16")
    fingerprints = [read_manifest(Workspace.open(tmp_path / name))["settings_fingerprint"] for name in ("ws", "low")]
    assert fingerprints[0] != fingerprints[1] and first.summary["kept"] == other.summary["kept"] == 1


def test_a_workspace_of_two_precisions_is_refused_and_one_of_an_earlier_version_goes_on_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version took bfloat16 where the processor has it, and wrote nothing of it down."""
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "one"}\n')
    da.curate(tmp_path / "a.jsonl", workspace=tmp_path / "ws", precision="bfloat16")
    toml = tmp_path / "ws" / "curation.toml"
    with sqlite3.connect(tmp_path / "ws" / "ledger.sqlite") as database:
        ((settled,),) = database.execute("SELECT value FROM meta WHERE name = 'settings'").fetchall()
        values = json.loads(settled)
        del values["precision"]
        database.execute("UPDATE meta SET value = ? WHERE name = 'settings'", [json.dumps(values)])
    toml.write_text(toml.read_text().replace('precision = "bfloat16"\n', ""))
    monkeypatch.setattr("dedup_assets.resources.worker_tasks._held", {})
    (tmp_path / "b.jsonl").write_text('{"id": "b", "text": "two"}\n')
    with pytest.raises(DedupError, match=r'precision = "bfloat16" in its curation\.toml'):
        da.curate(tmp_path / "b.jsonl", workspace=tmp_path / "ws")
    toml.write_text(toml.read_text() + '\nprecision = "bfloat16"\n')
    assert da.curate(tmp_path / "b.jsonl", workspace=tmp_path / "ws").summary["kept"] == 2


def test_float32_agrees_with_itself_whatever_computes_it(folder: Path) -> None:
    """The bound that is stated: a cosine of 0.99999 between machines. Here the kernels differ, and the batches."""
    texts = [f"{text} number {n}" for n, text in enumerate(TEXTS * 3)]
    location = locate_model(str(folder))
    packed = load_encoder(location).encode(texts).vectors
    model, tokenizer = load_parts(location.folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.mkldnn.flags(enabled=False), torch.inference_mode():
            for text, vector in zip(texts, packed, strict=True):
                read = tokenizer(text, return_tensors="pt", truncation=True, max_length=32)
                hidden = model(**read).last_hidden_state[0].double().mean(dim=0)
                assert float(hidden @ torch.from_numpy(vector).double() / hidden.norm()) > 1 - 1e-6
    finally:
        torch.set_num_threads(threads)


def test_texts_that_the_model_cannot_tell_apart_are_compared_by_their_characters(tmp_path: Path) -> None:
    texts = [*UNREADABLE, *READABLE, UNREADABLE[0], UNREADABLE[3]]
    rows = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    result = da.curate(tmp_path / "a.jsonl", workspace=tmp_path / "ws", model=MINILM, threshold=0.95, floor=0.5)
    removed = {row["id"]: row["keeper_id"] for row in result.removed.to_arrow().to_pylist()}
    assert {key: removed[key] for key in ("11", "12")} == {"11": "0", "12": "3"}
    assert set(removed) <= {"11", "12", "9"}
    assert result.summary["texts_not_understood"] == len(UNREADABLE)
    paired = {x for row in result.pairs.to_arrow().to_pylist() for x in (row["id_a"], row["id_b"])}
    assert paired <= {"8", "9", "10"}
    checks = {check.name: check for check in da.audit(workspace=tmp_path / "ws")}
    assert not checks["texts_are_understood"].passed and checks["texts_are_understood"].is_warning
    assert all(check.passed for check in checks.values() if not check.is_warning)

    from dedup_assets.lookups.explain import explain
    from dedup_assets.lookups.near import search

    space = Workspace.open(tmp_path / "ws")
    assert explain(space, "11")["similarity_recomputed"] == 1.0
    assert explain(space, "1")["lineage"]["home_cell"] is None
    assert {hit["id"] for hit in search(space, "hello world", 20)} == {"8", "9", "10"}
    with pytest.raises(DedupError, match="hardly a token"):
        search(space, "ሰላም", 3)
    # The share is a setting, and what comes later is compared with what was embedded before.
    (tmp_path / "b.jsonl").write_text(json.dumps({"id": "b", "text": "ሰላም hello world and more"}))
    assert da.curate(tmp_path / "b.jsonl", workspace=tmp_path / "ws").summary["texts_not_understood"] == len(UNREADABLE)


def test_a_text_without_tokens_is_unknown_also_where_no_special_tokens_frame_it() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({"pad": 0, "here": 1, "[UNK]": 2}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    window = WindowTokenizer(PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]"), 8)
    ids, _ = window.read(["", " ", "pad", "here", "odd here", "odd"])
    assert [row.tolist() for row in ids] == [[0], [0], [0], [1], [2, 1], [2]]
    assert window.unknown_shares(ids).tolist() == [1, 1, 0, 0, 0.5, 1]
