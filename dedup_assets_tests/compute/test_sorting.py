"""Orders are those of `numpy.lexsort`."""

from __future__ import annotations

import numpy as np
import pytest

from dedup_assets.compute.sorting import SMALL, hash_order, order_by

RNG = np.random.default_rng(0)
N = 3 * SMALL
KINDS = {
    "one value": np.full(N, 7),
    "few values": RNG.integers(0, 3, N),
    "negative": RNG.integers(-(2**63), 2**63, N, endpoint=False),
    "near zero": RNG.integers(-5, 5, N),
    "keys of texts": (RNG.integers(0, 90, N) << 40) | RNG.integers(0, 1_000, N),
    "unsigned": RNG.integers(0, 2**64, N, dtype=np.uint64, endpoint=False),
    "high bits": RNG.integers(0, 4, N).astype(np.uint64) << np.uint64(62),
}


@pytest.mark.parametrize("n", [0, 1, SMALL - 1, SMALL, N])
@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_the_order_is_that_of_lexsort(first, second, n):
    one, two = KINDS[first][:n], KINDS[second][:n]
    before = one.copy(), two.copy()
    np.testing.assert_array_equal(order_by(one, two), np.lexsort((two, one)))
    assert (one == before[0]).all() and (two == before[1]).all(), "keys are read only"


@pytest.mark.parametrize("halves", [2**64 - 1, 40])
def test_hashes_that_share_a_half_are_told_apart(halves):
    hashes = RNG.integers(0, halves, (N, 2), dtype=np.uint64)
    hashes[100:200] = hashes[:100]
    np.testing.assert_array_equal(hash_order(hashes), np.lexsort((hashes[:, 1], hashes[:, 0])))


def test_other_kinds_of_numbers_are_refused():
    with pytest.raises(TypeError, match="int64 or uint64, found float64"):
        order_by(np.zeros(N))
