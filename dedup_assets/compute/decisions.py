"""Decides which nodes stay, given the matches and an order. It has no notion of vectors, shards or files.

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


class Walk:
    """The walk over the nodes in curation order, in any number of pieces.

    A node is removed if a keeper before it matches it, else it is a keeper: every removed node matches an earlier
    keeper, and no two keepers match. A removed node names the best-matching keeper before it: highest similarity, of
    equal ones the earliest. The caller may add matches between two pieces, so they need not all be known, or in memory,
    at once. What is decided does not depend on the order or the repetition of matches; time and memory are linear in
    nodes and matches.

    Parameters
    ----------
    order_i, order_j : integer arrays (m,)
        Matches between nodes: each in either direction, in any order, repeats allowed.
    similarity : float64 array (m,)
        Canonical similarity of each match; those below the threshold do not count.
    n : int
        Number of nodes.
    threshold : float
        Lowest similarity of a match.
    decided : int8 array (n,), optional
        `UNKNOWN`, `REMOVED` or `KEPT`; decisions already taken are never changed.
    keepers_only : bool
        False is the rule of SemDeDup (Abbas et al. 2023, arXiv:2303.09540), for comparison: a node is removed if *any*
        earlier node matches it. The node named may itself be removed, with no survivor within the threshold.
    """

    def __init__(
        self,
        order_i: np.ndarray,
        order_j: np.ndarray,
        similarity: np.ndarray,
        n: int,
        threshold: float,
        decided: np.ndarray | None = None,
        *,
        keepers_only: bool = True,
    ) -> None:
        self._matches = _earlier_matches(order_i, order_j, similarity, n, threshold)
        self._decided = _fixed(decided, n)
        self.n, self.threshold, self.keepers_only = n, threshold, keepers_only
        self.at = 0
        """The first node not walked yet."""
        self.kept = np.zeros(n, bool)
        self._keeper = np.full(n, -1, np.int64)
        self._similarity = np.full(n, np.nan, np.float64)

    def tell(self, later: np.ndarray, earlier: np.ndarray, similarity: np.ndarray) -> None:
        """Add matches of nodes not walked yet with walked nodes that count (only keepers under `keepers_only`)."""
        _tell(later, earlier, similarity, self.threshold, self._keeper, self._similarity)

    def answered(self, nodes: np.ndarray) -> np.ndarray:
        """Which of some nodes not walked yet have a match: these are removed unless already decided."""
        return self._keeper[nodes] >= 0

    def bounds(self, nodes: np.ndarray) -> np.ndarray:
        """Of some nodes not walked yet, the similarity from which a match counts: float64 (m,).

        That of what they were told, where they were: a match that is less alike is not going to be named.
        """
        return np.where(self._keeper[nodes] >= 0, self._similarity[nodes], self.threshold)

    def advance(self, stop: int, matches: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None) -> Walk:
        """Walk up to node ``stop`` (exclusive), with further matches (i, j, similarity) among the nodes walked."""
        i, j, similarity = matches or (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        more = _earlier_matches(i - self.at, j - self.at, similarity, stop - self.at, self.threshold)
        _cover(
            *self._matches, *more, self.at, stop, self._decided, self.keepers_only,
            self.kept, self._keeper, self._similarity,
        )  # fmt: skip
        self.at = stop
        return self

    def decisions(self) -> Decisions:
        """What was decided for each node walked."""
        return Decisions(self.kept, self._keeper, self._similarity)


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
def _tell(later, earlier, similarity, threshold, keeper, top):
    for edge in range(later.shape[0]):
        node, other, score = later[edge], earlier[edge], similarity[edge]
        if score < threshold:
            continue
        best = keeper[node]
        if best < 0 or score > top[node] or (score == top[node] and other < best):
            keeper[node] = other
            top[node] = score


@njit(cache=True, nogil=True)
def _best(offsets, partner, score, node, base, kept, keepers_only, best, top):
    for at in range(offsets[node - base], offsets[node - base + 1]):
        other = partner[at] + base
        if keepers_only and not kept[other]:
            continue
        if score[at] > top or (score[at] == top and other < best):
            top = score[at]
            best = other
    return best, top


@njit(cache=True, nogil=True)
def _cover(
    offsets, partner, score, more_offsets, more_partner, more_score, first, stop, decided, keepers_only,
    kept, keeper, similarity,
):  # fmt: skip
    for node in range(first, stop):
        if decided[node] == KEPT:
            kept[node] = True
            keeper[node] = -1
            similarity[node] = np.nan
            continue
        best = keeper[node]
        top = similarity[node] if best >= 0 else -np.inf
        best, top = _best(offsets, partner, score, node, 0, kept, keepers_only, best, top)
        best, top = _best(more_offsets, more_partner, more_score, node, first, kept, keepers_only, best, top)
        if best >= 0:
            keeper[node] = best
            similarity[node] = top
        elif decided[node] == UNKNOWN:
            kept[node] = True
