"""Generations: beside each other, switched in one step, and begun only by what is no append."""

from __future__ import annotations

from pathlib import Path

import pytest

import dedup_assets as da
from dedup_assets.embedded import embedded_dagster
from dedup_assets.errors import DedupError
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import (
    assert_same_tree,
    corpus,
    curate,
    kept_ids,
    make_table,
    removals,
    results,
    tree,
    write_shards,
)


def test_a_new_generation_lies_beside_the_old_and_shares_what_did_not_change(tmp_path: Path) -> None:
    axes = [[1.0, 0, 0], [0, 1.0, 0], [0, 0.8, 0.6]]
    tables = [
        make_table(["a", "b"], ["one", "two"], axes[:2]),
        make_table(["c", "d"], ["three", "one"], axes[2:] + axes[:1]),
    ]
    paths = write_shards(tmp_path / "in", tables)
    first = curate(paths, tmp_path / "ws", threshold=0.9, floor=0.7)
    before = tree(first.published)
    second = da.rethreshold(0.75, workspace=tmp_path / "ws")
    assert [first.published.name, second.published.name] == ["0001", "0002"]
    assert_same_tree(tree(first.published), before)

    def shared(part: str, shard: str) -> bool:
        return (first.published / part / shard).samefile(second.published / part / shard)

    assert shared("deduplicated", "s00.parquet") and shared("duplicates", "s00.parquet")
    assert not shared("deduplicated", "s01.parquet") and not shared("duplicates", "s01.parquet")
    assert shared("quarantine", "s01.parquet")
    # Who asked before the switch reads on in what was in force then.
    assert kept_ids(first) == {"a", "b", "c"} and set(removals(first)) == {"d"}
    assert kept_ids(second) == {"a", "b"} and set(removals(second)) == {"c", "d"}
    assert (second.output / "deduplicated" / "s01.parquet").samefile(second.published / "deduplicated" / "s01.parquet")


def test_what_is_in_the_way_of_the_output_is_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (10,)))
    (tmp_path / "out" / "deduplicated").mkdir(parents=True)
    with pytest.raises(DedupError, match=r"out/deduplicated is in the way.*another output"):
        curate(paths, tmp_path / "ws", threshold=0.9, output=str(tmp_path / "out"))
    (tmp_path / "out" / "deduplicated").rmdir()
    assert da.curate(workspace=tmp_path / "ws").summary["shards"] == 1


def test_what_another_workspace_left_in_an_output_is_not_taken_for_its_own(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (10, 12)))
    options = {"threshold": 0.9, "output": str(tmp_path / "out")}
    curate(paths, tmp_path / "old", **options)
    result = curate(paths[1:], tmp_path / "new", **options)
    assert result.summary["rows_in"] == len(result.kept) + len(result.removed) == 12


def rebuild(workspace: Path, token: str) -> None:
    """What a run with the tag does."""
    space = Workspace.open(workspace)
    space.ledger.request_rebuild(token)
    with embedded_dagster(space) as dagster:
        dagster.redecide([shard.key for shard in space.ledger.shards()])


def test_a_rebuild_on_request_is_a_generation_that_later_shards_append_to(tmp_path: Path) -> None:
    tables = corpus("clustered", (40, 60, 50, 30), seed=80)
    paths = write_shards(tmp_path / "in", tables)
    before = curate(paths[:3], tmp_path / "ws", threshold=0.85)
    rebuild(tmp_path / "ws", "monday")
    rebuilt = da.open_curation(tmp_path / "ws")
    fresh = curate(paths[:3], tmp_path / "fresh", threshold=0.85, mode="rebuild")
    assert_same_tree(results(rebuilt.output), results(fresh.output))
    assert removals(rebuilt) != removals(before), "the corpus proves nothing"
    rebuild(tmp_path / "ws", "monday")
    ledger = Workspace.open(tmp_path / "ws").ledger
    assert (ledger.generation().number, ledger.generation().rebuilt, ledger.rebuilds()) == (2, 3, [])

    content = results(rebuilt.output)
    grown = curate(paths[3:], tmp_path / "ws")
    assert ledger.generation().number == 2 and grown.summary["shards"] == 4
    assert_same_tree({name: results(grown.output)[name] for name in content}, content)

    # A retraction keeps the order: rebuilt among themselves, then what came after.
    result = da.retract("s01", workspace=tmp_path / "ws", reason="vanished")
    left = curate([paths[0], paths[2]], tmp_path / "left", threshold=0.85)
    rebuild(tmp_path / "left", "monday")
    left = curate(paths[3:], tmp_path / "left")
    assert (kept_ids(result), removals(result)) == (kept_ids(left), removals(left))
