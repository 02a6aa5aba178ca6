"""The similarity of rows to their nearest neighbours, from all products; and a selection of diverse rows.

Exact up to the rounding of float32 products. It does not use cells: the neighbours of an outlier lie in other cells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from dedup_assets.compute.precision import unit_rows
from dedup_assets.compute.similarity import squared_norms

TILE = (1_024, 8_192)
"""Rows and columns of a product: 32 MB of float32, whatever the number of rows."""

DIGITS = 6
"""Decimals of a mean. Further ones are rounding errors of the products and must not affect the order."""


def mean_of_nearest(
    rows: np.ndarray, others: np.ndarray | None, count: int, done: Callable[[int], None] = lambda rows: None
) -> np.ndarray:
    """Mean cosine of each row to its nearest neighbours: float64 (n,), to `DIGITS` decimals.

    Parameters
    ----------
    rows : array (n, d), float16 or float32
    others : array (m, d), optional
        The neighbours; by default the rows themselves, where a row is not its own neighbour.
    count : int
        Largest number of neighbours of each row. Without neighbours the mean is 0.
    done : callable
        Called with the number of finished rows.
    """
    theirs = rows if others is None else others
    count = min(count, len(theirs) - (others is None))
    out = np.zeros(len(rows))
    for first in range(0, len(rows) if count else 0, TILE[0]):
        left = _unit(rows[first : first + TILE[0]])
        best = torch.full((len(left), 0), -2.0)
        for start in range(0, len(theirs), TILE[1]):
            product = left @ _unit(theirs[start : start + TILE[1]]).T
            if others is None:
                low, high = max(first, start), min(first + len(left), start + product.shape[1])
                at = torch.arange(low, max(low, high))
                product[at - first, at - start] = -2.0  # itself
            best = torch.cat([best, product], dim=1)
            best = best.topk(min(count, best.shape[1]), dim=1).values
        out[first : first + len(left)] = best.double().mean(dim=1).numpy()
        done(len(left))
    return np.round(out, DIGITS)


def diverse(rows: np.ndarray, scores: np.ndarray, count: int, diversity: float) -> np.ndarray:
    """Select rows by maximal marginal relevance: row numbers int64 (count,) in the order of selection.

    Each step selects the row with the largest ``(1 - diversity)·score - diversity·(largest cosine to selected rows)``
    (Carbonell and Goldstein 1998); among equals, the first.

    Parameters
    ----------
    rows : array (n, d), float16 or float32
    scores : float64 (n,)
    count : int
        At most n.
    diversity : float
        From 0 (the highest scores only) to 1 (the most different rows only).
    """
    unit = _unit(rows)
    nearest = np.zeros(len(rows))
    value = (1.0 - diversity) * scores
    chosen: list[int] = []
    left = np.ones(len(rows), bool)
    for _ in range(count):
        at = int(np.argmax(np.where(left, value - diversity * nearest, -np.inf)))
        cosine = np.round((unit @ unit[at]).double().numpy(), DIGITS)
        nearest = np.maximum(nearest, cosine) if chosen else cosine
        left[at] = False
        chosen.append(at)
    return np.array(chosen, np.int64)


def _unit(rows: np.ndarray) -> torch.Tensor:
    return unit_rows(rows, squared_norms(rows))
