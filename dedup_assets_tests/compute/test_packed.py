"""Packed listings are the listings they were made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute.cells import assign
from dedup_assets.compute.packed import PackedRows
from dedup_assets_tests.compute.vectors import make_vectors


def packed(listed: np.ndarray, step: int) -> PackedRows:
    """Pack a membership matrix (rows, cells), so many rows in a part."""
    starts = range(0, len(listed), step)
    parts = []
    for start in starts:
        rows, cells = np.nonzero(listed[start : start + step])
        counts = np.bincount(rows, minlength=len(listed[start : start + step]))
        parts.append((counts.astype(np.int32), cells.astype(np.uint16)))
    return PackedRows.of(parts, starts, listed.shape[1])


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 40_000), st.integers(1, 9), st.sampled_from([0.0001, 0.01, 0.5]), st.integers(1, 50_000),
    st.integers(0, 2**31),
)  # fmt: skip
def test_any_slice_of_a_packed_listing_is_that_of_the_listing(n, k, share, step, seed):
    rng = np.random.default_rng(seed)
    listed = rng.random((n, k)) < share
    listed[:, rng.integers(0, k)] = False  # a cell without ghosts
    rows = packed(listed, step)
    wanted = np.nonzero(listed.T)[1]
    assert len(rows) == len(wanted)
    assert rows[:].dtype == np.int32
    np.testing.assert_array_equal(np.asarray(rows), wanted)
    for cell in range(k):
        np.testing.assert_array_equal(
            rows[rows.offsets[cell] : rows.offsets[cell + 1]], np.flatnonzero(listed[:, cell])
        )  # fmt: skip
    first, last = np.sort(rng.integers(0, len(wanted) + 2, 2)).tolist()
    np.testing.assert_array_equal(rows[first:last], wanted[first:last])


def test_gaps_of_every_length_in_bytes():
    at = np.cumsum([0, 1, 128, 129, 16_384, 16_385, 2_097_152, 2_097_153])
    listed = np.zeros((at[-1] + 1, 1), bool)
    listed[at] = True
    np.testing.assert_array_equal(np.asarray(packed(listed, 1 << 20)), at)


def test_only_slices_in_order_are_given():
    rows = packed(np.ones((5, 2), bool), 2)
    with pytest.raises(IndexError, match="step of 2"):
        rows[::2]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(rows, copy=False)


def test_packed_ghosts_are_the_ghosts_and_take_a_third_of_the_memory():
    vectors = make_vectors("clustered", 20_000, 64, np.float16, 0)
    plain = assign(vectors, vectors[:150], 0.9)
    small = assign(vectors, vectors[:150], 0.9, packed=True)
    assert len(plain.ghost_rows) > 20_000
    np.testing.assert_array_equal(np.asarray(small.ghost_rows), plain.ghost_rows)
    np.testing.assert_array_equal(small.ghost_offsets, plain.ghost_offsets)
    assert isinstance(small.ghost_rows, PackedRows)
    assert small.ghost_rows.nbytes < 0.35 * plain.ghost_rows.nbytes
