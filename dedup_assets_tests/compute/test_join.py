from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute import precision
from dedup_assets.compute.cell_groups import plan_groups
from dedup_assets.compute.in_memory import exact_matches
from dedup_assets.compute.join import (
    CellBlock,
    DenseCells,
    Matches,
    ShardPiece,
    match_cells,
    match_pieces,
    unique_matches,
)
from dedup_assets.compute.scan import bound_pattern
from dedup_assets.compute.similarity import canonical_pairs
from dedup_assets.compute.streams import stream
from dedup_assets_tests.compute.pieces import pieces_of
from dedup_assets_tests.compute.test_cells import centroid_kinds, centroids_of
from dedup_assets_tests.compute.vectors import (
    KINDS,
    away_from_ties,
    brute_force,
    differences,
    dtypes,
    floors,
    kinds,
    make_vectors,
    seeds,
)


def wanted_pairs(vectors: np.ndarray, floor: float, new: np.ndarray | None = None) -> np.ndarray:
    wanted = np.triu(brute_force(vectors) >= floor, 1)
    return wanted if new is None else wanted & (new[:, None] | new[None, :])


def assert_exact(found: Matches, vectors: np.ndarray, floor: float, new: np.ndarray | None = None) -> None:
    missed, extra = differences(found.i, found.j, wanted_pairs(vectors, floor, new))
    assert (missed, extra) == ([], [])
    assert (found.i < found.j).all()
    assert (np.diff(found.i * len(vectors) + found.j) > 0).all(), "sorted, each pair once"
    assert (found.similarity == canonical_pairs(vectors, found.i, found.j)).all()
    assert (found.similarity >= floor).all()


@settings(max_examples=100, deadline=None)
@given(kinds, st.integers(0, 150), st.integers(1, 80), dtypes, floors, st.integers(1, 30), centroid_kinds, seeds)
def test_matches_are_those_of_comparing_every_pair(kind, n, d, dtype, floor, k, which, seed):
    rng = np.random.default_rng(seed)
    vectors = make_vectors(kind, n, d, dtype, seed)
    floor = away_from_ties(brute_force(vectors), floor)
    new = rng.random(n) < rng.choice([0.0, 0.1, 0.5, 1.0])
    found = exact_matches(
        vectors,
        floor,
        centroids=centroids_of(which, k, vectors, seed),
        new=new,
        threads=int(rng.integers(1, 3)),
        tile_bytes=int(rng.choice([1, 70_000, 1 << 20])),
        sketch=int(rng.choice([0, 2, 16])),
    )
    assert_exact(found, vectors, floor, new)


@settings(max_examples=60, deadline=None)
@given(kinds, st.integers(0, 120), st.integers(0, 120), floors, st.integers(1, 12), st.integers(0, 3), seeds)
def test_between_two_sides_each_pair_across_is_found_and_no_other(kind, ours, theirs, floor, k, limit, seed):
    vectors = make_vectors(kind, ours + theirs, 24, np.float16, seed)
    floor = away_from_ties(brute_force(vectors), floor)
    sides = np.arange(ours + theirs) < ours
    found = exact_matches(vectors, floor, sides=sides, clusters=k)
    wanted = wanted_pairs(vectors, floor) & (sides[:, None] != sides[None, :])
    assert differences(found.i, found.j, wanted) == ([], [])
    some = exact_matches(vectors, floor, sides=sides, clusters=k, dense_limit=limit)
    inside = np.zeros_like(wanted)
    for cell in some.dense:
        inside[np.ix_(cell.members[cell.home], cell.members)] = True
    missed, extra = differences(some.i, some.j, wanted & ~(inside | inside.T))
    assert not missed and all(wanted[i, j] for i, j in extra)


def test_a_floor_must_be_a_cosine():
    with pytest.raises(ValueError, match="cosine"):
        exact_matches(np.ones((3, 4), np.float16), 1.5)


