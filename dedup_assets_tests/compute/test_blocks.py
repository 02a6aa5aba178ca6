"""Blocks hold what their cells need and each row once; groups of cells keep the bound and leave nothing out."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute import blocks
from dedup_assets.compute.blocks import ShardPiece, build_block, new_first
from dedup_assets.compute.cell_groups import LISTING_BYTES, SKETCH_BYTES, plan_groups
from dedup_assets_tests.compute.pieces import FIRST_KEY, pieces_of
from dedup_assets_tests.compute.test_cells import centroids_of
from dedup_assets_tests.compute.vectors import make_vectors, seeds


def random_pieces(seed: int, n: int, k: int, shard_count: int) -> list[ShardPiece]:
    rng = np.random.default_rng(seed)
    vectors = make_vectors("clustered", n, 12, np.float16, seed)
    new_shards = rng.random(shard_count) < 0.5
    shards = rng.integers(0, shard_count, n)
    return pieces_of(vectors, centroids_of("rows", k, vectors, seed), 0.8, shards, new_shards)


def compared(pieces: list[ShardPiece], first: int, last: int) -> dict[int, tuple[list[int], list[int]]]:
    """By cell: keys at home and keys of ghosts, as the pieces say; old ghosts only beside new homes."""
    found = {}
    for cell in range(first, last):
        beside_new = any(p.is_new and p.home_offsets[cell + 1] > p.home_offsets[cell] for p in pieces)
        homes, ghosts = [], []
        for piece in pieces:
            keys = np.asarray(piece.keys) + piece.first_key
            homes += keys[piece.home_offsets[cell] : piece.home_offsets[cell + 1]].tolist()
            if piece.is_new or beside_new:
                ghosts += keys[piece.ghost_rows[piece.ghost_offsets[cell] : piece.ghost_offsets[cell + 1]]].tolist()
        found[cell] = (sorted(homes), sorted(ghosts))
    return found


@settings(max_examples=80, deadline=None)
@given(seeds, st.integers(1, 120), st.integers(1, 10), st.integers(1, 4), st.data())
def test_a_block_holds_the_rows_of_its_cells_each_once(seed, n, k, shard_count, data):
    pieces = random_pieces(seed, n, k, shard_count)
    cells = len(pieces[0].home_offsets) - 1
    first = data.draw(st.integers(0, cells))
    last = data.draw(st.integers(first, cells))
    block = build_block(pieces, first, last, threads=data.draw(st.integers(1, 3)))
    by_key = {int(key) + p.first_key: (v, p.is_new) for p in pieces for key, v in zip(p.keys, p.vectors, strict=True)}
    assert len(set(block.keys.tolist())) == len(block.keys) == len(block.vectors) == len(block.is_new)
    for key, vector, is_new in zip(block.keys.tolist(), block.vectors, block.is_new, strict=True):
        assert (vector == by_key[key][0]).all() and is_new == by_key[key][1]
    for cell, (homes, ghosts) in compared(pieces, first, last).items():
        for offsets, rows, wanted in (
            (block.home_offsets, block.home_rows, homes),
            (block.ghost_offsets, block.ghost_rows, ghosts),
        ):
            listed = rows[offsets[cell - first] : offsets[cell - first + 1]]
            assert sorted(block.keys[listed].tolist()) == wanted


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 120), st.integers(1, 10), st.integers(1, 4), st.integers(2, 5), st.integers(1, 40))
def test_any_number_of_threads_builds_the_same_block(seed, n, k, shard_count, threads, least):
    pieces = random_pieces(seed, n, k, shard_count)
    cells = len(pieces[0].home_offsets) - 1
    wanted = build_block(pieces, 0, max(1, cells // 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "LISTED_APART", least)
        patch.setattr(blocks, "ROWS_APART", least)
        same_block(build_block(pieces, 0, max(1, cells // 2), threads), wanted)


def same_block(found, wanted):
    for name in ("vectors", "home_rows", "home_offsets", "ghost_rows", "ghost_offsets", "is_new", "keys"):
        assert (getattr(found, name) == getattr(wanted, name)).all(), name


def test_one_shard_is_gathered_by_several_threads(monkeypatch):
    (piece,) = random_pieces(7, 400, 8, 1)
    met = threading.Barrier(2, timeout=20)  # broken, and so an error, where one thread does it all
    monkeypatch.setattr(blocks, "ROWS_APART", 64)
    wanted = build_block([piece], 0, 5)
    take = blocks._Part.take
    together = []

    def taken(part, source, out, *first):
        if source is piece.vectors and len(together) < 2:
            together.append(threading.get_ident())
            met.wait()
        take(part, source, out, *first)

    monkeypatch.setattr(blocks._Part, "take", taken)
    same_block(build_block([piece], 0, 5, threads=2), wanted)
    assert len(set(together)) == 2


def test_one_whole_shard_is_taken_without_a_copy():
    (piece,) = random_pieces(0, 50, 5, 1)
    assert np.shares_memory(build_block([piece], 0, 5).vectors, piece.vectors)
    assert not np.shares_memory(build_block([piece], 0, 2).vectors, piece.vectors)


def test_memory_maps_give_the_same_block_as_arrays(tmp_path):
    pieces = random_pieces(3, 200, 6, 3)
    mapped = []
    for number, piece in enumerate(pieces):
        arrays = {}
        for name in ("vectors", "ghost_rows", "keys"):
            np.save(tmp_path / f"{number}-{name}.npy", getattr(piece, name))
            arrays[name] = np.load(tmp_path / f"{number}-{name}.npy", mmap_mode="r")
        mapped.append(replace(piece, **arrays))
    for first, last in ((0, 6), (2, 5)):
        same_block(build_block(mapped, first, last), build_block(pieces, first, last))


def test_keys_are_those_of_the_piece_and_its_first():
    (piece,) = random_pieces(1, 30, 3, 1)
    assert sorted(build_block([piece], 0, 3).keys.tolist()) == [FIRST_KEY + row for row in range(30)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), seeds)
def test_new_rows_come_first_in_each_cell_and_keep_their_order(counts, seed):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = rng.integers(0, 40, offsets[-1]).astype(np.int32)
    is_new = rng.random(40) < rng.random()
    found = new_first(rows, offsets, is_new)
    for start, stop in itertools.pairwise(offsets):
        cell = rows[start:stop].tolist()
        wanted = [row for row in cell if is_new[row]] + [row for row in cell if not is_new[row]]
        assert found[start:stop].tolist() == wanted


@settings(max_examples=80, deadline=None)
@given(seeds, st.integers(1, 150), st.integers(1, 14), st.integers(1, 4), st.integers(1, 9), st.integers(1, 40_000))
def test_groups_hold_every_pair_once_and_their_blocks_keep_the_bound(seed, n, k, shard_count, wanted, most):
    pieces = random_pieces(seed, n, k, shard_count)
    groups = plan_groups(pieces, most, wanted)
    cells = [cell for group in groups for cell in range(group.first, group.last)]
    assert len(set(cells)) == len(cells)
    k = len(pieces[0].home_offsets) - 1
    for cell in set(range(k)) - set(cells):  # left out: nothing new at home, and none listed beside a home row
        new = [p for p in pieces if p.is_new]
        assert all(p.home_offsets[cell] == p.home_offsets[cell + 1] for p in new)
        assert all(p.ghost_offsets[cell] == p.ghost_offsets[cell + 1] for p in new) or all(
            p.home_offsets[cell] == p.home_offsets[cell + 1] for p in pieces
        )
    row_bytes = SKETCH_BYTES + pieces[0].vectors.shape[1] * 2
    for group in groups:
        block = build_block(pieces, group.first, group.last)
        held = len(block.vectors) * row_bytes + len(block.ghost_rows) * LISTING_BYTES
        assert group.last - group.first == 1 or held <= most
    assert [group.cost for group in groups] == sorted((group.cost for group in groups), reverse=True)


def test_everything_is_one_group_where_memory_allows_it():
    pieces = [replace(piece, is_new=True) for piece in random_pieces(5, 400, 20, 3)]
    assert [group[:2] for group in plan_groups(pieces, 1 << 30)] == [(0, 20)]


def test_a_row_that_many_cells_list_counts_once():
    n, k, own = 1_000, 10, 100
    offsets = np.arange(k + 1) * own
    ghosts = np.tile(np.arange(own, dtype=np.int32), k - 1)  # cells 1 to 9 list the rows of cell 0
    listed = np.concatenate([[0], np.arange(k) * own])
    piece = ShardPiece(np.ones((n, 4), np.float16), offsets, ghosts, listed, np.arange(n), True)
    most = 700 * (SKETCH_BYTES + 8) + 700 * LISTING_BYTES
    assert sorted(group[:2] for group in plan_groups([piece], most)) == [(0, 7), (7, 10)]


@pytest.mark.parametrize("wanted", [2, 5, 8])
def test_groups_share_the_cost(wanted):
    n, k = 4_000, 100
    offsets = np.arange(k + 1) * (n // k)
    ghosts = (np.arange(k * 50) * 7 % n).astype(np.int32)
    piece = ShardPiece(np.ones((n, 4), np.float16), offsets, ghosts, np.arange(k + 1) * 50, np.arange(n), True)
    groups = plan_groups([piece], 1 << 40, wanted)
    assert wanted <= len(groups) <= wanted + 1
    assert max(group.cost for group in groups) <= 1.1 * sum(group.cost for group in groups) / wanted


def test_no_shard_and_nothing_new_mean_no_group():
    assert plan_groups([], 1 << 20) == []
    pieces = [replace(piece, is_new=False) for piece in random_pieces(2, 60, 4, 2)]
    assert plan_groups(pieces, 1 << 20) == []
