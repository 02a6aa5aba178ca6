"""What is taken back: after any of it, the decisions are those of a fresh curation of what remains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.errors import DedupError
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets import oracle
from dedup_assets_tests.assets.corpora import (
    assert_same_tree,
    corpus,
    curate,
    kept_ids,
    make_table,
    removals,
    results,
    write_shards,
)


def decisions(curation: da.Curation) -> tuple[set[str], dict[str, tuple[Any, ...]]]:
    """Who stays, and of each removed record its shard, keeper, the keeper's shard, similarity and kind."""
    rows = curation.removed.to_arrow().to_pylist()
    names = ("shard", "keeper_id", "keeper_shard", "similarity", "kind")
    return kept_ids(curation), {row["id"]: tuple(row[name] for name in names) for row in rows}


def pair_set(curation: da.Curation) -> set[tuple[Any, ...]]:
    columns = curation.pairs.to_arrow().to_pydict()
    found = zip(columns["id_a"], columns["id_b"], columns["similarity"], strict=True)
    return {(*sorted((a, b)), s) for a, b, s in found}


def changes(curation: da.Curation, number: int) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(curation.output / "changes" / f"{number:04d}.parquet").to_pylist()
    listed = {row["id"]: row for row in rows}
    assert len(listed) == len(rows), "a record is listed twice"
    return listed


@pytest.mark.parametrize("keep", ["first", "hard", "column:quality"])
@pytest.mark.parametrize("gone", [(0,), (1, 2), (3,)])
def test_what_is_left_is_decided_as_if_it_had_come_alone(tmp_path: Path, keep: str, gone: tuple[int, ...]) -> None:
    tables = corpus("clustered", (50, 40, 60, 30, 25), seed=30)
    paths = write_shards(tmp_path / "in", tables)
    options = {"threshold": 0.85, "keep": keep}
    before = decisions(curate(paths[:4], tmp_path / "ws", **options))
    result = da.retract(*(f"s{n:02d}" for n in gone), workspace=tmp_path / "ws", reason="vanished")
    left = [path for n, path in enumerate(paths[:4]) if n not in gone]
    fresh = curate(left, tmp_path / "fresh", **options)
    assert decisions(result) == decisions(fresh) != before
    assert pair_set(result) == pair_set(fresh)
    assert result.summary["kept"] == fresh.summary["kept"] and result.summary["shards"] == 4 - len(gone)

    # What comes after is decided on top of it, and what returns comes last.
    assert decisions(curate(paths[4:], tmp_path / "ws")) == decisions(curate(paths[4:], tmp_path / "fresh"))
    back = [paths[n] for n in gone]
    assert decisions(curate(back, tmp_path / "ws")) == decisions(curate(back, tmp_path / "fresh"))
    assert pair_set(da.open_curation(tmp_path / "ws")) == pair_set(da.open_curation(tmp_path / "fresh"))
