"""The output of the join: pairs of rows with their similarity, and dense cells, which are named instead of listed.

It holds numbers only; vectors and the search for matches are elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dedup_assets.compute.sorting import order_by

MAX_MATCHES = 1 << 18
"""Matches emitted at a time: 6 MB."""

DENSE_LIMIT = 256
"""Matches per row from which a cell counts as dense. Families of package descriptions and licence texts reach
120 in real corpora and stay listed pair by pair; a template with thousands of near-copies does not."""

DENSE_MATCHES = 1 << 21
"""A cell with more matches is dense whatever its size: they are buffered until the cell is done, 40 MB."""

SAMPLE_SIDE = (32, 256)
"""Home and listed rows compared to recognise a very dense cell before its matches are found one by one: 8,192 pairs
take at most 2 ms, 70,000 matches 20 ms."""

SAMPLED_FROM = 1024
"""Matches that a cell has before it is sampled on a CPU. Of 350 cells of ordinary texts hardly one has as many;
sampling them all took a tenth of a second."""


@dataclass(frozen=True)
class Matches:
    """Pairs and their canonical similarity: int64 (m,), int64 (m,), float64 (m,); i < j."""

    i: np.ndarray
    j: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.i)

    @staticmethod
    def of(i: np.ndarray, j: np.ndarray, similarity: np.ndarray) -> Matches:
        """Copies of pairs, each with the smaller number first."""
        return Matches(np.minimum(i, j).astype(np.int64), np.maximum(i, j).astype(np.int64), np.array(similarity))


def unique_matches(matches: Matches | Sequence[Matches]) -> Matches:
    """Each pair once, sorted by i, then j. A pair found in two cells has the same similarity in both."""
    parts = [matches] if isinstance(matches, Matches) else list(matches)
    if not parts:
        return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
    i = np.concatenate([part.i for part in parts])
    j = np.concatenate([part.j for part in parts])
    similarity = np.concatenate([part.similarity for part in parts])
    order = order_by(i, j)
    i, j = i[order], j[order]
    first = np.ones(len(i), bool)
    first[1:] = (i[1:] != i[:-1]) | (j[1:] != j[:-1])
    return Matches(i[first], j[first], similarity[order][first])


class DenseCells:
    """Collects the cells in which nearly all pairs match: they are named, and their pairs are not listed.

    A cell is dense if it has more matches than `limit` for each home row or each new row, whichever are fewer, and more
    than ``limit²``, below which nothing is gained. That depends on the rows of the cell alone.

    Attributes
    ----------
    limit : int
        Matches per row; 0: no cell is dense.
    cells : list of int
        Numbers of the dense cells found so far, in no particular order. Their matches were not emitted.
    """

    def __init__(self, limit: int = DENSE_LIMIT) -> None:
        if limit < 0:
            raise ValueError(f"limit must be 0 (every match is listed) or more, found {limit}")
        self.limit = limit
        self.cells: list[int] = []

    def most(self, home: int, new: int) -> int:
        """Largest number of matches of a cell with ``home`` home rows and ``new`` new rows that is not dense."""
        return min(self.limit * max(self.limit, min(home, new)), DENSE_MATCHES)

    @staticmethod
    def is_promised(share: float, pairs: int, most: int) -> bool:
        """Whether the share of matches in a sample of a cell's pairs predicts four times ``most`` matches.

        Four times, so that sampling error does not matter near the bound. A pair of two home rows can be drawn in
        either direction, hence half.
        """
        return share * pairs / 2 > 4 * most


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64)]
