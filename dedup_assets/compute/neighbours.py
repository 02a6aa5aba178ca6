"""How near rows are to their nearest neighbours, by every product; and a choice of rows that differ from one another.

Exact up to the rounding of float32 products. Knows arrays; nothing of cells: an outlier's neighbours lie in none of its
own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dedup_assets.compute.precision import unit_rows
from dedup_assets.compute.similarity import squared_norms
from dedup_assets.later import torch

TILE = (1_024, 8_192)
"""Rows and columns of a product: 32 MB of float32, whatever the number of rows."""

DIGITS = 6
"""Decimals of a mean: those beyond are the rounding of the products, and order nothing."""


def mean_of_nearest(
    rows: np.ndarray, others: np.ndarray | None, count: int, done: Callable[[int], None] = lambda rows: None
) -> np.ndarray:
    """Mean cosine of each row to its nearest neighbours: float64 (n,), to `DIGITS` decimals.

    Parameters
    ----------
    rows : array (n, d), float16 or float32
    others : array (m, d), optional
        The neighbours; by default the rows themselves, each without itself.
    count : int
        Neighbours of each row at most. Without any, the mean is 0.
    done : callable
        Called with the number of rows that are done.
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
    """Row numbers int64 (count,) in the order in which they are chosen, by maximal marginal relevance.

    Each time the row with the largest ``(1 - diversity)·score - diversity·(largest cosine to those chosen)`` (Carbonell
    and Goldstein 1998); of equal ones the first.

    Parameters
    ----------
    rows : array (n, d), float16 or float32
    scores : float64 (n,)
    count : int
        At most n.
    diversity : float
        From 0, the highest scores alone, to 1, the most different rows alone.
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
