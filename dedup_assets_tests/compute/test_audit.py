"""The audit's comparison is every pair, whatever the sizes, and a measure of unevenness."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute import audit
from dedup_assets.compute.audit import Probes, gini


def near_copies(seed: int, n: int, dimension: int, dtype: str) -> np.ndarray:
    """Unit vectors around a few directions, so that many lie about any floor; one is zero."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(3, dimension))[rng.integers(0, 3, n)] + rng.uniform(0, 1, (n, 1)) * rng.normal(
        size=(n, dimension)
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = 0.0
    return vectors.astype(dtype)


def matches(vectors: np.ndarray, corpus: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probe, row and similarity of everything at or above the floor."""
    probes = Probes(vectors, floor)
    i, j = probes.near(corpus)
    similarity = probes.similarity(corpus, i, j)
    sure = similarity >= floor
    return i[sure], j[sure], similarity[sure]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), floor=st.sampled_from([0.3, 0.8, 0.95, 1.0]), block_rows=st.sampled_from([1, 7, 64]))
def test_the_matches_are_those_of_every_pair(dtype: str, seed: int, floor: float, block_rows: int) -> None:
    corpus = near_copies(seed, 60, 9, dtype)
    probes = corpus[::5]
    wide = corpus.astype(np.float64)
    norms = np.sqrt((wide * wide).sum(axis=1))
    norms[0] = 1.0
    cosines = (wide[::5] @ wide.T) / np.outer(norms[::5], norms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "BLOCK_ROWS", block_rows)
        i, j, similarity = matches(probes, corpus, floor)
    np.testing.assert_allclose(similarity, np.clip(cosines[i, j], -1, 1), atol=1e-12)
    found = set(zip(i.tolist(), j.tolist(), strict=True))
    assert len(found) == len(i)
    sure, possible = (np.argwhere(cosines >= floor + slack).tolist() for slack in (1e-9, -1e-9))
    assert set(map(tuple, sure)) <= found <= set(map(tuple, possible))


def test_the_zero_vector_matches_nothing_and_equal_vectors_match_exactly() -> None:
    corpus = near_copies(0, 20, 9, "float16")
    i, j, similarity = matches(corpus, corpus, 1.0)
    own = i == j
    assert i[own].tolist() == list(range(1, 20)) and (similarity[own] == 1.0).all()


def test_nothing_compared_with_something_is_nothing() -> None:
    corpus = near_copies(0, 20, 9, "float16")
    for probes, block in ((corpus[:0], corpus), (corpus, corpus[:0])):
        assert [len(part) for part in matches(probes, block, 0.5)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("counts", "wanted"), [([], 0.0), ([0, 0], 0.0), ([5, 5, 5, 5], 0.0), ([0, 0, 0, 8], 0.75), ([1, 3], 0.25)]
)
def test_unevenness_is_zero_for_equal_counts_and_grows_with_concentration(counts: list[int], wanted: float) -> None:
    assert gini(np.array(counts)) == pytest.approx(wanted)
