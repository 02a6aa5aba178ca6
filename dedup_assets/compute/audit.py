"""Compares some vectors with many by brute force, as an independent check of the join.

It shares only the canonical similarity with the join. It has no notion of cells, shards or files.
"""

from __future__ import annotations

import numpy as np

from dedup_assets.compute.similarity import canonical_between, proposal_slack, squared_norms

BLOCK_ROWS = 8_192
"""Rows compared at once: with 1,000 probes the products take 32 MB, whatever the size of the corpus."""


class Probes:
    """Vectors that are compared with every block passed to `near`.

    Parameters
    ----------
    vectors : array (p, d), float16 or float32
    floor : float
        Lowest canonical similarity of a match.
    """

    def __init__(self, vectors: np.ndarray, floor: float) -> None:
        self._vectors = vectors
        self._squares = squared_norms(vectors)
        self._unit = _unit(vectors, self._squares)
        self._bound = np.float32(floor - proposal_slack("fp32", max(1, vectors.shape[1])))

    def near(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Candidate pairs: probes (m,) and rows of the block (m,). Every match is among them.

        The candidates come from float32 products; see `proposal_slack`.
        """
        probes, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, len(block), BLOCK_ROWS):
            part = block[start : start + BLOCK_ROWS]
            products = self._unit @ _unit(part, squared_norms(part)).T
            i, j = np.nonzero(products >= self._bound)
            probes.append(i)
            rows.append(j + start)
        return np.concatenate(probes), np.concatenate(rows)

    def similarity(self, block: np.ndarray, probes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Canonical similarity of pairs of probes and rows of a block: float64 (m,)."""
        return canonical_between(self._vectors, probes, block, rows, self._squares, squared_norms(block))


def _unit(vectors: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Rows of unit norm, float32; a row of norm zero stays zero."""
    norms = np.sqrt(squares)
    norms[norms == 0.0] = 1.0
    return (vectors.astype(np.float64) / norms[:, None]).astype(np.float32)


def gini(counts: np.ndarray) -> float:
    """How unevenly counts are spread: 0 where all are equal, close to 1 where one holds everything.

    Gini coefficient of non-negative counts (n,); 0 where there is nothing.
    """
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    total = ordered.sum()
    if total == 0.0:
        return 0.0
    rank = np.arange(1, len(ordered) + 1)
    return float((2.0 * (rank * ordered).sum() / total - (len(ordered) + 1)) / len(ordered))