@settings(max_examples=15, deadline=None)
@given(kinds, st.integers(2, 200), dtypes, st.integers(1, 40), seeds)
def test_clusters_and_seed_change_nothing(kind, n, dtype, clusters, seed):
    vectors = make_vectors(kind, n, 24, dtype, seed)
    one = exact_matches(vectors, 0.85)
    other = exact_matches(vectors, 0.85, clusters=clusters, seed=seed)
    for name in ("i", "j", "similarity"):
        assert (getattr(one, name) == getattr(other, name)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_larger_sets_with_the_default_choices(kind, dtype):
    n = 1000 if kind == "boilerplate" else 5000
    vectors = make_vectors(kind, n, 160, dtype, 11)
    floor = away_from_ties(brute_force(vectors), 0.9)
    assert_exact(exact_matches(vectors, floor, threads=2), vectors, floor)


@pytest.mark.parametrize("floor", [0.004, 0.0, -1e-9, -0.4, -1.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_floors_at_and_below_zero(floor, dtype):
    for kind in KINDS:
        vectors = make_vectors(kind, 60, 10, dtype, 2)
        cosines = brute_force(vectors)
        cosines[cosines == 0] = 9  # zero rows are at exactly 0 for both sides
        floor = max(away_from_ties(cosines, floor), -1.0)
        for sketch in (0, 4):
            found = exact_matches(vectors, floor, clusters=5, sketch=sketch)
            assert_exact(found, vectors, floor)


def test_a_floor_of_one_finds_identical_rows():
    vectors = np.repeat(make_vectors("random", 40, 77, np.float16, 0), 2, axis=0)
    found = exact_matches(vectors, 1.0, clusters=7)
    assert (found.i % 2 == 0).all() and (found.j == found.i + 1).all() and len(found) == 40


# Device "cpu:0" takes the path of GPUs, on CPU tensors; fp16 is proposed in there only.
@pytest.mark.parametrize(
    ("device", "low"), [("cpu", "bf16"), ("cpu", "fp32"), ("cpu:0", "bf16"), ("cpu:0", "fp32"), ("cpu:0", "fp16")]
)
def test_every_precision_and_path_decides_alike(device, low, monkeypatch):
    from dedup_assets.compute import cell_worker, cells, sketch

    for module in (precision, cells, cell_worker, sketch):
        monkeypatch.setattr(module, "native_precision", lambda device: low)
    for kind in KINDS:
        vectors = make_vectors(kind, 400, 40, np.float16, 8)
        floor = away_from_ties(brute_force(vectors), 0.88)
        for width in (0, 12):
            found = exact_matches(vectors, floor, clusters=9, device=device, sketch=width)
            assert_exact(found, vectors, floor)


def test_dense_cells_are_handed_over_in_bounded_parts():
    vectors = np.tile(make_vectors("random", 1, 32, np.float16, 0), (700, 1))
    everything = np.arange(700, dtype=np.int32)
    none = np.empty(0, np.int32)
    block = CellBlock(vectors, np.array([0, 700]), everything, np.array([0, 0]), none, np.ones(700, bool))
    for threads in (1, 2):
        parts = list(match_cells(block, 0.9, max_matches=1000, threads=threads))
        assert max(len(part) for part in parts) <= 1000
        assert sum(len(part) for part in parts) == 700 * 699 // 2
    stream = match_cells(block, 0.9, max_matches=10)
    assert len(next(stream)) == 10
    stream.close()  # stops the workers


def test_callers_at_once_leave_torch_the_threads_that_it_had():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    one, other = precision.one_thread_each(2), precision.one_thread_each(2)
    one.__enter__()
    other.__enter__()
    assert torch.get_num_threads() == 1
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == 3


def test_an_error_in_a_worker_reaches_the_caller():
    class Worker:
        def __init__(self, emit):
            self.emit = emit

        def __call__(self, item):
            self.emit(item)
            if item == 3:
                raise RuntimeError("item 3")

        def finish(self):
            self.emit("end")

    with pytest.raises(RuntimeError, match="item 3"):
        list(stream(Worker, 100, 2))
    assert sorted(stream(Worker, 3, 1), key=str) == [0, 1, 2, "end"]


@settings(max_examples=40, deadline=None)
@given(kinds, st.integers(1, 160), dtypes, st.integers(1, 12), st.integers(1, 4), st.integers(1, 5), seeds)
def test_shards_and_groups_of_cells_change_nothing(kind, n, dtype, k, shard_count, groups, seed):
    rng = np.random.default_rng(seed)
    vectors = make_vectors(kind, n, 20, dtype, seed)
    floor = away_from_ties(brute_force(vectors), 0.9)
    shards = rng.integers(0, shard_count, n)
    new_shards = rng.random(shard_count) < 0.6
    centroids = centroids_of("rows", k, vectors, seed)
    pieces = pieces_of(vectors, centroids, floor, shards, new_shards)
    found = []
    for first, last, _ in plan_groups(pieces, 1 << 14, groups):
        found += list(match_pieces(pieces, first, last, floor, max_matches=50, threads=int(rng.integers(1, 3))))
    joined = unique_matches(found)
    plain = Matches(joined.i - (1 << 40), joined.j - (1 << 40), joined.similarity)
    assert_exact(plain, vectors, floor, new_shards[shards])


def test_one_text_in_two_shards_is_not_a_match():
    vectors = make_vectors("random", 6, 8, np.float32, 0)
    offsets, none = np.array([0, 6]), np.array([0, 0])
    piece = ShardPiece(vectors, offsets, np.empty(0, np.int32), none, np.arange(6), True)
    assert not list(match_pieces([piece, piece], 0, 1, 0.999))


def test_pieces_that_do_not_fit_together_are_refused():
    one = pieces_of(make_vectors("random", 5, 4, np.float16, 0), np.eye(4), 0.9, np.zeros(5, int), [True])
    two = pieces_of(make_vectors("random", 5, 4, np.float32, 0), np.eye(4), 0.9, np.zeros(5, int), [True])
    with pytest.raises(ValueError, match="differ"):
        list(match_pieces(one + two, 0, 4, 0.9))
    with pytest.raises(ValueError, match="outside"):
        list(match_pieces(one, 0, 5, 0.9))
    with pytest.raises(ValueError, match="at least one"):
        list(match_pieces([], 0, 1, 0.9))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_inputs(n):
    vectors = np.ones((n, 5), np.float16)
    assert len(exact_matches(vectors, 0.9)) == (n == 2)


@settings(max_examples=200, deadline=None)
@given(st.floats(-1, 1, width=32), st.floats(-1.5, 1.5, width=32))
def test_bit_patterns_compare_like_the_floats(bound, value):
    import torch

    from dedup_assets.compute.scan import LOWEST_BOUND, order_pattern

    rounded = torch.tensor([value, bound]).bfloat16()
    narrow, wide = int(rounded.view(torch.int16)[0]), int(np.float32(value).view(np.int32))
    if bound < LOWEST_BOUND:
        narrow, wide = order_pattern(narrow, 16), order_pattern(wide, 32)
    # a proposal may never be lost; near zero a few more may be made
    if rounded[0] >= rounded[1]:
        assert narrow >= bound_pattern(bound, False)
    elif bound >= LOWEST_BOUND:
        assert narrow < bound_pattern(bound, False)
    if value >= bound:
        assert wide >= bound_pattern(bound, True)
    elif bound >= LOWEST_BOUND:
        assert wide < bound_pattern(bound, True)


@settings(max_examples=60, deadline=None)
@given(kinds, st.integers(1, 700), st.integers(1, 40), dtypes, floors, st.integers(0, 20), seeds)
def test_few_rows_in_one_cell_give_what_the_workers_of_cells_give(kind, n, d, dtype, floor, limit, seed):
    rng = np.random.default_rng(seed)
    vectors = make_vectors(kind, n, d, dtype, seed)
    ends, nothing = np.array([0, n]), np.zeros(2, np.int64)
    is_new = rng.random(n) < rng.choice([0.1, 0.5, 1.0])
    block = CellBlock(vectors, ends, np.arange(n, dtype=np.int32), nothing, np.empty(0, np.int32), is_new)
    found = {}
    # Where the columns of the sketch are named, the rows go to the workers: 0 of them is what few rows have there too.
    for sketch in (None, 0):
        dense, cells = DenseCells(limit), iter(range(2))
        done = partial(next, cells)
        parts = list(match_cells(block, floor, sketch=sketch, dense=dense, max_matches=50, done=done))
        assert all(0 < len(part) <= 50 for part in parts)
        assert next(cells) == (1 if is_new.any() else 0)
        found[sketch] = unique_matches(parts), dense.cells
    ours, theirs = found.values()
    assert ours[1] == theirs[1]
    for name in ("i", "j", "similarity"):
        assert (getattr(ours[0], name) == getattr(theirs[0], name)).all()
