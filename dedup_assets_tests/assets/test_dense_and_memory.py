"""Dense cells and little memory in real workspaces: other ways to work, the same result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dedup_assets as da
from dedup_assets.compute.join import Matches
from dedup_assets.errors import SettingsError
from dedup_assets.resources.memory import memory_plan, text_plan, worker_memory
from dedup_assets.settings import Settings
from dedup_assets.storage import tables as stored_tables
from dedup_assets.storage.spill import MatchRuns
from dedup_assets.storage.tables import DENSE_CELLS, pairs_table, write_pairs
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets import oracle
from dedup_assets_tests.assets.corpora import assert_same_tree, corpus, curate, leftovers, results, tree, write_shards
from dedup_assets_tests.assets.test_contract import assert_decided


def dense_facts(workspace: Path) -> dict[str, tuple[int, int]]:
    """By shard: dense cells, and the texts at home in them."""
    done = Workspace.open(workspace).ledger.completions("pairwise_similarities")
    return {s: (c.stats["dense_cells"], c.stats["texts_in_dense_cells"]) for s, c in done.items()}


def pair_ids(curation: da.Curation) -> set[tuple[str, str]]:
    table = curation.pairs.to_arrow(["id_a", "id_b"])
    return set(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))


ORDERS = [
    ("append", "longest", "semdedup", oracle.longest),
    ("append", "column:quality", "leader", oracle.by_quality(True)),
    ("rebuild", "first", "leader", oracle.first),
]


@pytest.mark.parametrize("mode, keep, rule, order", ORDERS)
def test_dense_cells_change_no_decision_under_any_order_or_threshold_and_across_refits(
    tmp_path: Path, mode: str, keep: str, rule: str, order: oracle.Order
) -> None:
    tables = corpus("boilerplate", (40, 1, 70, 160), seed=3)
    paths = write_shards(tmp_path / "in", tables)
    options = {"floor": 0.7, "threshold": 0.97, "mode": mode, "keep": keep, "keeper_rule": rule, "clusters": 5}
    workspace = tmp_path / "dense"
    curate(paths[:1], workspace, dense_limit=1, **options)
    dense = curate(paths[1:], workspace, dense_limit=1)
    assert len(Workspace.open(workspace).ledger.codebooks()) > 1, "the corpus was never refitted"
    found = dense_facts(workspace)
    assert all(cells > 0 and texts > 0 for shard, (cells, texts) in found.items() if shard != "s01")
    for name in ("s00", "s02", "s03"):
        (file,) = (workspace / "pairs").glob(f"*-{name}@*.parquet")
        metadata = pq.read_schema(file).metadata
        assert len(json.loads(metadata[DENSE_CELLS])) == found[name][0]
    known = oracle.read_corpus(workspace, tables)
    everything = set(known.pairs(0.7))
    assert pair_ids(dense) < everything, "pairs of dense cells are listed all the same"
    for threshold in (0.97, 0.7, 0.999):
        dense = dense if threshold == 0.97 else da.rethreshold(threshold, workspace=workspace)
        wanted = oracle.sequential(
            known, threshold, order=order, keepers_only=rule == "leader", rebuild=mode == "rebuild"
        )  # fmt: skip
        assert_decided(dense, wanted)
    listed = curate(paths, tmp_path / "listed", dense_limit=0, **{**options, "threshold": 0.999})
    assert set(dense_facts(tmp_path / "listed").values()) == {(0, 0)}
    assert pair_ids(listed) == everything
    assert_same_tree(results(dense.output), results(listed.output))


def test_little_memory_gives_the_same_bytes_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = corpus("boilerplate", (260, 40, 300), seed=1)
    paths = write_shards(tmp_path / "in", tables)
    plenty = curate(paths, tmp_path / "plenty", threshold=0.8)
    spilled = []
    original = MatchRuns.spill
    monkeypatch.setattr(MatchRuns, "spill", lambda runs: (spilled.append(runs), original(runs))[1])
    little = curate(paths, tmp_path / "little", threshold=0.8, memory_limit="100KB")
    assert len(spilled) > 3, "everything fitted into memory: the corpus proves nothing"
    assert_same_tree(results(little.output), results(plenty.output))
    assert_same_tree(tree(tmp_path / "little" / "pairs"), tree(tmp_path / "plenty" / "pairs"))
    assert leftovers(tmp_path) == []


def in_order(i: np.ndarray, j: np.ndarray) -> tuple[list[int], list[int]]:
    pairs = sorted(set(zip((j >> 40).tolist(), i.tolist(), j.tolist(), strict=True)))
    return [pair[1] for pair in pairs], [pair[2] for pair in pairs]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(1, 60), st.integers(1, 3_000), st.integers(0, 1_000))
def test_runs_give_matches_back_by_shard_sorted_and_once(tmp_path_factory, n, keys, most_bytes, seed) -> None:
    rng = np.random.default_rng(seed)
    known = np.sort((rng.integers(1, 4, keys + 1) << 40) | rng.integers(0, 50, keys + 1))
    known = np.unique(np.append(known, [(1 << 40) | 60, (3 << 40) | 60]))
    drawn = [rng.choice(len(known), 2, replace=False) for _ in range(n)]
    places = np.sort(np.array(drawn, np.int64).reshape(n, 2), axis=1)
    i, j = known[places[:, 0]].astype(np.int64), known[places[:, 1]].astype(np.int64)
    similarity = (i % 97 * 89 + j % 97) / 1e4  # of the pair alone
    runs = MatchRuns(tmp_path_factory.mktemp("runs") / "folder", most_bytes)
    for part in np.array_split(np.arange(n), 7):
        runs.add(Matches(i[part], j[part], similarity[part]))
    found = []
    opened = runs.runs()
    for admission in (1, 2, 3):
        for part in runs.of_owner(opened, admission):
            assert set((part.j >> 40).tolist()) == {admission}
            assert (part.similarity == (part.i % 97 * 89 + part.j % 97) / 1e4).all()
            found.append(part)
    wanted = in_order(i, j)
    assert [k for part in found for k in part.i.tolist()] == wanted[0]
    assert [k for part in found for k in part.j.tolist()] == wanted[1]


@pytest.mark.parametrize("rows", [0, 99, 100, 101, 450])
def test_the_file_of_matches_does_not_depend_on_the_parts_it_came_in(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_tables, "PAIR_ROWS", 100)
    keys = np.arange(rows, dtype=np.int64)
    ids = pa.array([f"r{k % 7}" for k in keys], pa.string())
    table = pairs_table(keys, keys + 1, ids, ids, keys / 1000)
    with pq.ParquetWriter(tmp_path / "plain", table.schema, compression="zstd") as writer:
        if rows:  # no row group without rows
            writer.write_table(table, row_group_size=100)
    for size in (1, 30, 100, 1000):
        parts = (table.slice(start, size) for start in range(0, rows, size))
        write_pairs(tmp_path / "parts", parts)
        assert (tmp_path / "parts").read_bytes() == (tmp_path / "plain").read_bytes()


def test_a_memory_limit_is_a_size_and_is_divided_among_what_runs_at_once() -> None:
    sizes = {"": None, "2GB": 2 * 10**9, "1.5GiB": 3 * 2**29, "500 mb": 500 * 10**6, "4096": 4096, "7k": 7000}
    assert {text: Settings(memory_limit=text).memory_bytes for text in sizes} == sizes
    for wrong in ("much", "-1GB", "0", "2XB", "GB"):
        with pytest.raises(SettingsError, match="2GB"):
            Settings().changed({"memory_limit": wrong})
    for limit in ("200MB", "2GB", "64GB", ""):
        for tasks in (1, 2, 16):
            plan = memory_plan(Settings().changed({"memory_limit": limit}), tasks)
            held = tasks * plan.group_bytes + tasks * plan.task_match_bytes + plan.match_bytes
            assert held <= plan.total
            assert limit == "" or text_plan(Settings().changed({"memory_limit": limit})).group * 4096 <= plan.total / 4
    assert text_plan(Settings()).group == 50_000
    assert worker_memory(Settings(), 4) == "auto"
    assert worker_memory(Settings().changed({"memory_limit": "2GiB"}), 2) == 2**31
