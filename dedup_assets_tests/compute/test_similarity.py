from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute.precision import MEASURING, PRECISIONS, dtype_of, low_unit_rows, unit_rows
from dedup_assets.compute.similarity import (
    canonical_pairs,
    canonical_similarity,
    half_to_float,
    product_slack,
    proposal_slack,
    squared_norms,
)
from dedup_assets_tests.compute.vectors import brute_force, dtypes, kinds, make_vectors, seeds


def test_every_finite_float16_is_widened_exactly():
    bits = np.arange(65536, dtype=np.uint16)
    values = bits.view(np.float16)
    got = np.array([half_to_float(b) for b in bits[np.isfinite(values)]], np.float32)
    assert (got == values[np.isfinite(values)].astype(np.float32)).all()


@settings(max_examples=40, deadline=None)
@given(kinds, st.integers(1, 60), st.integers(1, 200), dtypes, seeds)
def test_similarity_is_the_cosine(kind, n, d, dtype, seed):
    vectors = make_vectors(kind, n, d, dtype, seed)
    i, j = (a.ravel() for a in np.indices((n, n)))
    got = canonical_pairs(vectors, i, j).reshape(n, n)
    assert np.abs(got - np.clip(brute_force(vectors), -1, 1)).max() < 1e-14
    assert (got == got.T).all()
    nonzero = vectors.any(axis=1)
    assert (got.diagonal() == nonzero).all(), "a row is exactly 1 with itself, 0 where it is zero"


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 150), dtypes, seeds)
def test_batching_changes_no_bit(n, d, dtype, seed):
    vectors = make_vectors("clustered", n, d, dtype, seed)
    rng = np.random.default_rng(seed)
    i, j = rng.integers(0, n, (2, 100))
    whole = canonical_pairs(vectors, i, j)
    one_by_one = [canonical_pairs(vectors, i[m : m + 1], j[m : m + 1])[0] for m in range(100)]
    assert (whole == one_by_one).all()
    assert (whole == canonical_similarity(vectors[i], vectors[j])).all()
    assert (whole == canonical_pairs(vectors, j, i, squares=squared_norms(vectors))).all()


def test_many_pairs_on_threads_give_the_same_bits():
    vectors = make_vectors("random", 100, 32, np.float32, 1)
    i, j = np.random.default_rng(0).integers(0, 100, (2, 200_000))
    assert (canonical_pairs(vectors, i, j, threads=3) == canonical_pairs(vectors, i, j)).all()


@pytest.mark.parametrize("d", [3, 64, 384, 1024])
def test_float16_sums_are_exact_in_any_order(d):
    vectors = make_vectors("random", 20, d, np.float16, d)
    dots = squared_norms(vectors)
    for row, got in zip(vectors, dots, strict=True):
        assert Fraction(float(got)) == sum(Fraction(float(v)) ** 2 for v in row)
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, 20, (2, 50))
    shuffled = vectors[:, rng.permutation(d)]
    assert (canonical_pairs(vectors, i, j) == canonical_pairs(shuffled, i, j)).all()
    wide = torch.from_numpy(vectors).double()
    squares = (wide * wide).sum(1).numpy()
    # torch takes square roots from a vector library that may be one unit off; IEEE's, as numpy's, never is
    elsewhere = (wide[i] * wide[j]).sum(1).numpy() / np.sqrt(squares[i] * squares[j])
    assert (np.clip(elsewhere, -1, 1) == canonical_pairs(vectors, i, j)).all()


@settings(max_examples=25, deadline=None)
@given(kinds, st.sampled_from(sorted(PRECISIONS)), st.integers(1, 500), dtypes, seeds)
def test_no_product_is_off_by_more_than_the_slack(kind, precision, d, dtype, seed):
    vectors = make_vectors(kind, 40, d, dtype, seed)
    unit = unit_rows(vectors, squared_norms(vectors))
    low = unit.to(dtype_of(precision))
    product = (low @ low.T).double().numpy()
    error = np.abs(product - brute_force(vectors)).max()
    assert error <= proposal_slack(precision, d)
    assert product_slack(precision, d) < proposal_slack(precision, d) < 0.02


def test_extreme_norms_are_scaled_without_overflow():
    vectors = np.array([[1e-40, 0], [3e37, 4e37], [0, 0], [1e-20, 1e-20]], np.float32)
    unit = unit_rows(vectors, squared_norms(vectors))
    assert np.allclose(unit.norm(dim=1).numpy(), [1, 1, 0, 1])


@settings(max_examples=40, deadline=None)
@given(kinds, st.sampled_from(sorted(PRECISIONS)), st.integers(1, 500), dtypes, seeds)
def test_rows_rounded_in_one_pass_are_the_rounded_unit_rows_with_their_largest_error(kind, precision, d, dtype, seed):
    vectors = make_vectors(kind, 40, d, dtype, seed)
    squares = squared_norms(vectors)
    low, error = low_unit_rows(vectors, squares, dtype_of(precision))
    unit = unit_rows(vectors, squares)
    assert low.dtype == dtype_of(precision)
    assert torch.equal(low, unit.to(dtype_of(precision)))
    true = (unit.double() - low.double()).norm(dim=1).max().item()
    assert true <= error <= true + 2 * MEASURING


def test_wrong_input_is_refused():
    with pytest.raises(TypeError, match="float64"):
        canonical_pairs(np.zeros((2, 2)), np.array([0]), np.array([1]))
    with pytest.raises(IndexError):
        canonical_pairs(np.zeros((2, 2), np.float32), np.array([0]), np.array([2]))
    with pytest.raises(TypeError, match="shape"):
        canonical_similarity(np.zeros((2, 2), np.float32), np.zeros((3, 2), np.float32))
