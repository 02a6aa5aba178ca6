"""Outliers and representatives by their definition."""

from __future__ import annotations

import doctest

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dedup_assets as da
from dedup_assets.compute import neighbours
from dedup_assets.errors import DedupError
from dedup_assets.in_memory import ranked
from dedup_assets_tests.compute.vectors import brute_force, dtypes, kinds, make_vectors, seeds


def means(alike: np.ndarray, count: int) -> np.ndarray:
    """Mean of the largest of each row; each row is already without itself."""
    count = min(count, alike.shape[1])
    return -np.sort(-alike, axis=1)[:, :count].mean(axis=1) if count else np.zeros(len(alike))


@settings(max_examples=25, deadline=None)
@given(kinds, dtypes, st.integers(1, 200), st.integers(1, 90), st.integers(1, 30), st.integers(1, 99), seeds)
def test_scores_are_the_means_over_the_nearest_of_all_whatever_the_blocks_threads_and_order(
    kind, dtype, n, m, count, size, seed
):
    vectors = make_vectors(kind, n + m, 12, dtype, seed)
    rows, others, alike = vectors[:n], vectors[n:], brute_force(vectors)
    own = neighbours.mean_of_nearest(rows, None, count, threads=2)
    across = neighbours.mean_of_nearest(rows, others, count, threads=2)
    without = alike[:n, :n][~np.eye(n, dtype=bool)].reshape(n, n - 1)
    np.testing.assert_allclose(own, means(without, count), atol=1e-12)
    np.testing.assert_allclose(across, means(alike[:n, n:], count), atol=1e-12)
    told: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "TILE_ROWS", 17)
        assert (neighbours.mean_of_nearest(rows, None, count, threads=2) == own).all()
    order = np.random.default_rng(seed).permutation(n)
    again = neighbours.mean_of_nearest(rows[order], None, count, threads=3, block_rows=size, done=told.append)
    assert (again == own[order]).all() and sum(told) == n
    other_way = neighbours.mean_of_nearest(rows, others[::-1], count, threads=2, block_rows=size)
    assert (other_way == across).all()


def test_rounding_of_the_products_that_propose_loses_no_neighbour(monkeypatch):
    vectors = make_vectors("clustered", 400, 32, np.float16, 1)
    wanted = neighbours.mean_of_nearest(vectors, None, 5, threads=2)
    for precision in ("bf16", "fp32"):
        monkeypatch.setattr(neighbours, "native_precision", lambda device, precision=precision: precision)
        assert (neighbours.mean_of_nearest(vectors, None, 5, threads=2, block_rows=128) == wanted).all()


def test_a_share_is_rounded_up_and_the_rounding_of_its_product_does_not_count():
    for rows in (1, 7, 100, 12_345, 10_000_000):
        for hundredths in range(101):
            assert neighbours.rows_of_share(rows, hundredths / 100) == -(-rows * hundredths // 100)


def test_outliers_are_those_of_the_lowest_scores_and_copies_go_together():
    rng = np.random.default_rng(0)
    crowd = rng.normal(size=8) + 0.1 * rng.normal(size=(40, 8))
    lost = -crowd[:2] + rng.normal(size=(2, 8))
    vectors = np.concatenate([crowd[:20], lost[:1], crowd[20:], lost[1:], lost[1:]])
    found = da.outliers(pd.Series(range(43), index=range(100, 143)), vectors=vectors, fraction=3 / 43, progress=False)
    assert found.filtered.tolist() == [20, 41, 42] and found.filtered.index.tolist() == [120, 141, 142]
    assert found.selected.tolist() == [n for n in range(43) if n not in (20, 41, 42)]
    assert found.scores[41] == found.scores[42] < found.scores[0]
    assert "40 .selected, 3 .filtered" in repr(found)
    assert da.outliers([1, 2], vectors=vectors[:2], fraction=0, progress=False).filtered == []
    assert da.outliers([1, 2], vectors=vectors[:2], fraction=1, progress=False).selected == []
    far = da.outliers(["x", "y"], vectors=vectors[[0, 20]], against=crowd, fraction=0.5, progress=False)
    assert far.filtered == ["y"]


@settings(max_examples=30, deadline=None)
@given(kinds, st.integers(1, 40), st.integers(1, 8), st.sampled_from([0.0, 0.3, 0.5, 1.0]), seeds)
def test_each_representative_is_the_best_of_those_that_are_left(kind, n, count, diversity, seed):
    vectors = make_vectors(kind, n, 12, np.float32, seed)
    found = da.representatives(list(range(n)), vectors=vectors, n=count, diversity=diversity, progress=False)
    alike, chosen = brute_force(vectors), found.selected
    assert len(chosen) == len(set(chosen)) <= count and sorted(chosen + found.filtered) == list(range(n))
    first_of_kind = [
        r for r in range(n) if not any((vectors[r] == vectors[s]).all() and vectors[r].any() for s in range(r))
    ]
    assert len(chosen) == min(count, len(first_of_kind)) and set(chosen) <= set(first_of_kind)
    for step, row in enumerate(chosen):
        near = {r: max((alike[r, s] for s in chosen[:step]), default=0.0) for r in first_of_kind}
        value = {r: (1 - diversity) * found.scores[r] - diversity * near[r] for r in first_of_kind}
        assert value[row] >= max(v for r, v in value.items() if r not in chosen[:step]) - 1e-5


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (da.outliers, {"fraction": 1.5}, "fraction = 1.5"),
        (da.outliers, {"fraction": "a"}, "fraction = 'a'"),
        (da.representatives, {"n": 0}, "n = 0"),
        (da.representatives, {"n": 2.0}, "n = 2.0"),
        (da.representatives, {"diversity": -1}, "diversity = -1"),
    ],
)
def test_what_is_out_of_range_is_refused(call, options, message):
    with pytest.raises(DedupError, match=message):
        call(["a", "b"], vectors=np.eye(2), progress=False, **options)
    with pytest.raises(DedupError, match="is empty"):
        call([])


def test_examples_of_the_docstrings_give_what_they_say():
    results = doctest.testmod(ranked)
    assert results.failed == 0 and results.attempted >= 6
