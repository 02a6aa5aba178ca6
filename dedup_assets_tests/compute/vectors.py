"""Test vectors, and the brute-force result. The oracle shares no code with the package."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

KINDS = ("random", "clustered", "boilerplate", "degenerate")


def make_vectors(kind: str, n: int, d: int, dtype: type, seed: int) -> np.ndarray:
    """Rows (n, d): spread out, in clusters, near-copies of few templates, or with zero and odd rows."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d))
    if kind == "clustered":
        centres = rng.normal(size=(max(1, n // 12), d))
        rows = centres[rng.integers(0, len(centres), n)] + rng.uniform(0, 0.7, (n, 1)) * rows
    elif kind == "boilerplate":
        centres = rng.normal(size=(3, d))
        rows = centres[rng.integers(0, 3, n)] + rng.choice([0.0, 0.01, 0.1, 0.3], (n, 1)) * rows
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = (rows / np.where(norms > 0, norms, 1)).astype(dtype)
    if kind == "degenerate" and n:
        rows[:: max(2, n // 5)] = 0
        rows[1 :: max(3, n // 4)] *= dtype(2.0**-10)
        rows[2 :: max(3, n // 4)] = rows[0]
        rows[n // 2 :] = rows[: n - n // 2]
    return rows


def brute_force(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs, float64 (n, n), by numpy alone; 0 for zero rows."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (wide @ wide.T) / np.outer(norms, norms)
    return np.nan_to_num(cosines, nan=0.0)


def differences(found_i: np.ndarray, found_j: np.ndarray, wanted: np.ndarray) -> tuple[list, list]:
    """Missed and extra pairs, given a boolean matrix of wanted pairs (upper triangle)."""
    got = np.zeros_like(wanted)
    got[found_i, found_j] = True
    return np.argwhere(wanted & ~got).tolist(), np.argwhere(got & ~wanted).tolist()


def away_from_ties(cosines: np.ndarray, floor: float) -> float:
    """A floor near the given one that no cosine equals up to rounding, because the oracle's last bits differ."""
    while (np.abs(cosines - floor) < 1e-12).any():
        floor -= 3e-12
    return floor


kinds = st.sampled_from(KINDS)
dtypes = st.sampled_from([np.float16, np.float32])
seeds = st.integers(0, 10_000)
floors = st.one_of(st.sampled_from([0.7, 0.8, 0.9, 0.95, 0.99, 0.999]), st.floats(0.7, 0.999))
