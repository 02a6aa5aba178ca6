"""Dense cells change which pairs are listed and what it costs, and no decision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute.blocks import CellBlock
from dedup_assets.compute.cells import assign
from dedup_assets.compute.decisions import KEPT, REMOVED, UNKNOWN, Walk
from dedup_assets.compute.dense import DenseCell, merge_cells, walk_dense
from dedup_assets.compute.in_memory import deduplicate_vectors, exact_matches
from dedup_assets.compute.join import DenseCells, Matches, match_cells, unique_matches
from dedup_assets.compute.similarity import canonical_pairs
from dedup_assets_tests.compute.test_cells import centroid_kinds, centroids_of
from dedup_assets_tests.compute.test_decisions import cover
from dedup_assets_tests.compute.vectors import (
    away_from_ties,
    brute_force,
    dtypes,
    floors,
    kinds,
    make_vectors,
    seeds,
)

rules = st.sampled_from(["leader", "semdedup"])


def walked(vectors: np.ndarray, cosines: np.ndarray, threshold: float, rule: str) -> list[int | None]:
    """Row by row over all pairs: None where a row stays, else the row it names."""
    named: list[int | None] = []
    for row in range(len(vectors)):
        before = np.array([i for i in range(row) if rule == "semdedup" or named[i] is None], dtype=np.int64)
        match = before[cosines[row, before] >= threshold]
        exact = canonical_pairs(vectors, match, np.full(len(match), row))
        named.append(int(match[np.argmax(exact)]) if len(match) else None)
    return named


@settings(max_examples=60, deadline=None)
@given(kinds, st.integers(1, 130), dtypes, floors, rules, st.integers(1, 14), st.integers(1, 3), seeds)
def test_decisions_with_dense_cells_are_those_of_comparing_every_pair(kind, n, dtype, floor, rule, k, limit, seed):
    rng = np.random.default_rng(seed)
    vectors = make_vectors(kind, n, 24, dtype, seed)
    cosines = brute_force(vectors)
    threshold = away_from_ties(cosines, floor)
    dense = deduplicate_vectors(
        vectors, threshold, rule=rule, dense_limit=limit, clusters=k, seed=seed,
        threads=int(rng.integers(1, 3)), device=["cpu", "cpu:0"][rng.integers(2)],
    ).decisions  # fmt: skip
    listed = deduplicate_vectors(vectors, threshold, rule=rule, dense_limit=0).decisions
    wanted = walked(vectors, cosines, threshold, rule)
    assert [None if kept else keeper for kept, keeper in zip(dense.kept, dense.keeper.tolist(), strict=True)] == wanted
    for name in ("kept", "keeper", "similarity"):
        np.testing.assert_array_equal(getattr(dense, name), getattr(listed, name))


@pytest.mark.parametrize("rule", ["leader", "semdedup"])
@pytest.mark.parametrize("width", [0, 16, None])
def test_any_sketch_and_piece_decide_alike(rule, width):
    vectors = make_vectors("boilerplate", 200, 64, np.float16, 3)
    decided = np.full(200, UNKNOWN, np.int8)
    empty = np.empty(0, np.int64)
    every = DenseCell(np.arange(200), np.ones(200, bool))
    found = []
    for piece in (9, 37, 4096):
        walk = Walk(empty, empty, np.empty(0), 200, 0.97, decided, keepers_only=rule == "leader")
        walk_dense(walk, [every], lambda rows: vectors[rows], decided, piece=piece, sketch=width)
        found.append(walk.decisions())
    i, j = np.triu_indices(200, 1)
    wanted = cover(i, j, canonical_pairs(vectors, i, j), 200, 0.97, keepers_only=rule == "leader")
    assert 0 < wanted.kept.sum() < 200
    for one in found:
        for name in ("kept", "keeper", "similarity"):
            np.testing.assert_array_equal(getattr(one, name), getattr(wanted, name))


@settings(max_examples=40, deadline=None)
@given(kinds, st.integers(2, 120), st.integers(0, 60), rules, st.integers(1, 60), seeds)
def test_what_was_decided_before_stands_and_counts(kind, n, before, rule, piece, seed):
    before = min(before, n)
    rng = np.random.default_rng(seed)
    vectors = make_vectors(kind, n, 24, np.float16, seed)
    decided = np.full(n, UNKNOWN, np.int8)
    decided[:before] = rng.choice([REMOVED, KEPT], before)
    i, j = np.triu_indices(n, 1)
    similarity = canonical_pairs(vectors, i, j)
    wanted = cover(i, j, similarity, n, 0.9, decided, keepers_only=rule == "leader")
    # Some matches are listed, those within a dense cell are not, and some are both.
    members = np.flatnonzero(rng.random(n) < 0.6)
    inside = np.isin(i, members) & np.isin(j, members)
    listed = ~inside | (rng.random(len(i)) < 0.1)
    walk = Walk(i[listed], j[listed], similarity[listed], n, 0.9, decided, keepers_only=rule == "leader")
    cells = [DenseCell(members, np.ones(len(members), bool))]
    walk_dense(walk, cells, lambda rows: vectors[rows], decided, piece=piece)
    found = walk.decisions()
    np.testing.assert_array_equal(found.kept, wanted.kept)
    new = slice(before, None)  # of fixed nodes the edges that explain them are not asked for
    np.testing.assert_array_equal(found.keeper[new], wanted.keeper[new])
    np.testing.assert_array_equal(found.similarity[new], wanted.similarity[new])


def all_cells(vectors: np.ndarray, centroids: np.ndarray, floor: float, new: np.ndarray) -> CellBlock:
    cells = assign(vectors, centroids, floor)
    rows, offsets = cells.home_rows()
    return CellBlock(vectors, offsets, rows, cells.ghost_offsets, cells.ghost_rows, new)


def members_of(block: CellBlock, cell: int) -> DenseCell:
    homes = block.home_rows[block.home_offsets[cell] : block.home_offsets[cell + 1]]
    return DenseCell.of(homes, block.ghost_rows[block.ghost_offsets[cell] : block.ghost_offsets[cell + 1]])


def inside(cells: list[DenseCell], i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Which pairs are between a home record and another record of one of the cells."""
    found = np.zeros(len(i), bool)
    for cell in cells:
        homes = cell.members[cell.home]
        both = np.isin(i, cell.members) & np.isin(j, cell.members)
        found |= both & (np.isin(i, homes) | np.isin(j, homes))
    return found


