"""The join of a block that is one cell of few rows: every pair, in numpy.

With so few rows, importing torch would take longer than everything else. The matches, and the decision whether the
cell is dense, are the same as in `cell_worker`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dedup_assets.compute.blocks import CellBlock, new_first
from dedup_assets.compute.matches import SAMPLE_SIDE, SAMPLED_FROM, DenseCells, Matches, spread
from dedup_assets.compute.precision import MEASURING, unit_array
from dedup_assets.compute.similarity import canonical_pairs, product_slack, squared_norms

MOST_ROWS = 4096
"""Most rows that numpy multiplies: 16 million products in float32, about 0.1 s of one core."""

TILE_ROWS = 512
"""Rows of a tile: 8 MB of products."""


def match_one_cell(block: CellBlock, floor: float, max_matches: int, dense: DenseCells | None) -> Iterator[Matches]:
    """`join.match_cells` for a block of one cell without ghosts: all rows are at home."""
    squares = squared_norms(block.vectors)
    unit = unit_array(block.vectors, squares)
    homes = np.ascontiguousarray(block.home_rows)
    if not block.is_new.all():
        homes = new_first(homes, block.home_offsets, block.is_new)
    new = int(np.count_nonzero(block.is_new[homes]))
    bound = np.float32(floor - product_slack("fp32", unit.shape[1], MEASURING))
    placed = unit[homes]
    found: list[Matches] = []
    for first in range(0, new, TILE_ROWS):  # each pair needs a new row, and these come first
        rows = placed[first : min(first + TILE_ROWS, new)]
        at, other = np.nonzero(rows @ placed[first:].T >= bound)
        apart = other > at
        i, j = homes[first + at[apart]], homes[first + other[apart]]
        similarity = canonical_pairs(block.vectors, i, j, squares=squares)
        near = similarity >= floor
        found.append(Matches.of(i[near], j[near], similarity[near]))
    if dense is not None and dense.limit and _is_dense(block, homes, new, squares, floor, dense, sum(map(len, found))):
        dense.cells.append(0)
        return
    for part in found:
        for start in range(0, len(part), max_matches):
            at_once = slice(start, start + max_matches)
            yield Matches(part.i[at_once], part.j[at_once], part.similarity[at_once])


def _is_dense(
    block: CellBlock, homes: np.ndarray, new: int, squares: np.ndarray, floor: float, dense: DenseCells, met: int
) -> bool:
    """Whether the cell has too many matches to list, or a sample of its pairs predicts that."""
    pairs, most = new * len(homes), dense.most(len(homes), new)
    if pairs <= most or met <= min(SAMPLED_FROM, most):
        return False
    if met > most:
        return True
    rows, listed = spread(homes[:new], SAMPLE_SIDE[0]), spread(homes, SAMPLE_SIDE[1])
    i, j = np.repeat(rows, len(listed)), np.tile(listed, len(rows))
    near = (canonical_pairs(block.vectors, i, j, squares=squares) >= floor) & (i != j)
    return dense.is_promised(np.count_nonzero(near) / max(1, len(i)), pairs, most)
