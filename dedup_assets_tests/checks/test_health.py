"""Drift and freshness are warnings, each with what to do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from dedup_assets.checks import health
from dedup_assets.checks.scope import Scope
from dedup_assets.storage.ledger import Admission, Ledger
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import curate, make_table, write_shards
from dedup_assets_tests.checks.examined import examine, failed


def test_new_texts_with_many_more_ghosts_than_those_of_the_fit_are_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    centres = np.eye(32)[:8]
    near = centres[rng.integers(0, 8, 400)] + 0.02 * rng.normal(size=(400, 32))
    between = sum(centres[rng.integers(0, 8, 100)] for _ in range(4)) + 0.02 * rng.normal(size=(100, 32))
    tables = [
        make_table([f"{name}{i}" for i in range(len(part))], [f"{name} {i}" for i in range(len(part))], part)
        for name, part in (("n", near), ("b", between))
    ]
    paths = write_shards(tmp_path / "in", tables)
    for path in paths:
        curate([path], tmp_path / "ws", threshold=0.9, clusters=8)
    space = Workspace.open(tmp_path / "ws")
    finding = examine(space)["kmeans_centroids: codebook_fits"]
    assert not finding.passed and "ghosts each" in finding.offending[0] and "recurate" in finding.advice
    assert finding.numbers["ghosts_per_text_now"] > 2 * finding.numbers["ghosts_per_text_when_fitted"]
    assert "kmeans_centroids: codebook_fits" not in failed(examine(space, ["s00"]))


def test_uneven_cells_are_a_warning_where_there_are_texts_enough(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    uneven = np.array([2_000, *[10] * 19])
    monkeypatch.setattr(health, "_home_counts", lambda *_: uneven)
    finding = health.codebook_fits(Scope(space))
    assert "cells are uneven" in finding.offending[0]
    assert finding.numbers["largest_cell_over_mean"] == pytest.approx(2000 / 109.5, abs=1e-3)
    monkeypatch.setattr(health, "_home_counts", lambda *_: uneven // 10)
    assert health.codebook_fits(Scope(space)).passed


def test_many_texts_longer_than_the_window_are_a_warning(space: Workspace) -> None:
    done = space.ledger.completions("embeddings")["s01"]
    space.ledger.complete("embeddings", [("s01", done.input_version, {**done.stats, "texts_over_window": 30}, 0.0)], "")
    findings = examine(space)
    assert failed(findings) == {"embeddings: texts_fit_the_window"}
    assert findings["embeddings: texts_fit_the_window"].numbers["texts_over_window"] == 30
    assert failed(examine(space, ["s00"])) == set()


def test_a_shard_that_waits_for_days_or_failed_is_a_warning(space: Workspace, tmp_path: Path) -> None:
    extra = write_shards(tmp_path / "more", [make_table(["z"], ["z"], [np.ones(16)])])[0].rename(
        tmp_path / "late.parquet"
    )
    space.ledger.register([("late", str(extra), "parquet", None)])
    now = datetime.now(UTC)
    fresh, stale = (health.nothing_waits(Scope(space), now + timedelta(hours=hours)) for hours in (1, 30))
    assert fresh.passed and fresh.numbers["not_curated"] == 1
    assert not stale.passed and stale.offending[0].startswith("late: registered ")
    assert 29 < float(stale.numbers["oldest_waits_hours"]) <= 31
    space.ledger.fail("late", "raw_shards", "the file is cut short", "")
    assert list(health.nothing_waits(Scope(space), now).offending) == [
        "late: failed in raw_shards: the file is cut short"
    ]


def test_a_re_curation_that_did_not_come_is_a_warning_where_one_is_scheduled(space: Workspace) -> None:
    scheduled = space.with_options({"recurate_cron": "0 3 * * 0"})
    now = datetime.now(UTC)
    assert health.nothing_waits(Scope(scheduled), now + timedelta(days=10)).passed
    late = health.nothing_waits(Scope(scheduled), now + timedelta(days=20))
    assert late.numbers["last_recuration"] == "never" and "'0 3 * * 0' is overdue" in late.offending[0]
    assert health.nothing_waits(Scope(space), now + timedelta(days=20)).passed


def test_a_shard_that_is_registered_meanwhile_waits_like_the_others(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = health.unfinished_shards

    def after_another_came(workspace: Workspace) -> list[str]:
        workspace.ledger.register([("late", "file:///late", "csv", None)])
        return asked(workspace)

    monkeypatch.setattr(health, "unfinished_shards", after_another_came)
    assert health.nothing_waits(Scope(space)).numbers["not_curated"] == 1


def test_what_was_admitted_under_newer_centroids_is_no_matter_of_the_older(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = health.codebook_fits(Scope(space))
    # Between two looks at the ledger a refit came into force, and a shard was admitted under it.
    old = space.ledger.codebook()
    assert old is not None
    space.ledger.add_codebook(replace(old, number=old.number + 1, digest="newer"))
    space.ledger.admit([Admission(9, "late", "content", old.number + 1, 5, 5)], [], "cluster_partitions", "run")
    monkeypatch.setattr(Ledger, "codebook", lambda _: old)
    assert health.codebook_fits(Scope(space)) == seen
