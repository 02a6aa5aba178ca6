"""Decisions inside dense cells where guards decide too. Then near-copies may stay by the thousand.

Comparing each record with all that stay would take the square of their number. Two things bound it:

- Of a record that needs what few keepers have, such as a number, only these are looked at (`guards.Index`): no product
  is taken of it at all. Near-copies that differ in a number cost time linear in their number.
- The others are compared with every keeper by a product in float32, and looked at from the most alike on, until none of
  the rest can be more alike than one that covers the record. That is a product for each pair of them, and no more where
  the guards hold for one of the most alike.
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
"""Keepers of each record that are looked at first; then four times as many."""


def walk_guarded(
    walk: Walk, cells: Sequence[DenseCell], vectors: Vectors, decided: np.ndarray, covers: NamedCovers | None
) -> int:
    """`walk_dense`, where `covers` tells of pairs of nodes, the earlier one first, whether the guards hold."""
    return walk_dense(walk, cells, vectors, decided, make=partial(GuardedWork, covers=covers) if covers else None)


class GuardedWork(DenseWork):
    """The state between two pieces; asks the guards of every match."""

    def __init__(self, *state: Any, covers: NamedCovers) -> None:
        self.covers = covers
        super().__init__(*state)

    def advance(self, nodes: np.ndarray, stop: int) -> None:
        """As for any records, with what the guards compare of these at hand."""
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
        """Unit rows, float32, of some nodes of the piece."""
        if self._unit is None:
            self._unit = unit_rows(self.own, self.own_squares).numpy()
        return self._unit[np.searchsorted(self.piece, nodes)]

    @property
    def _slack(self) -> float:
        return proposal_slack("fp32", self.own.shape[1])

    def _bounds(self, nodes: np.ndarray) -> np.ndarray:
        """The product from which a pair may match, and be more alike than what each node was told: float32 (n,)."""
        return (self.walk.bounds(nodes) - 2.0 * self._slack).astype(np.float32)

    def _look_at(self, later: np.ndarray, earlier: np.ndarray, is_covered: bool = False) -> None:
        """Tell the walk which pairs of a record of the piece and an earlier one match and fulfil the guards."""
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
        """The same, the most alike of each record first, and no more than can be the most alike that covers it."""
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
        # What an earlier keeper covers is not going to be a keeper.
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
        """Those of some pairs of members, the keeper first, that match and fulfil the guards."""
        wanted = (i < j) & (home[i] | home[j])
        i, j = members[i[wanted]], members[j[wanted]]
        one, other = np.searchsorted(self.piece, i), np.searchsorted(self.piece, j)
        similarity = canonical_between(self.own, one, self.own, other, self.own_squares, self.own_squares)
        at = np.flatnonzero(similarity >= self.walk.bounds(j))
        if not is_covered:
            at = at[self.covers(i[at], j[at])]
        return i[at], j[at], similarity[at]


_KINDS = ((0, np.int64), (1, np.int64), (2, np.float64))
