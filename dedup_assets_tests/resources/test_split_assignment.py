"""A shard with many rows is assigned on all GPUs, and what is published is as if one had done it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import get_worker
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute.cells import assign
from dedup_assets.compute.row_ranges import joined, row_ranges
from dedup_assets.resources import split_assignment, worker_tasks
from dedup_assets_tests.assets.corpora import assert_same_tree, corpus, curate, leftovers, tree, write_shards
from dedup_assets_tests.compute.test_cells import centroids_of
from dedup_assets_tests.compute.vectors import make_vectors, seeds
from dedup_assets_tests.resources.test_worker_room import gpus, scheduler

__all__ = ["gpus", "scheduler"]  # fixtures


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 50), st.integers(1, 9))
def test_ranges_hold_every_row_once(rows: int, ranges: int) -> None:
    found = row_ranges(rows, ranges)
    assert [row for first, last in found for row in range(first, last)] == list(range(rows))
    assert len(found) == max(1, min(ranges, rows))
    assert max(last - first for first, last in found) - min(last - first for first, last in found) <= 1


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 150), st.integers(1, 8), st.integers(1, 5))
def test_assignments_of_ranges_are_that_of_all_rows(seed: int, n: int, k: int, ranges: int) -> None:
    vectors = make_vectors("clustered", n, 12, np.float16, seed)
    centroids = centroids_of("rows", k, vectors, seed)
    parts = [assign(vectors[first:last], centroids, 0.8) for first, last in row_ranges(n, ranges)]
    found = joined(parts)
    assert (found.home == np.concatenate([part.home for part in parts])).all() and found.cells == parts[0].cells
    starts = [first for first, _ in row_ranges(n, ranges)]
    for cell in range(found.cells):
        listed = [
            start + int(row)
            for part, start in zip(parts, starts, strict=True)
            for row in np.asarray(part.ghost_rows)[part.ghost_offsets[cell] : part.ghost_offsets[cell + 1]]
        ]
        assert found.ghost_rows[found.ghost_offsets[cell] : found.ghost_offsets[cell + 1]].tolist() == listed


def test_one_large_shard_is_assigned_by_every_gpu(
    tmp_path: Path, scheduler: str, gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    *paths, later = write_shards(tmp_path / "in", corpus("clustered", (400, 60, 20), seed=8))
    wanted = curate(paths, tmp_path / "cpu", device="cpu", threshold=0.8, clusters=12)
    worked: list[str] = []

    def assigned(*arguments: Any, **given: Any) -> Any:
        worked.append(get_worker().address)
        return assign(*arguments, **given)

    monkeypatch.setattr(worker_tasks, "worker_device", lambda device: "cpu:0" if device == "cuda" else device)
    monkeypatch.setattr(split_assignment, "assign", assigned)
    monkeypatch.setattr(split_assignment, "ROWS_APART", 200)
    found = curate(paths, tmp_path / "gpus", scheduler=scheduler, threshold=0.8, clusters=12)
    assert len(worked) == 3 and len(set(worked)) > 1, "the workers"
    assert_same_tree(tree(found.output), tree(wanted.output))
    assert_same_tree(tree(tmp_path / "gpus" / "pairs"), tree(tmp_path / "cpu" / "pairs"))
    assert leftovers(tmp_path / "gpus") == []
    worked.clear()
    curate([later], tmp_path / "gpus", clusters=9)
    assert len(worked) == 3, "laid out again under new centroids"
