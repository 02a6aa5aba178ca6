"""Who stays and who goes, given the matches and an order. Knows nothing of vectors, shards or files.

Nodes are numbered in curation order: node 0 is the first. An edge (i, j) with i < j is a match.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

UNKNOWN, REMOVED, KEPT = -1, 0, 1
"""Codes of ``decided``."""


@dataclass(frozen=True)
class Decisions:
    """What was decided for each node.

    Attributes
    ----------
    kept : bool (n,)
        Whether the node stays.
    keeper : int64 (n,)
        The node that a removed node names; -1 for nodes that stay, and for fixed removed nodes none of whose
        earlier matches is among the edges.
    similarity : float64 (n,)
        Similarity with the named node; NaN where there is none.
    """

    kept: np.ndarray
    keeper: np.ndarray
    similarity: np.ndarray


def leader_cover(
    order_i: np.ndarray,
    order_j: np.ndarray,
    similarity: np.ndarray,
    n: int,
    threshold: float,
    decided: np.ndarray | None = None,
) -> Decisions:
    """Greedy cover in curation order: every removed node matches an earlier keeper, no two keepers match.

    A node is removed if a keeper before it matches it, else it is a keeper. A removed node names the
    best-matching keeper before it: highest similarity, of equal ones the earliest.

    Parameters
    ----------
    order_i, order_j : integer arrays (m,)
        Edges between ranks, either way round, in any order, repeats allowed.
    similarity : float64 array (m,)
        Canonical similarity of each edge; edges below the threshold do not count.
    n : int
        Number of nodes.
    threshold : float
        Lowest similarity of a match.
    decided : int8 array (n,), optional
        `UNKNOWN`, `REMOVED` or `KEPT`: decisions that stand already are never changed.

    Returns
    -------
    Decisions
        Independent of the order and repetition of edges. Time and memory are linear in nodes and edges.
    """
    earlier, partner, score = _earlier_matches(order_i, order_j, similarity, n, threshold)
    fixed = _fixed(decided, n)
    return Decisions(*_cover(earlier, partner, score, fixed, True))


def semdedup(
    order_i: np.ndarray,
    order_j: np.ndarray,
    similarity: np.ndarray,
    n: int,
    threshold: float,
    decided: np.ndarray | None = None,
) -> Decisions:
    """The rule of SemDeDup (Abbas et al. 2023, arXiv:2303.09540): removed if *any* earlier node matches.

    The node named may itself be removed: there need be no survivor within the threshold. For comparison with
    other tools; parameters and result as in `leader_cover`.
    """
    earlier, partner, score = _earlier_matches(order_i, order_j, similarity, n, threshold)
    fixed = _fixed(decided, n)
    return Decisions(*_cover(earlier, partner, score, fixed, False))


def _fixed(decided: np.ndarray | None, n: int) -> np.ndarray:
    if decided is None:
        return np.full(n, UNKNOWN, np.int8)
    if decided.shape != (n,) or not np.isin(decided, (UNKNOWN, REMOVED, KEPT)).all():
        raise ValueError(f"decided must be ({n},) of -1, 0, 1; found shape {decided.shape}")
    return decided.astype(np.int8)


def _earlier_matches(
    order_i: np.ndarray, order_j: np.ndarray, similarity: np.ndarray, n: int, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matches grouped by their later node: offsets int64 (n + 1,), earlier node, similarity."""
    if not len(order_i) == len(order_j) == len(similarity):
        raise ValueError(f"edges must have one length, found {len(order_i)}, {len(order_j)} and {len(similarity)}")
    first = np.ascontiguousarray(order_i, dtype=np.int64)
    second = np.ascontiguousarray(order_j, dtype=np.int64)
    if len(first):
        low, high = min(first.min(), second.min()), max(first.max(), second.max())
        if low < 0 or high >= n:
            raise ValueError(f"edges name nodes {low} to {high}, expected 0 to {n - 1}")
        if (first == second).any():
            raise ValueError("an edge joins a node with itself")
    return _group(first, second, np.ascontiguousarray(similarity, dtype=np.float64), n, threshold)


@njit(cache=True, nogil=True)
def _group(first, second, similarity, n, threshold):
    offsets = np.zeros(n + 1, np.int64)
    for edge in range(first.shape[0]):
        if similarity[edge] >= threshold:
            offsets[max(first[edge], second[edge]) + 1] += 1
    for node in range(n):
        offsets[node + 1] += offsets[node]
    cursor = offsets[:-1].copy()
    partner = np.empty(offsets[n], np.int64)
    score = np.empty(offsets[n], np.float64)
    for edge in range(first.shape[0]):
        if similarity[edge] >= threshold:
            later = max(first[edge], second[edge])
            at = cursor[later]
            partner[at] = min(first[edge], second[edge])
            score[at] = similarity[edge]
            cursor[later] = at + 1
    return offsets, partner, score


@njit(cache=True, nogil=True)
def _cover(offsets, partner, score, decided, keepers_only):
    n = offsets.shape[0] - 1
    kept = np.zeros(n, np.bool_)
    keeper = np.full(n, -1, np.int64)
    similarity = np.full(n, np.nan, np.float64)
    for node in range(n):
        if decided[node] == KEPT:
            kept[node] = True
            continue
        best = -1
        top = -np.inf
        for at in range(offsets[node], offsets[node + 1]):
            other = partner[at]
            if keepers_only and not kept[other]:
                continue
            if score[at] > top or (score[at] == top and other < best):
                top = score[at]
                best = other
        if best >= 0:
            keeper[node] = best
            similarity[node] = top
        elif decided[node] == UNKNOWN:
            kept[node] = True
    return kept, keeper, similarity
