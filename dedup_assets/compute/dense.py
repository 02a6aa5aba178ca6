"""Decisions inside dense cells, where nearly all pairs match and are therefore not listed.

The join names such cells instead of listing their matches (`join.DenseCells`). By the theorem of `cells`, a match of
such a cell is between one of its home records and any record listed in it. The walk over the records in curation order
proceeds in pieces. Before each piece, its records are compared with the records of the cell that count so far: the
keepers, under the rule that only keepers count. Near-copies have few keepers, so time is linear in the records, and no
pair is ever stored. The module takes nodes, cells and a function that returns vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dedup_assets.compute.decisions import REMOVED, UNKNOWN, Walk
from dedup_assets.compute.precision import bits_of, one_thread_each
from dedup_assets.compute.scan import CHUNK, LOWEST_BOUND, bound_pattern, gather, order_narrow, order_wide, propose
from dedup_assets.compute.similarity import canonical_between, squared_norms
from dedup_assets.compute.sketch import SKETCH_ROWS, Projection
from dedup_assets.compute.tiles import TILE_BYTES, TILE_ROWS, padded_columns, padded_rows, tile_columns
from dedup_assets.later import torch

TILE = (TILE_ROWS, tile_columns(TILE_BYTES, 2))
"""Rows and columns of a product: 1 MB of bfloat16, as in the join."""

FIRST_PIECE = 64
"""Members of dense cells in the first piece of the walk. Within a piece, records that no keeper matched yet are
compared with all others, so pieces start small, when there are no keepers, and double."""

PIECE = 4096
"""Members of dense cells in a piece at most: 3 MB of vectors. Larger ones mean fewer gatherings of keepers."""

SAME_SHARE = 0.5
"""Two dense cells are taken as one when each lists this share of the other's home records: near-copies of one
template fill several cells and are listed in all of them."""

Vectors = Callable[[np.ndarray], np.ndarray]
"""Returns the stored vectors (m, d) of nodes (m,)."""


@dataclass(frozen=True)
class DenseCell:
    """The records of one or several dense cells of one codebook.

    Attributes
    ----------
    members : integer array (m,)
        Distinct, ascending: keys of texts, or nodes.
    home : bool (m,)
        At home in one of the cells; the others are ghosts. Two ghosts need not be compared here.
    """

    members: np.ndarray
    home: np.ndarray

    @classmethod
    def of(cls, homes: np.ndarray, ghosts: np.ndarray) -> DenseCell:
        """From home records and ghosts in any order; a record in both lists is at home."""
        homes = np.unique(homes)
        ghosts = np.setdiff1d(ghosts, homes)
        members = np.concatenate([homes, ghosts])
        order = np.argsort(members, kind="stable")
        return cls(members[order], (np.arange(len(members)) < len(homes))[order])

    def renamed(self, names: np.ndarray) -> DenseCell:
        """The cell with a new number for each member; members with a number below 0 are left out."""
        there = np.flatnonzero(names >= 0)
        order = there[np.argsort(names[there], kind="stable")]
        return DenseCell(names[order], self.home[order])


def merge_cells(cells: Sequence[DenseCell]) -> list[DenseCell]:
    """Merge the cells of one codebook that share most records, so that their pairs are compared once.

    Greedy, starting with the fullest cell. Which cells are merged changes the cost, never a decision.
    """
    if len(cells) < 2:
        return list(cells)
    counts = np.array([int(cell.home.sum()) for cell in cells])
    keys = np.concatenate([cell.members[cell.home] for cell in cells])
    owner = np.repeat(np.arange(len(cells)), counts)
    order = np.argsort(keys, kind="stable")
    keys, owner = keys[order], owner[order]
    shares: list[set[int]] = []  # the cells of which each cell lists enough records
    for cell in cells:
        ghosts = cell.members[~cell.home]
        at = np.minimum(np.searchsorted(keys, ghosts), max(0, len(keys) - 1))
        known = owner[at[keys[at] == ghosts]] if len(keys) else owner
        listed = np.bincount(known, minlength=len(cells))
        shares.append(set(np.flatnonzero((listed >= SAME_SHARE * counts) & (listed > 0)).tolist()))
    taken = np.zeros(len(cells), bool)
    merged = []
    for seed in np.argsort(-counts, kind="stable").tolist():
        if taken[seed]:
            continue
        group = [seed] + [c for c in sorted(shares[seed]) if c != seed and not taken[c] and seed in shares[c]]
        taken[group] = True
        if len(group) == 1:
            merged.append(cells[seed])
            continue
        homes = np.concatenate([cells[c].members[cells[c].home] for c in group])
        ghosts = np.unique(np.concatenate([cells[c].members[~cells[c].home] for c in group]))
        merged.append(DenseCell.of(homes, ghosts))
    return merged


def walk_dense(
    walk: Walk,
    cells: Sequence[DenseCell],
    vectors: Vectors,
    decided: np.ndarray,
    *,
    piece: int = PIECE,
    sketch: int | None = None,
    make: Callable[..., DenseWork] | None = None,
) -> int:
    """Finish a walk with all matches between a home record and another record of each dense cell.

    Parameters
    ----------
    walk : Walk
        Over all nodes, with the listed matches; not advanced yet.
    cells : sequence of DenseCell
        Members are nodes of the walk.
    vectors : callable
        Vectors, as stored, of an array of nodes.
    decided : int8 array (n,)
        The argument of the walk; decided nodes come first.
    piece : int
        Members in a piece of the walk at most.
    sketch : int, optional
        Columns of the sketch, see `sketch.low_rows`.
    make : callable, optional
        Makes another kind of `DenseWork`.

    Returns
    -------
    int
        Pairs whose low-precision product was computed. The decisions, in the walk, do not depend on `piece`
        or `sketch`.
    """
    everyone = np.unique(np.concatenate([np.empty(0, np.int64), *(cell.members for cell in cells)]))
    members = everyone[decided[everyone] == UNKNOWN]
    if not len(members):
        walk.advance(walk.n)
        return 0
    # Each product takes about a millisecond. On all threads each would end in a barrier that waits for a busy core.
    with one_thread_each(2):
        work = (make or DenseWork)(walk, cells, everyone, vectors, decided, sketch)
        start, size = 0, min(piece, FIRST_PIECE)
        while start < len(members):
            stop = min(start + size, len(members))
            work.advance(members[start:stop], walk.n if stop == len(members) else int(members[stop]))
            start, size = stop, min(2 * size, piece)
    return work.products


class DenseWork:
    """State between two pieces: the records of each cell that count so far, and their rows to multiply."""

    def __init__(
        self,
        walk: Walk,
        cells: Sequence[DenseCell],
        everyone: np.ndarray,
        vectors: Vectors,
        decided: np.ndarray,
        sketch: int | None,
    ) -> None:
        self.walk, self.cells, self.vectors = walk, cells, vectors
        self.products = 0
        counts = decided[everyone] != REMOVED if walk.keepers_only else np.ones(len(everyone), bool)
        everyone = everyone[counts]
        sample = everyone[np.linspace(0, len(everyone) - 1, min(len(everyone), SKETCH_ROWS)).astype(np.int64)]
        typical = vectors(sample)
        self.low = Projection(typical, squared_norms(typical), len(everyone), width=sketch)
        self.residual = 0.0
        self.rows = _Rows(self.low.columns, self.low.dtype)
        self.place = np.full(walk.n, -1, np.int32)
        # Per cell: nodes that count so far, those at home and the ghosts.
        self.homes = [_Numbers() for _ in cells]
        self.ghosts = [_Numbers() for _ in cells]
        shape = (TILE[0], TILE[1])
        self.product = torch.empty(shape[0] * shape[1], dtype=self.low.dtype)
        self.left = torch.zeros(shape[0], self.low.columns, dtype=self.low.dtype)
        self.columns = torch.zeros(shape[1], self.low.columns, dtype=self.low.dtype)
        self.out = np.empty(shape[0] * shape[1], np.int32), np.empty(shape[0] * shape[1], np.int32)
        self._admit_decided(everyone[decided[everyone] != UNKNOWN])

    def _admit_decided(self, nodes: np.ndarray) -> None:
        for start in range(0, len(nodes), PIECE):
            part = nodes[start : start + PIECE]
            rows = self.vectors(part)
            low, residual = self.low(rows, squared_norms(rows))
            self._keep(part, low, residual)
        self._list(nodes)

    def _keep(self, nodes: np.ndarray, low: torch.Tensor, residual: float) -> None:
        self.residual = max(self.residual, residual)
        self.place[nodes] = self.rows.extend(low)

    def _list(self, nodes: np.ndarray) -> None:
        """Add nodes (ascending), which count from now on, to the lists of their cells."""
        for cell, homes, ghosts in zip(self.cells, self.homes, self.ghosts, strict=True):
            first, last = np.searchsorted(cell.members, [nodes[0], nodes[-1] + 1]) if len(nodes) else (0, 0)
            mine = np.arange(first, last)[np.isin(cell.members[first:last], nodes, assume_unique=True)]
            homes.extend(cell.members[mine[cell.home[mine]]])
            ghosts.extend(cell.members[mine[~cell.home[mine]]])

    def advance(self, nodes: np.ndarray, stop: int) -> None:
        """Decide the nodes of one piece, which are members of dense cells, and all other nodes before ``stop``."""
        walk = self.walk
        self.piece = nodes
        self.own = self.vectors(nodes)
        self.own_squares = squared_norms(self.own)
        self.own_low, residual = self.low(self.own, self.own_squares)
        self.residual = max(self.residual, residual)
        self.bound = walk.threshold - self.low.slack(self.residual)
        inside = []  # (cell, members of the piece, which of them are at home)
        for number, cell in enumerate(self.cells):
            first, last = np.searchsorted(cell.members, [nodes[0], nodes[-1] + 1])
            if last > first:
                inside.append((number, cell.members[first:last], cell.home[first:last]))
        inside = [(number, *_among(members, home, nodes)) for number, members, home in inside]
        for number, members, home in inside:
            self._against_earlier(members[home], self.homes[number].values)
            self._against_earlier(members[home], self.ghosts[number].values)
            self._against_earlier(members[~home], self.homes[number].values)
        found = [self._against_each_other(members, home) for _, members, home in inside]
        pairs = tuple(np.concatenate([np.empty(0, kind), *(f[at] for f in found)]) for at, kind in _KINDS)
        walk.advance(stop, (pairs[0], pairs[1], pairs[2]))
        counting = nodes[walk.kept[nodes]] if walk.keepers_only else nodes
        if len(counting):
            at = torch.from_numpy(np.searchsorted(nodes, counting))
            self._keep(counting, self.own_low[at], 0.0)
            self._list(counting)

    def _against_earlier(self, members: np.ndarray, earlier: np.ndarray) -> None:
        if not len(members):
            return
        own = np.searchsorted(self.piece, members)
        for start in range(0, len(earlier), TILE[1]):
            others = earlier[start : start + TILE[1]]
            _take(self.rows.values, self.place[others], self.columns)
            for row, column in self._proposals(own, len(others)):
                where, back = np.unique(column, return_inverse=True)
                rows = self.vectors(others[where])
                similarity = canonical_between(
                    self.own, own[row], rows, back, self.own_squares, squared_norms(rows)
                )  # fmt: skip
                self.walk.tell(members[row], others[column], similarity)

    def _against_each_other(self, members: np.ndarray, home: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Matches among members, of which the earlier one may count."""
        own = np.searchsorted(self.piece, members)
        # A node that matches an earlier keeper will not be a keeper.
        able = np.flatnonzero(~self.walk.answered(members)) if self.walk.keepers_only else np.arange(len(members))
        parts = []
        for start in range(0, len(members) if len(able) else 0, TILE[1]):
            part = own[start : start + TILE[1]]
            _take(self.own_low, part.astype(np.int32), self.columns)
            before = able[able < start + len(part)]
            for row, column in self._proposals(own[before], len(part)):
                i, j = before[row], start + column
                wanted = (i < j) & (home[i] | home[j])
                i, j = i[wanted], j[wanted]
                similarity = canonical_between(
                    self.own, own[i], self.own, own[j], self.own_squares, self.own_squares
                )  # fmt: skip
                match = similarity >= self.walk.threshold
                parts.append((members[i[match]], members[j[match]], similarity[match]))
        i, j, s = (np.concatenate([np.empty(0, kind), *(p[at] for p in parts)]) for at, kind in _KINDS)
        return i, j, s

    def _proposals(self, own: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs (index in `own`, column) that may match, tile by tile, with the first `count` columns."""
        right = self.columns[: padded_columns(count, TILE[1])]
        for start in range(0, len(own), TILE[0]):
            part = own[start : start + TILE[0]]
            _take(self.own_low, part.astype(np.int32), self.left)
            left = self.left[: padded_rows(len(part))]
            product = self.product[: len(left) * len(right)].view(len(left), len(right))
            torch.mm(left, right.T, out=product)
            self.products += len(part) * count
            bits = bits_of(product)
            bits = bits if bits.dtype == np.int16 else bits.view(np.int32)
            if self.bound < LOWEST_BOUND:
                (order_narrow if bits.dtype == np.int16 else order_wide)(bits)
            pattern = bits.dtype.type(bound_pattern(self.bound, bits.dtype == np.int32))
            found = propose(bits.reshape(len(left), -1, CHUNK), pattern, len(part), count, *self.out)
            if found:
                yield start + self.out[0][:found].astype(np.int64), self.out[1][:found].astype(np.int64)


def _take(rows: torch.Tensor, places: np.ndarray, out: torch.Tensor) -> None:
    """Copy some rows to the first rows of ``out``."""
    if rows.dtype == torch.bfloat16:
        word = torch.int64 if rows.shape[1] % 4 == 0 else torch.int16
        gather(rows.view(word).numpy(), places, np.arange(len(places), dtype=np.int32), out.view(word).numpy())
    else:
        torch.index_select(rows, 0, torch.from_numpy(places), out=out[: len(places)])


_KINDS = ((0, np.int64), (1, np.int64), (2, np.float64))


def _among(members: np.ndarray, home: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The members that are in the piece."""
    mine = np.isin(members, nodes, assume_unique=True)
    return members[mine], home[mine]


class _Numbers:
    """A growing array of node numbers."""

    def __init__(self) -> None:
        self._room = np.empty(0, np.int64)
        self._count = 0

    @property
    def values(self) -> np.ndarray:
        return self._room[: self._count]

    def extend(self, numbers: np.ndarray) -> None:
        wanted = self._count + len(numbers)
        if wanted > len(self._room):
            room = np.empty(max(wanted, 2 * len(self._room)), np.int64)
            room[: self._count] = self.values
            self._room = room
        self._room[self._count : wanted] = numbers
        self._count = wanted


class _Rows:
    """A growing matrix of rows to multiply."""

    def __init__(self, columns: int, dtype: torch.dtype) -> None:
        self.values = torch.empty(0, columns, dtype=dtype)
        self._count = 0

    def extend(self, rows: torch.Tensor) -> np.ndarray:
        """Add rows; returns their places."""
        wanted = self._count + len(rows)
        if wanted > len(self.values):
            room = torch.empty(max(wanted, 2 * len(self.values)), self.values.shape[1], dtype=self.values.dtype)
            room[: self._count] = self.values[: self._count]
            self.values = room
        self.values[self._count : wanted] = rows
        places = np.arange(self._count, wanted, dtype=np.int32)
        self._count = wanted
        return places
