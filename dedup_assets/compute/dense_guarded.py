"""Decisions inside dense cells with guards, which may keep thousands of near-copies.

Comparing each record with all kept ones would take quadratic time. Two things reduce it:

- If a guard requires features that few keepers have, such as a number, a record is compared with these keepers only
  (`guards.Index`), and no product is computed for it. Near-copies that differ in a number take linear time.
- Every other record is compared with all keepers by a product in float32. The guards are then evaluated in the order of
  decreasing product, until no remaining keeper can be more similar than one that covers the record. So each pair costs
  a product, and little more if the guards hold for one of the most similar keepers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from dedup_assets.compute.decisions import Walk
from dedup_assets.compute.dense import DenseCell, DenseWork, Vectors, walk_dense
from dedup_assets.compute.guards import NamedCovers
from dedup_assets.compute.precision import unit_rows
from dedup_assets.compute.similarity import canonical_between, proposal_slack, squared_norms

BLOCK = (1_024, 4_096)
"""Records and keepers of a product: 16 MB of float32."""

FIRST_LOOKS = 4
"""Keepers of each record that are tested first; each later round tests four times as many."""


def walk_guarded(
    walk: Walk, cells: Sequence[DenseCell], vectors: Vectors, decided: np.ndarray, covers: NamedCovers | None
) -> int:
    """`walk_dense` with guards; returns the number of products. `covers` takes earlier and later nodes."""
    return walk_dense(walk, cells, vectors, decided, make=partial(GuardedWork, covers=covers) if covers else None)


class GuardedWork(DenseWork):
    """`DenseWork` that counts a match only if the guards hold for it."""

    def __init__(self, *state: Any, covers: NamedCovers) -> None:
        self.covers = covers
        super().__init__(*state)

    def advance(self, nodes: np.ndarray, stop: int) -> None:
        """As in the base class; first loads the features of the nodes that the guards compare."""
        self.covers.prepare(nodes)
        self._unit: np.ndarray | None = None
        super().advance(nodes, stop)

    def _against_earlier(self, members: np.ndarray, earlier: np.ndarray) -> None:
        if not len(members) or not len(earlier):
            return
        wide, pairs = self.covers.candidates(earlier, members)
        for keeper, row in pairs:
            self._look_at(members[row], earlier[keeper], self.covers.is_index)
        members = members[wide]
        for start in range(0, len(earlier) if len(members) else 0, BLOCK[1]):
            others = earlier[start : start + BLOCK[1]]
            rows = self.vectors(others)
            right = unit_rows(rows, squared_norms(rows)).numpy().T
            for first in range(0, len(members), BLOCK[0]):
                part = members[first : first + BLOCK[0]]
                product = self._unit_rows(part) @ right
                self.products += product.size
                best = product.argmax(axis=1)
                near = product[np.arange(len(part)), best] >= self._bounds(part)
                self._look_at(part[near], others[best[near]])
                row, column = np.nonzero(product >= self._bounds(part)[:, None])
                rest = column != best[row]
                row, column = row[rest], column[rest]
                self._look_at_best(part[row], others[column], product[row, column])

    def _unit_rows(self, nodes: np.ndarray) -> np.ndarray:
        """Unit rows float32 (n, d) of some nodes (n,) of the piece."""
        if self._unit is None:
            self._unit = unit_rows(self.own, self.own_squares).numpy()
        return self._unit[np.searchsorted(self.piece, nodes)]

    @property
    def _slack(self) -> float:
        return proposal_slack("fp32", self.own.shape[1])

    def _bounds(self, nodes: np.ndarray) -> np.ndarray:
        """Least product of a pair that may match and be more similar than the best keeper found so far for each node:
        float32 (n,)."""
        return (self.walk.bounds(nodes) - 2.0 * self._slack).astype(np.float32)

    def _look_at(self, later: np.ndarray, earlier: np.ndarray, is_covered: bool = False) -> None:
        """Report to the walk the pairs of a record of the piece and an earlier one that match and for which the guards
        hold. `is_covered` says that they are known to hold."""
        where, back = np.unique(earlier, return_inverse=True)
        if not len(where):
            return
        rows = self.vectors(where)
        own = np.searchsorted(self.piece, later)
        similarity = canonical_between(self.own, own, rows, back, self.own_squares, squared_norms(rows))
        if not is_covered:
            at = np.flatnonzero(similarity >= self.walk.bounds(later))
            at = at[self.covers(earlier[at], later[at])]
            later, earlier, similarity = later[at], earlier[at], similarity[at]
        self.walk.tell(later, earlier, similarity)

    def _look_at_best(self, later: np.ndarray, earlier: np.ndarray, product: np.ndarray) -> None:
        """`_look_at` for the most similar pairs of each record first, until no remaining pair can be more similar than
        one that covers the record."""
        order = np.lexsort((-product, later))
        later, earlier, product = later[order], earlier[order], product[order]
        count = FIRST_LOOKS
        while len(later):
            starts = np.flatnonzero(np.diff(later, prepend=-1))
            rank = np.arange(len(later)) - np.repeat(starts, np.diff(starts, append=len(later)))
            now = rank < count
            self._look_at(later[now], earlier[now])
            left = ~now
            left[left] = product[left] >= self._bounds(later[left])
            later, earlier, product = later[left], earlier[left], product[left]
            count *= 4

    def _against_each_other(self, members: np.ndarray, home: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # A record that an earlier keeper covers does not become a keeper.
        able = np.flatnonzero(~self.walk.answered(members)) if self.walk.keepers_only else np.arange(len(members))
        wide, pairs = self.covers.candidates(members[able], members)
        found = [self._matching(able[keeper], row, members, home, self.covers.is_index) for keeper, row in pairs]
        for start in range(0, len(wide) if len(able) else 0, BLOCK[0]):
            part = wide[start : start + BLOCK[0]]
            before = able[able < part[-1]]
            product = self._unit_rows(members[part]) @ self._unit_rows(members[before]).T
            self.products += product.size
            row, column = np.nonzero(product >= self._bounds(members[part])[:, None])
            found.append(self._matching(before[column], part[row], members, home))
        i, j, s = (np.concatenate([np.empty(0, kind), *(f[at] for f in found)]) for at, kind in _KINDS)
        return i, j, s

    def _matching(
        self, i: np.ndarray, j: np.ndarray, members: np.ndarray, home: np.ndarray, is_covered: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs of members, the keeper first, that match and for which the guards hold."""
        wanted = (i < j) & (home[i] | home[j])
        i, j = members[i[wanted]], members[j[wanted]]
        one, other = np.searchsorted(self.piece, i), np.searchsorted(self.piece, j)
        similarity = canonical_between(self.own, one, self.own, other, self.own_squares, self.own_squares)
        at = np.flatnonzero(similarity >= self.walk.bounds(j))
        if not is_covered:
            at = at[self.covers(i[at], j[at])]
        return i[at], j[at], similarity[at]


_KINDS = ((0, np.int64), (1, np.int64), (2, np.float64))
