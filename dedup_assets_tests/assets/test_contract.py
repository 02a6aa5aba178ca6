"""The contract on real workspaces, against an oracle that compares every pair and walks record by record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.errors import SettingsError
from dedup_assets_tests.assets import oracle
from dedup_assets_tests.assets.corpora import (
    KINDS,
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

SIZES = (70, 1, 110, 60)
FLOOR = 0.7
THRESHOLDS = (0.7, 0.85, 0.97, 0.999)


def assert_decided(curation: da.Curation, wanted: dict[str, oracle.Decision]) -> None:
    """Every record is decided as the oracle says, to the last bit of the similarity."""
    assert kept_ids(curation) == {name for name, decision in wanted.items() if decision.keeper is None}
    removed = {
        name: (decision.keeper, decision.similarity, decision.kind)
        for name, decision in wanted.items()
        if decision.keeper is not None
    }
    assert removals(curation) == removed


def assert_conserved(curation: da.Curation, tables: Sequence[pa.Table]) -> None:
    """Each input row is in exactly one of kept, removed and quarantined, in the files and in the counts."""
    for number, table in enumerate(tables):
        name = f"s{number:02d}.parquet"
        kept = pq.read_table(curation.output / "deduplicated" / name)
        removed = pq.read_table(curation.output / "duplicates" / name)
        quarantined = pq.read_table(curation.output / "quarantine" / name)
        assert quarantined.num_rows == 0
        ids = kept.column("id").to_pylist() + removed.column("id").to_pylist()
        assert sorted(ids) == sorted(table.column("id").to_pylist())
        mask = pa.array([name in set(kept.column("id").to_pylist()) for name in table.column("id").to_pylist()])
        assert kept.equals(table.filter(mask)), "kept rows differ from the input in columns, types, order or values"
    summary = curation.summary
    rows = sum(table.num_rows for table in tables)
    assert summary["rows_in"] == rows == summary["kept"] + summary["removed_exact"] + summary["removed_semantic"]
    assert summary["kept"] == len(curation.kept) and rows - summary["kept"] == len(curation.removed)


def assert_direct_evidence(curation: da.Curation, known: oracle.Corpus, threshold: float) -> None:
    """Each removed record names a kept record that matches it, and groups are exactly those of one keeper."""
    kept = kept_ids(curation)
    records = {record.id: record for shard in known.shards for record in shard}
    keepers: dict[str, set[str]] = {}
    for row in curation.removed.to_arrow().to_pylist():
        removed, keeper = records[row["id"]], records[row["keeper_id"]]
        assert row["keeper_id"] in kept
        assert row["keeper_shard"] == f"s{keeper.shard:02d}" and row["shard"] == f"s{removed.shard:02d}"
        assert (row["kind"] == "exact") == (removed.text == keeper.text)
        cosine = 1.0 if row["kind"] == "exact" else known.cosines[removed.text_number, keeper.text_number]
        assert row["similarity"] == cosine >= threshold
        keepers.setdefault(row["group_id"], set()).add(row["keeper_id"])
    assert all(len(names) == 1 for names in keepers.values())
    assert len(keepers) == len(set().union(*keepers.values()))


@pytest.mark.parametrize("kind", KINDS)
def test_matches_and_decisions_are_those_of_comparing_every_pair(tmp_path: Path, kind: str) -> None:
    tables = corpus(kind, SIZES)
    paths = write_shards(tmp_path / "in", tables)
    result = curate(paths, tmp_path / "ws", threshold=THRESHOLDS[0], floor=FLOOR)
    known = oracle.read_corpus(tmp_path / "ws", tables)

    found = result.pairs.to_arrow()
    pairs = dict(
        zip(
            zip(found["id_a"].to_pylist(), found["id_b"].to_pylist(), strict=True),
            found["similarity"].to_pylist(),
            strict=True,
        )
    )
    assert len(pairs) == found.num_rows, "a pair is listed twice"
    assert pairs == known.pairs(FLOOR)
    assert len(pairs) > 100, "the corpus proves nothing"

    for threshold in THRESHOLDS:
        if threshold != THRESHOLDS[0]:
            result = da.rethreshold(threshold, workspace=tmp_path / "ws")
        assert_decided(result, oracle.sequential(known, threshold))
        assert_direct_evidence(result, known, threshold)
        assert_conserved(result, tables)
        assert result.summary["threshold"] == threshold


@pytest.mark.parametrize(
    ("keep", "order"),
    [
        ("longest", oracle.longest),
        ("hard", oracle.by_likeness(easy=False)),
        ("easy", oracle.by_likeness(easy=True)),
        ("random", oracle.by_hash_of_id(seed=3)),
        ("column:quality", oracle.by_quality(descending=True)),
        ("column:quality:asc", oracle.by_quality(descending=False)),
    ],
)
def test_inside_a_shard_the_keeper_order_decides_who_stays(tmp_path: Path, keep: str, order: oracle.Order) -> None:
    tables = corpus("clustered", (60, 60), seed=1)
    result = curate(write_shards(tmp_path / "in", tables), tmp_path / "ws", threshold=0.9, keep=keep, seed=3)
    known = oracle.read_corpus(tmp_path / "ws", tables)
    wanted = oracle.sequential(known, 0.9, order=order)
    assert wanted != oracle.sequential(known, 0.9), "the corpus proves nothing"
    assert_decided(result, wanted)
    assert_direct_evidence(result, known, 0.9)


def test_the_semdedup_rule_removes_whatever_is_close_to_any_earlier_record(tmp_path: Path) -> None:
    tables = corpus("clustered", (60, 60), seed=2)
    result = curate(write_shards(tmp_path / "in", tables), tmp_path / "ws", threshold=0.9, keeper_rule="semdedup")
    known = oracle.read_corpus(tmp_path / "ws", tables)
    wanted = oracle.sequential(known, 0.9, keepers_only=False)
    assert wanted != oracle.sequential(known, 0.9), "the corpus proves nothing"
    assert_decided(result, wanted)


def test_vectors_in_float32_give_the_matches_of_comparing_every_pair(tmp_path: Path) -> None:
    tables = corpus("boilerplate", (80, 40), seed=3)
    result = curate(
        write_shards(tmp_path / "in", tables), tmp_path / "ws", threshold=0.95, floor=0.8, vector_dtype="float32"
    )
    known = oracle.read_corpus(tmp_path / "ws", tables)
    assert known.vectors.dtype == np.float32
    wanted = known.pairs(0.8)
    found = result.pairs.to_arrow()
    pairs = {(a, b): s for a, b, s in zip(*(found[name].to_pylist() for name in found.schema.names[:3]), strict=True)}
    assert pairs.keys() == wanted.keys()
    # Sums of float32 products depend on their order in the last bits.
    assert all(math.isclose(pairs[pair], wanted[pair], rel_tol=1e-14) for pair in wanted)
    outcome = oracle.sequential(known, 0.95)
    assert kept_ids(result) == {name for name, decision in outcome.items() if decision.keeper is None}


def test_a_text_that_comes_again_with_another_vector_keeps_its_first_vector(tmp_path: Path) -> None:
    axes = np.eye(4)
    tables = [
        make_table(["a", "b"], ["one", "two"], [axes[0], axes[1]]),
        make_table(["c", "d"], ["one", "three"], [axes[2], axes[2]]),
    ]
    result = curate(write_shards(tmp_path / "in", tables), tmp_path / "ws", threshold=0.9)
    assert kept_ids(result) == {"a", "b", "d"}
    assert removals(result) == {"c": ("a", 1.0, "exact")}
    np.testing.assert_array_equal(oracle.stored_vectors(tmp_path / "ws")[oracle.text_hash("one")], axes[0])


# -- another threshold -------------------------------------------------------------------------------


def test_another_threshold_gives_the_files_of_a_fresh_curation_and_back_again(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", (60, 30, 60), seed=4))
    low = curate(paths, tmp_path / "moved", threshold=0.85, floor=0.8)
    before = results(low.output)
    runs = low.summary["run_ids"]

    high = da.rethreshold(0.93, workspace=tmp_path / "moved")
    assert not set(runs) & set(high.summary["run_ids"])
    fresh = curate(paths, tmp_path / "fresh", threshold=0.93, floor=0.8)
    assert_same_tree(results(high.output), results(fresh.output))
    assert results(high.output) != before, "the corpus proves nothing"
    assert high.summary["threshold"] == 0.93 and high.summary["kept"] == fresh.summary["kept"]

    # A shard that comes after is decided as if the threshold had always been that.
    extra = write_shards(tmp_path / "more", corpus("clustered", (60, 30, 60, 20), seed=4))[3:]
    assert_same_tree(
        results(curate(extra, tmp_path / "moved").output), results(curate(extra, tmp_path / "fresh").output)
    )

    back = da.rethreshold(0.85, workspace=tmp_path / "moved")
    found = results(back.output)
    assert_same_tree({name: found[name] for name in before}, before)


def test_a_threshold_below_the_floor_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", (20,)))
    result = curate(paths, tmp_path / "ws", threshold=0.9, floor=0.85)
    before = tree(result.output)
    with pytest.raises(SettingsError, match=r"threshold 0\.8 lies below the floor 0\.85.*new workspace"):
        da.rethreshold(0.8, workspace=tmp_path / "ws")
    assert_same_tree(tree(result.output), before)
    assert curate(paths, tmp_path / "ws").summary["threshold"] == 0.9


# -- rebuild -----------------------------------------------------------------------------------------


def test_a_rebuild_does_not_depend_on_how_records_were_split_into_shards(tmp_path: Path) -> None:
    whole = pa.concat_tables(corpus("clustered", (150,), seed=5))
    splits = {"one": [150], "three": [40, 5, 105], "reversed": [90, 60]}
    outcome = {}
    for name, sizes in splits.items():
        table = whole.take(pa.array(np.arange(150)[::-1])) if name == "reversed" else whole
        ends = np.cumsum(sizes)
        parts = [table.slice(end - size, size) for size, end in zip(sizes, ends, strict=True)]
        paths = write_shards(tmp_path / name, parts)
        result = curate(paths, tmp_path / f"ws-{name}", threshold=0.9, mode="rebuild", keep="column:quality")
        outcome[name] = kept_ids(result), removals(result)
    assert 0 < len(outcome["one"][1]) < 150
    assert outcome["three"] == outcome["one"] == outcome["reversed"]


def test_a_rebuild_after_new_shards_is_a_fresh_rebuild_and_lists_exactly_what_changed(tmp_path: Path) -> None:
    tables = corpus("clustered", (60, 50, 70), seed=6)
    paths = write_shards(tmp_path / "in", tables)
    first = curate(paths[:2], tmp_path / "ws", threshold=0.9, mode="rebuild")
    kept_before, removed_before = kept_ids(first), removals(first)
    known = oracle.read_corpus(tmp_path / "ws", tables[:2])
    assert_decided(first, oracle.sequential(known, 0.9, rebuild=True))

    second = curate(paths[2:], tmp_path / "ws")
    known = oracle.read_corpus(tmp_path / "ws", tables)
    assert_decided(second, oracle.sequential(known, 0.9, rebuild=True))
    assert_direct_evidence(second, known, 0.9)
    fresh = curate(paths, tmp_path / "fresh", threshold=0.9, mode="rebuild")
    assert_same_tree(results(second.output), results(fresh.output))

    kept_after, removed_after = kept_ids(second), removals(second)
    wanted = {}
    for name in [record.id for shard in known.shards[:2] for record in shard]:
        before, after = removed_before.get(name, (None,))[0], removed_after.get(name, (None,))[0]
        if (name in kept_before, before) != (name in kept_after, after):
            wanted[name] = (
                "kept" if name in kept_before else "removed",
                "kept" if name in kept_after else "removed",
                before,
                after,
            )
    assert wanted, "the corpus proves nothing"
    changes = pq.read_table(second.output / "changes" / "0002.parquet").to_pylist()
    listed = {r["id"]: (r["before"], r["after"], r["keeper_before"], r["keeper_after"]) for r in changes}
    assert len(listed) == len(changes) and listed == wanted