devices = st.sampled_from(["cpu", "cpu:0"])
"""`cpu:0` takes the path of a GPU."""


@settings(max_examples=80, deadline=None)
@given(kinds, st.integers(2, 130), st.integers(1, 30), st.integers(1, 4), floors, centroid_kinds, seeds, devices)
def test_a_match_is_listed_or_lies_in_a_dense_cell_and_none_is_made_up(kind, n, k, limit, floor, which, seed, device):
    rng = np.random.default_rng(seed)
    vectors = make_vectors(kind, n, 24, np.float16, seed)
    floor = away_from_ties(brute_force(vectors), floor)
    new = rng.random(n) < rng.choice([0.2, 1.0])
    block = all_cells(vectors, centroids_of(which, k, vectors, seed), floor, new)
    dense = DenseCells(limit)
    found = unique_matches(list(match_cells(block, floor, device=device, threads=2, max_matches=50, dense=dense)))
    everything = unique_matches(list(match_cells(block, floor)))
    place = set(zip(found.i.tolist(), found.j.tolist(), strict=True))
    pairs = zip(everything.i.tolist(), everything.j.tolist(), strict=True)
    missing = np.array([pair not in place for pair in pairs], bool)
    assert len(found) + missing.sum() == len(everything), "a pair was listed that is no match"
    assert len(set(dense.cells)) == len(dense.cells)
    cells = [members_of(block, cell) for cell in dense.cells]
    for group in (cells, merge_cells(cells)):
        assert inside(group, everything.i[missing], everything.j[missing]).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200), st.integers(1, 12), st.integers(1, 4), seeds)
