"""Promises of the counts behind the pictures: they are what deciding again, or comparing every pair, gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dedup_assets as da
from dedup_assets.lookups import measures
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, make_table, removals, write_shards
from dedup_assets_tests.assets.oracle import by_hash_of_id, first, longest, read_corpus, sequential

FLOOR = 0.8
ORDERS = {"first": first, "longest": longest, "random": by_hash_of_id(0)}


def opened(workspace: Path) -> tuple[Workspace, object]:
    space = Workspace.open(workspace)
    generation = space.ledger.generation()
    assert generation is not None
    return space, generation


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("clustered", {"keep": "longest"}),
        ("random", {"mode": "rebuild"}),
        ("boilerplate", {"dense_limit": 2, "keep": "random"}),
        ("clustered", {"keeper_rule": "semdedup"}),
    ],
)
def test_the_curve_is_what_deciding_at_each_threshold_gives(kind: str, options: dict, tmp_path: Path) -> None:
    tables = corpus(kind, [40, 30, 25], seed=3)
    ws = tmp_path / "ws"
    curate(write_shards(tmp_path / "in", tables), ws, threshold=0.9, floor=FLOOR, **options)
    space, generation = opened(ws)
    found = measures.removals_by_threshold(space, generation, steps=5)
    if "dense_limit" in options:
        assert any(done.stats["dense_cells"] for done in space.ledger.completions("pairwise_similarities").values())
    whole = read_corpus(ws, tables)
    for threshold, removed in zip(found.thresholds.tolist(), found.removed.tolist(), strict=True):
        decided = sequential(
            whole,
            threshold,
            order=ORDERS[options.get("keep", "first")],
            keepers_only="keeper_rule" not in options,
            rebuild="mode" in options,
        )
        assert removed == sum(decision.keeper is not None for decision in decided.values()), threshold
    assert found.records == 95 and found.identical == 95 - len(whole.texts)
    assert {0.8, 0.9, 1.0} <= set(found.thresholds.tolist())


def test_the_curve_follows_references_and_retractions(tmp_path: Path) -> None:
    tables = corpus("boilerplate", [30, 30, 30, 30], seed=5)
    paths = write_shards(tmp_path / "in", tables)
    ws = tmp_path / "ws"
    curate(paths[1:], ws, threshold=0.9, floor=FLOOR)
    da.curate(paths[0], workspace=ws, role="reference")
    da.retract("s02", workspace=ws)
    da.retract("r0035", workspace=ws)
    space, generation = opened(ws)
    found = measures.removals_by_threshold(space, generation, steps=2)
    for threshold, removed in zip(found.thresholds.tolist(), found.removed.tolist(), strict=True):
        fresh = tmp_path / f"fresh-{threshold}"
        curate(paths[:1], fresh, threshold=threshold, floor=FLOOR, role="reference")
        da.curate(paths[1], paths[3], workspace=fresh)
        da.retract("r0035", workspace=fresh)
        assert removed == len(removals(da.open_curation(fresh))), threshold
    assert found.records == 59


def test_best_matches_are_those_of_comparing_every_pair(tmp_path: Path) -> None:
    tables = corpus("clustered", [50, 40, 30], seed=7)
    ws = tmp_path / "ws"
    curation = curate(write_shards(tmp_path / "in", tables), ws, threshold=0.9, floor=FLOOR)
    space, generation = opened(ws)
    whole = read_corpus(ws, tables)
    cosines = whole.cosines.copy()
    np.fill_diagonal(cosines, -1.0)
    kept = set(curation.kept.to_arrow(["id"]).column("id").to_pylist())
    best = cosines.max(axis=1)
    records = [record for shard in whole.shards for record in shard]
    text_kept = np.array([any(r.id in kept for r in records if r.text_number == t) for t in range(len(best))])

    found = measures.best_matches(space, generation)
    assert found.unmatched == int((best < FLOOR).sum())
    for low, high, count, which in (
        *((a, b, n, True) for a, b, n in zip(found.edges, found.edges[1:], found.kept, strict=False)),
        *((a, b, n, False) for a, b, n in zip(found.edges, found.edges[1:], found.removed, strict=False)),
    ):
        inside = (best >= low) & ((best < high) if high < 1.0 else (best <= 1.0)) & (text_kept == which)
        assert count == int(inside.sum()), (low, high, which)
    assert 0.9 in found.edges
    # A removed text has a match at the threshold, so none stands below it.
    assert found.removed[found.edges[:-1] < 0.9].sum() == 0 < found.removed.sum()

    # Of one shard: its own texts, against everything up to it.
    second = measures.decided_admissions(space)[1]
    seen = {r.text_number for r in whole.shards[0]}
    own = sorted({r.text_number for r in whole.shards[1]} - seen)
    before = cosines[np.ix_(own, sorted(seen | set(own)))].max(axis=1)
    one = measures.best_matches(space, generation, second)
    assert (one.matched, one.unmatched) == (int((before >= FLOOR).sum()), int((before < FLOOR).sum()))


def test_cells_hold_every_text_once(tmp_path: Path) -> None:
    ws = tmp_path / "ws"
    tables = corpus("clustered", [60, 50], seed=1)
    curate(write_shards(tmp_path / "in", tables), ws, threshold=0.9, clusters=7)
    space, _ = opened(ws)
    admissions = measures.decided_admissions(space)
    codebook = space.ledger.codebook()
    assert codebook is not None
    sizes = measures.cell_sizes(space, admissions, codebook.number)
    assert len(sizes.homes) == 7 and sizes.homes.sum() == sum(a.texts for a in admissions)
    assert sizes.skew == pytest.approx(sizes.homes.max() / sizes.homes.mean())


def test_measures_of_a_workspace_without_duplicates_are_zero(tmp_path: Path) -> None:
    ws = tmp_path / "ws"
    names = [f"r{i}" for i in range(4)]
    table = make_table(names, names, np.eye(4))
    curate(write_shards(tmp_path / "in", [table]), ws)
    space, generation = opened(ws)
    found = measures.removals_by_threshold(space, generation)
    assert found.removed.tolist() == [0] * len(found.thresholds) and found.identical == 0
    best = measures.best_matches(space, generation)
    assert (best.matched, best.unmatched) == (0, 4)
