"""Bad input and contradicting settings, through the whole pipeline: said clearly, never lost, never mixed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.corpus.output import read_manifest
from dedup_assets.errors import DedupError, SettingsError
from dedup_assets.storage.decisions import DecisionStore
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import (
    assert_same_tree,
    corpus,
    curate,
    kept_ids,
    leftovers,
    make_table,
    tree,
    write_shards,
)

AXES = np.eye(6)


def reasons(curation: da.Curation, shard: str) -> dict[int, str]:
    """Quarantined rows of a shard with their reasons."""
    rows = pq.read_table(curation.output / "quarantine" / f"{shard}.parquet").to_pylist()
    return {row["row"]: row["reason"] for row in rows}


def assert_every_row_is_somewhere(curation: da.Curation, tables: Sequence[pa.Table]) -> None:
    """Per shard, rows in = kept + removed + quarantined: in the files, in the manifest, and by id."""
    listed = {entry["shard"]: entry for entry in read_manifest(Workspace.open(curation.workspace))["shards"]}
    for number, table in enumerate(tables):
        shard = f"s{number:02d}"
        found: Counter[Any] = Counter()
        for part in ("deduplicated", "duplicates"):
            found.update(pq.read_table(curation.output / part / f"{shard}.parquet").column("id").to_pylist())
        quarantined = reasons(curation, shard)
        found.update(table.column("id").to_pylist()[row] for row in quarantined)
        assert found == Counter(table.column("id").to_pylist())
        entry = listed[shard]
        counts = ("kept", "removed_exact", "removed_semantic", "quarantined")
        assert entry["rows_in"] == table.num_rows == sum(entry[name] for name in counts)
        assert entry["quarantined"] == len(quarantined) == sum(entry["quarantined_by_reason"].values())


# -- rows --------------------------------------------------------------------------------------------


def test_rows_that_cannot_be_records_are_quarantined_and_the_others_curated(tmp_path: Path) -> None:
    nan, inf = math.nan, math.inf
    rows: list[tuple[Any, Any, Any]] = [
        ("good", "one", AXES[0]),
        ("null text", None, AXES[1]),
        ("empty text", "", AXES[1]),
        ("blank text", " \n\t", AXES[1]),
        ("good", "two", AXES[1]),
        (None, "three", AXES[2]),
        ("nan", "four", [nan, 0, 0, 0, 0, 1]),
        ("infinity", "five", [0, -inf, 0, 0, 0, 1]),
        ("zero", "six", np.zeros(6)),
        ("short", "seven", [1, 0]),
        ("none", "eight", None),
        ("copy", "one", AXES[0]),
        ("near", "nine", AXES[0] + 0.01),
    ]
    tables = [
        make_table(["long"], ["zero"], [[1.0] * 6]),
        make_table(*(list(column) for column in zip(*rows, strict=True))),
    ]
    result = curate(write_shards(tmp_path / "in", tables), tmp_path / "ws", threshold=0.95)
    assert reasons(result, "s01") == {
        1: "text is null",
        2: "text is empty",
        3: "text is only white space",
        4: "duplicate id: row 0 has it already",
        5: "id is null",
        6: "embedding has NaN",
        7: "embedding has infinity",
        8: "embedding has zero norm",
        9: "embedding has 2 numbers, expected 6",
        10: "embedding is null",
    }
    assert kept_ids(result) == {"long", "good"}
    assert result.summary["removed_exact"] == result.summary["removed_semantic"] == 1
    assert_every_row_is_somewhere(result, tables)


def test_an_id_of_an_earlier_shard_is_quarantined_in_the_later_one(tmp_path: Path) -> None:
    tables = [
        make_table(["a", "b"], ["one", "two"], AXES[:2]),
        make_table(["b", "c", "a"], ["three", "four", "one"], AXES[[2, 3, 0]]),
        # Not taken: what was quarantined never was a record. The text "three" comes here for the first time.
        make_table(["d"], ["three"], AXES[[2]]),
    ]
    paths = write_shards(tmp_path / "in", tables)
    whole = curate(paths, tmp_path / "whole", threshold=0.9)
    reason = "duplicate id in an earlier shard"
    assert reasons(whole, "s01") == {0: reason, 2: reason}
    assert kept_ids(whole) == {"a", "b", "c", "d"}
    assert_every_row_is_somewhere(whole, tables)
    for path in paths:
        steps = curate([path], tmp_path / "steps", threshold=0.9)
    assert_same_tree(tree(steps.output), tree(whole.output))


def test_with_refuse_a_shard_that_repeats_an_id_fails_and_the_others_finish(tmp_path: Path) -> None:
    tables = [
        make_table(["a", "b"], ["one", "two"], AXES[:2]),
        make_table(["c", "c"], ["three", "four"], AXES[2:4]),
        make_table(["a", "d"], ["five", "six"], AXES[2:4]),
        make_table(["e"], ["two"], AXES[[1]]),
    ]
    paths = write_shards(tmp_path / "in", tables)
    result = curate(paths, tmp_path / "ws", threshold=0.9, duplicate_ids="refuse", check=False)
    assert sorted(result.failures) == ["s01", "s02"]
    assert "s01.parquet" in result.failures["s01"] and "'c' occurs in rows 0 and 1" in result.failures["s01"]
    assert "1 ids are taken" in result.failures["s02"] and "'a'" in result.failures["s02"]
    assert kept_ids(result) == {"a", "b"} and result.summary["shards"] == 2
    clean = curate([paths[0], paths[3]], tmp_path / "clean", threshold=0.9, duplicate_ids="refuse")
    assert_same_tree(tree(result.output), tree(clean.output))


# -- shards ------------------------------------------------------------------------------------------


def test_a_shard_without_rows_is_curated_like_any_other(tmp_path: Path) -> None:
    full = corpus("clustered", (30, 30), seed=20)
    tables = [full[0].slice(0, 0), full[0], full[0].slice(0, 0), full[1]]
    paths = write_shards(tmp_path / "in", tables)
    empty = curate(paths[:1], tmp_path / "ws", threshold=0.9)
    assert empty.summary["rows_in"] == 0 and len(empty.kept) == 0 and empty.duplicate_ratio == 0.0
    assert pq.read_schema(empty.output / "deduplicated" / "s00.parquet").equals(tables[0].schema)
    for path in paths[1:]:
        steps = curate([path], tmp_path / "ws")
    assert steps.summary["shards"] == 4
    assert_every_row_is_somewhere(steps, tables)
    whole = curate(paths, tmp_path / "whole", threshold=0.9)
    assert_same_tree(tree(steps.output), tree(whole.output))
    assert_same_tree(
        tree(da.rethreshold(0.97, workspace=tmp_path / "ws").output / "quarantine"),
        {f"s{n:02d}.parquet": (whole.output / "quarantine" / f"s{n:02d}.parquet").read_bytes() for n in range(4)},
    )


@pytest.mark.parametrize("mode", ["append", "rebuild"])
def test_a_corpus_of_empty_shards_alone_is_an_empty_result(tmp_path: Path, mode: str) -> None:
    tables = [make_table([], [], []), make_table(["x"], [""], AXES[[0]])]
    tables[0] = tables[0].cast(tables[1].schema)
    result = curate(
        write_shards(tmp_path / "in", tables), tmp_path / "ws", threshold=0.9, mode=mode, max_quarantined=1.0
    )
    assert (result.summary["rows_in"], result.summary["quarantined"], len(result.kept)) == (1, 1, 0)
    assert len(result.pairs) == 0
    assert_every_row_is_somewhere(result, tables)


def test_a_corrupt_shard_in_the_middle_fails_alone_and_can_be_mended(tmp_path: Path) -> None:
    tables = corpus("clustered", (30, 20, 30), seed=21)
    paths = write_shards(tmp_path / "in", tables)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DedupError, match=r"1 shards? failed; all others are finished\.\n.*s01\.parquet") as problem:
        curate(paths, tmp_path / "ws", threshold=0.9)
    assert "s00" not in str(problem.value) and "s02" not in str(problem.value)
    without = curate([paths[0], paths[2]], tmp_path / "without", threshold=0.9)
    assert_same_tree(tree(tmp_path / "ws" / "output"), tree(without.output))
    assert not leftovers(tmp_path)

    paths[1].write_bytes(whole)
    mended = curate(paths, tmp_path / "ws")
    assert mended.summary["shards"] == 3 and not Workspace.open(tmp_path / "ws").ledger.failures()
    assert_every_row_is_somewhere(mended, tables)
    assert_same_tree(tree(mended.output), tree(curate([paths[1]], tmp_path / "without").output))


def test_a_shard_without_the_named_columns_fails_with_the_columns_that_are_there(tmp_path: Path) -> None:
    good, bad = make_table(["a"], ["one"], AXES[[0]]), make_table(["b"], ["two"], AXES[[1]])
    tables = [good, bad.rename_columns(["id", "text", "numbers"]), bad.rename_columns(["key", "text", "vector"])]
    result = curate(write_shards(tmp_path / "in", tables), tmp_path / "ws", check=False)
    assert list(result.failures) == ["s01"]
    assert all(part in result.failures["s01"] for part in ("s01.parquet", "'vector'", "numbers"))
    # Only the default name of the id column may be absent: ids are then SHARD:ROW.
    assert kept_ids(result) == {"a", None}
    assert da.open_curation(tmp_path / "ws").summary["kept"] == 2


def test_a_shard_of_another_dimension_fails_and_the_others_finish(tmp_path: Path) -> None:
    tables = [
        make_table(["a"], ["one"], AXES[[0]]),
        make_table(["b", "c"], ["two", "three"], [[1, 0], [0, 1]]),
        make_table(["d"], ["four"], AXES[[3]]),
    ]
    result = curate(write_shards(tmp_path / "in", tables), tmp_path / "ws", check=False)
    assert list(result.failures) == ["s01"] and "2 numbers, expected 6" in result.failures["s01"]
    assert kept_ids(result) == {"a", "d"}


def test_an_error_that_nobody_foresaw_reaches_the_caller_and_the_next_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (20,), seed=24))

    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    with monkeypatch.context() as patch:
        patch.setattr(DecisionStore, "write_records", broken)
        with pytest.raises(DedupError, match="failed unexpectedly: ZeroDivisionError: nobody foresaw this"):
            curate(paths, tmp_path / "ws", threshold=0.9)
    assert curate(paths, tmp_path / "ws").summary["shards"] == 1


def test_where_changed_content_is_to_be_refused_the_published_result_stays(tmp_path: Path) -> None:
    tables = corpus("random", (20, 20, 20), seed=22)
    paths = write_shards(tmp_path / "in", tables)
    curate(paths[:2], tmp_path / "ws", threshold=0.9, changed_shards="refuse")
    before = tree(tmp_path / "ws" / "output")
    original = paths[0].read_bytes()
    pq.write_table(tables[0].slice(0, 19), paths[0])
    result = curate(paths, tmp_path / "ws", check=False)
    assert list(result.failures) == ["s00"]
    assert "changed since it was curated" in result.failures["s00"] and str(paths[0]) in result.failures["s00"]
    after = tree(result.output)
    same = [name for name in before if name.endswith(".parquet")]
    assert_same_tree({name: after[name] for name in same}, {name: before[name] for name in same})
    assert result.summary["shards"] == 3, "the new shard is finished all the same"

    paths[0].write_bytes(original)
    assert curate(paths, tmp_path / "ws").summary["run_ids"] == []


# -- settings ----------------------------------------------------------------------------------------


def test_settings_that_contradict_what_is_stored_are_refused_and_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (10,)))
    result = curate(paths, tmp_path / "ws", threshold=0.9, floor=0.8)
    before = tree(result.output), (tmp_path / "ws" / "curation.toml").read_bytes()
    for options in (
        {"text_columns": ["id"]},
        {"id_column": "quality"},
        {"embedding_column": "other"},
        {"model": "another/model"},
        {"vector_dtype": "float32"},
        {"max_length": 128},
        {"unicode_form": "NFC"},
        {"keep_empty": True},
        {"duplicate_ids": "refuse"},
        {"floor": 0.7},
    ):
        (name,) = options
        with pytest.raises(SettingsError, match=rf"made under other settings: {name} is .*new workspace"):
            da.curate(*paths, workspace=tmp_path / "ws", **options)
    with pytest.raises(SettingsError, match=r"below the floor 0\.8"):
        da.curate(*paths, workspace=tmp_path / "ws", eps=0.3)
    with pytest.raises(SettingsError, match="give one of them"):
        da.curate(*paths, workspace=tmp_path / "ws", threshold=0.9, eps=0.1)
    assert (tree(result.output), (tmp_path / "ws" / "curation.toml").read_bytes()) == before


def test_a_threshold_given_later_is_honoured_and_remembered(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", (60,), seed=23))
    curate(paths, tmp_path / "ws", threshold=0.95, floor=0.8)
    moved = da.curate(*paths, workspace=tmp_path / "ws", eps=0.15)
    fresh = curate(paths, tmp_path / "fresh", threshold=0.85, floor=0.8)
    assert kept_ids(moved) == kept_ids(fresh) and moved.summary["threshold"] == 0.85
    assert da.curate(workspace=tmp_path / "ws").summary["run_ids"] == []