def test_which_cells_are_dense_depends_on_no_buffer_thread_or_tile(n, k, limit, seed):
    vectors = make_vectors("boilerplate", n, 24, np.float16, seed)
    block = all_cells(vectors, centroids_of("rows", k, vectors, seed), 0.8, np.ones(n, bool))
    outcomes = []
    for options in ({}, {"threads": 2, "max_matches": 7}, {"tile_bytes": 1, "max_matches": 1}):
        dense = DenseCells(limit)
        found = unique_matches(list(match_cells(block, 0.8, dense=dense, **options)))
        outcomes.append((sorted(dense.cells), found.i.tolist(), found.j.tolist()))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_ordinary_families_are_listed_and_a_limit_of_zero_lists_everything():
    rng = np.random.default_rng(0)
    templates = np.repeat(rng.normal(size=(20, 32)), 120, axis=0)
    vectors = (templates + 0.01 * rng.normal(size=templates.shape)).astype(np.float16)
    for limit in (256, 0):
        stats: dict[str, float] = {}
        exact_matches(vectors, 0.9, dense_limit=limit, stats=stats)
        assert stats["dense_cells"] == 0
        assert stats["matches"] >= 20 * 120 * 119 / 2
    dense = DenseCells(0)
    block = all_cells(vectors, vectors[:4], 0.9, np.ones(len(vectors), bool))
    list(match_cells(block, 0.9, dense=dense))
    assert dense.cells == []
    with pytest.raises(ValueError, match="limit"):
        DenseCells(-1)


def test_merging_puts_cells_of_one_template_together_and_keeps_every_pair():
    a = DenseCell.of(np.arange(0, 50), np.arange(50, 120))
    b = DenseCell.of(np.arange(50, 100), np.arange(0, 50))
    c = DenseCell.of(np.arange(200, 300), np.array([3, 4]))
    merged = merge_cells([c, a, b])
    assert [cell.members.tolist() for cell in merged] == [[3, 4, *range(200, 300)], list(range(120))]
    assert merged[1].home.tolist() == [True] * 100 + [False] * 20
    i, j = np.triu_indices(300, 1)
    assert (inside(merged, i, j) | ~inside([a, b, c], i, j)).all()


def near_copies(n: int, copies: int) -> np.ndarray:
    """Rows in many directions, of which some are near-copies of ten."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(n, 64)).astype(np.float32)
    chosen = rng.permutation(n)[:copies]
    templates = vectors[rng.integers(0, n, 10)]
    vectors[chosen] = templates[np.arange(copies) % 10] + 0.1 * vectors[chosen]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_twice_as_many_near_copies_cost_about_twice_the_products_and_no_more_listed_pairs():
    products = {}
    for copies in (10_000, 20_000):
        stats: dict[str, float] = {}
        decisions = deduplicate_vectors(
            near_copies(40_000, copies), 0.95, clusters=100, threads=2, stats=stats
        ).decisions  # fmt: skip
        assert decisions.kept.sum() < 40_000 - copies + 100
        assert stats["dense_cells"] >= 10
        assert stats["matches"] < 5 * 40_000, "instead of 10 to 40 million"
        products[copies] = stats["dense_products"]
    assert products[20_000] < 2.8 * products[10_000]
    assert products[20_000] < 20_000**2 / 4


def test_a_device_names_the_cells_of_a_template_before_it_lists_a_match_of_theirs():
    vectors = near_copies(20_000, 12_000)
    stats: dict[str, dict[str, float]] = {device: {} for device in ("cpu", "cpu:0")}
    options = {"clusters": 60, "dense_limit": 40}
    outcomes = [deduplicate_vectors(vectors, 0.95, device=d, stats=f, **options).decisions for d, f in stats.items()]
    for name in ("kept", "keeper", "similarity"):
        np.testing.assert_array_equal(*(getattr(outcome, name) for outcome in outcomes))
    assert stats["cpu:0"]["dense_cells"] == stats["cpu"]["dense_cells"] >= 10
    assert stats["cpu:0"]["matches"] < 5 * 20_000, "instead of 7 million"


def test_on_a_device_only_a_cell_with_new_rows_is_sampled_and_only_its_new_pairs_are_counted():
    vectors = near_copies(3_000, 3_000)
    new = np.zeros(3_000, bool)
    for count, wanted in ((0, []), (40, [0])):
        new[:count] = True
        dense = DenseCells(2)
        found = list(match_cells(all_cells(vectors, vectors[:1], 0.0, new), 0.0, device="cpu:0", dense=dense))
        assert dense.cells == wanted and found == []


def test_matches_of_a_dense_cell_are_not_held_for_long():
    vectors = near_copies(4_000, 4_000)
    block = all_cells(vectors, vectors[:1], 0.9, np.ones(4_000, bool))
    dense = DenseCells(4)
    found: list[Matches] = list(match_cells(block, 0.9, dense=dense))
    assert dense.cells == [0] and found == []
