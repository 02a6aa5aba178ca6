import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute import cells as module
from dedup_assets.compute import distances
from dedup_assets.compute.cells import assign, codebook, half_angle
from dedup_assets.compute.in_memory import exact_matches
from dedup_assets_tests.compute.vectors import brute_force, dtypes, floors, kinds, make_vectors, seeds


def centroids_of(kind: str, k: int, vectors: np.ndarray, seed: int) -> np.ndarray:
    """Any centroids: rows, noise, repeated ones, long, short and zero ones."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(k, vectors.shape[1]))
    if kind == "rows" and len(vectors):
        return vectors[rng.integers(0, len(vectors), k)].astype(np.float32)
    if kind == "repeated":
        return noise[rng.integers(0, max(1, k // 2), k)]
    if kind == "odd":
        return noise * rng.choice([0, 1e-3, 1, 3], (k, 1))
    return noise / np.linalg.norm(noise, axis=1, keepdims=True)


centroid_kinds = st.sampled_from(["rows", "noise", "repeated", "odd"])


def listed_in(result, n: int) -> np.ndarray:
    member = np.zeros((n, result.cells), bool)
    for cell in range(result.cells):
        rows = result.ghost_rows[result.ghost_offsets[cell] : result.ghost_offsets[cell + 1]]
        assert (np.diff(rows) > 0).all(), "ascending, no repeats"
        member[rows, cell] = True
    return member


def assert_complete(result, vectors: np.ndarray, floor: float) -> None:
    n = len(vectors)
    ghost = listed_in(result, n)
    assert not ghost[np.arange(n), result.home].any(), "never a ghost at home"
    met = result.home[:, None] == result.home[None, :]
    met |= ghost[:, result.home] | ghost[:, result.home].T
    assert met[brute_force(vectors) >= floor].all()


@settings(max_examples=80, deadline=None)
@given(kinds, st.integers(0, 120), st.integers(2, 50), dtypes, floors, st.integers(1, 40), centroid_kinds, seeds)
def test_every_match_shares_a_cell(kind, n, d, dtype, floor, k, which, seed):
    vectors = make_vectors(kind, n, d, dtype, seed)
    centroids = centroids_of(which, k, vectors, seed)
    tile = int(np.random.default_rng(seed).integers(1, 5000))
    assert_complete(assign(vectors, centroids, floor, tile_bytes=tile, threads=2), vectors, floor)


@settings(max_examples=20, deadline=None)
@given(kinds, dtypes, st.floats(-1, 0.7), seeds)
def test_floors_near_and_below_zero_are_complete_too(kind, dtype, floor, seed):
    vectors = make_vectors(kind, 40, 8, dtype, seed)
    centroids = centroids_of("noise", 6, vectors, seed)
    assert_complete(assign(vectors, centroids, floor), vectors, floor)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("path", ["compiled", "torch"])
def test_each_precision_and_path_is_complete(precision, path, monkeypatch):
    monkeypatch.setattr(module, "native_precision", lambda device: precision)
    device = "cpu:0" if path == "torch" else "cpu"  # the path of GPUs, on CPU tensors
    for kind in ("clustered", "degenerate", "boilerplate"):
        vectors = make_vectors(kind, 300, 24, np.float16, 5)
        result = assign(vectors, centroids_of("rows", 12, vectors, 5), 0.9, device)
        assert_complete(result, vectors, 0.9)
        assert len(result.ghost_rows) < 300 * 11 or kind == "boilerplate"


def test_homes_may_be_anything(monkeypatch):
    """The theorem never uses nearness: here it is checked by itself, with homes drawn at random."""
    rng = np.random.default_rng(3)
    vectors = make_vectors("clustered", 200, 12, np.float32, 3).astype(np.float64)
    book = codebook(rng.normal(size=(7, 12))).astype(np.float64)
    home = rng.integers(0, 7, 200)
    for floor in (0.7, 0.9, 0.99):
        side = (vectors @ book.T)[np.arange(200), home][:, None] - vectors @ book.T
        apart = np.linalg.norm(book[home][:, None] - book[None], axis=2)
        ghost = side <= half_angle(floor) * apart * np.linalg.norm(vectors, axis=1)[:, None] + 1e-12
        met = (home[:, None] == home[None]) | ghost[:, home] | ghost[:, home].T
        assert met[brute_force(vectors) >= floor].all()
        assert not ghost.all()


def test_zero_rows_are_listed_nowhere_above_zero():
    vectors = make_vectors("random", 50, 16, np.float16, 0)
    vectors[10:20] = 0
    result = assign(vectors, centroids_of("rows", 5, vectors, 1), 0.8)
    assert (result.home[10:20] == 0).all()
    assert not np.isin(np.arange(10, 20), result.ghost_rows).any()


def test_home_is_the_nearest_centroid_up_to_rounding():
    vectors = make_vectors("clustered", 500, 48, np.float16, 2)
    book = codebook(vectors[:20].astype(np.float32))
    result = assign(vectors, book, 0.95)
    cosine = vectors.astype(np.float32) @ book.T
    assert (cosine[np.arange(500), result.home] >= cosine.max(axis=1) - 0.02).all()
    order, offsets = result.home_rows()
    assert (result.home[order] == np.repeat(np.arange(20), np.diff(offsets))).all()


def test_the_codebook_is_the_same_however_often_it_is_rounded():
    book = codebook(np.random.default_rng(0).normal(size=(9, 33)))
    assert (codebook(book) == book).all()
    assert (torch.from_numpy(book).bfloat16().float().numpy() == book).all()


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="cosine"):
        assign(np.zeros((3, 4), np.float16), np.ones((2, 4)), 1.5)
    with pytest.raises(ValueError, match="do not fit"):
        assign(np.zeros((3, 4), np.float16), np.ones((2, 5)), 0.9)
    with pytest.raises(ValueError, match="finite"):
        assign(np.zeros((3, 4), np.float16), np.full((2, 4), np.nan), 0.9)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_distances_of_a_codebook_are_computed_once_for_all_shards(device, monkeypatch):
    made = []
    for name in ("_computed", "_computed_on"):
        inner = getattr(distances, name)
        monkeypatch.setattr(distances, name, lambda *given, inner=inner: made.append(1) or inner(*given))
    distances.forget_distances()
    vectors = make_vectors("clustered", 300, 32, np.float16, 1)
    book, other = vectors[:9].astype(np.float32), vectors[9:20].astype(np.float32)
    first = assign(vectors, book, 0.9, device)
    again = assign(vectors, book.copy(), 0.9, device)
    assert len(made) == 1 and (first.ghost_rows == again.ghost_rows).all()
    assign(vectors, other, 0.9, device)
    assign(vectors, book, 0.9, device)
    assert len(made) == 3, "one codebook's are kept"
    exact_matches(vectors, 0.9, centroids=other, device=device)
    assert distances._on_host._last is None and distances._on_device._last is None, "the join wants the memory"


def test_distances_on_a_device_are_those_of_the_host_in_slices_too(monkeypatch):
    book = codebook(make_vectors("clustered", 70, 48, np.float32, 5))
    monkeypatch.setattr(distances, "ROWS_AT_ONCE", 13)
    here = distances._computed(book)
    monkeypatch.setattr(distances, "DEVICE_BYTES", 1)
    there = distances._computed_on("cpu:0", book).numpy()
    np.testing.assert_allclose(there**2, here**2, atol=1e-6)
