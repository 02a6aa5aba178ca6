import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute.kmeans import (
    choose_cells,
    fit_centroids,
    ghost_factor,
    order_by_locality,
    sample_size,
)
from dedup_assets_tests.compute.vectors import dtypes, kinds, make_vectors, seeds


@settings(max_examples=30, deadline=None)
@given(kinds, st.integers(1, 300), st.integers(1, 40), st.integers(1, 50), dtypes, seeds)
def test_centroids_are_unit_rows_and_repeat_for_a_seed(kind, n, d, k, dtype, seed):
    sample = make_vectors(kind, n, d, dtype, seed)
    first = fit_centroids(sample, k, seed)
    assert first.dtype == np.float32 and first.shape[1] == d
    assert 1 <= len(first) <= k
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    assert (first == fit_centroids(sample, k, seed)).all()


def test_separate_clusters_are_found():
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.normal(size=(64, 20)))[0].T
    rows = np.repeat(centres, 50, axis=0) + 0.02 * rng.normal(size=(1000, 64))
    centroids = fit_centroids(rows.astype(np.float16), 20, seed=3, iterations=12)
    near = (centres @ centroids.T).max(axis=1)
    assert (near > 0.95).mean() >= 0.8, "random starts may leave two clusters in one cell"


def test_copies_of_one_row_leave_no_cell_undefined():
    sample = np.tile(make_vectors("random", 1, 16, np.float32, 0), (50, 1))
    centroids = fit_centroids(sample, 8)
    assert np.isfinite(centroids).all() and np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)


def test_no_usable_row_gives_one_centroid():
    for rows in (0, 5):
        assert fit_centroids(np.zeros((rows, 4), np.float16), 3).shape == (1, 4)
    with pytest.raises(ValueError, match="at least 1"):
        fit_centroids(np.zeros((2, 4), np.float16), 0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000_000), st.floats(0.5, 1.0))
def test_cells_grow_with_rows_and_stay_sensible(n, floor):
    k = choose_cells(n, floor)
    assert 1 <= k <= max(1, n // 100)
    assert choose_cells(2 * n, floor) >= k
    assert sample_size(n, k) <= n
    assert ghost_factor(floor) > 0


def test_ordering_by_locality_is_a_permutation_that_brings_neighbours_together():
    rng = np.random.default_rng(1)
    angles = rng.permutation(np.linspace(0, 3, 200))
    centroids = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ordered = order_by_locality(centroids)
    assert sorted(map(tuple, ordered)) == sorted(map(tuple, centroids))
    step = np.linalg.norm(np.diff(ordered, axis=0), axis=1).mean()
    assert step < 0.2 * np.linalg.norm(np.diff(centroids, axis=0), axis=1).mean()
