"""Finds dense cells on a device from a sample of their pairs, before any of their matches is computed.

A CPU also counts matches as it finds them. So a cell that the sample misses is listed on a device and may be named on a
CPU. The decisions are the same either way.
"""

from __future__ import annotations

import numpy as np

from dedup_assets.compute.device.listing import CellCounts, Listing
from dedup_assets.compute.device.memory import Room, by_slices
from dedup_assets.compute.device.rows import DeviceRows, cosines
from dedup_assets.compute.matches import SAMPLE_SIDE, DenseCells
from dedup_assets.compute.similarity import canonical_pairs
from dedup_assets.later import torch

CELLS_AT_ONCE = 64
"""Cells whose samples are compared in one product: half a million pairs, all of which may be matches."""


def dense_by_sample(
    rows: DeviceRows,
    squares: np.ndarray,
    low: torch.Tensor,
    bound: torch.Tensor,
    listed: torch.Tensor,
    counts: CellCounts,
    floor: float,
    dense: DenseCells,
) -> np.ndarray:
    """Numbers, ascending, of the cells that a sample of their pairs predicts to be dense.

    Parameters
    ----------
    rows : DeviceRows
    squares : float64 (n,)
        Their squared norms, on the host.
    low : tensor (n, w)
        Low-precision rows; ``bound`` is the smallest product that a match can have.
    listed : int32 tensor
        Row numbers by position.
    counts : CellCounts
    floor : float
    dense : DenseCells
        Supplies the rule; it receives nothing here.
    """
    pairs = counts.pairs
    new = counts.new_homes + counts.new_ghosts
    most = np.array([dense.most(h, w) for h, w in zip(counts.homes.tolist(), new.tolist(), strict=True)], np.int64)
    large = np.flatnonzero(pairs > most)

    def promised(at: slice) -> list[int]:
        cells = large[at]
        shares = _shares(rows, squares, low, bound, listed, *_samples(counts, cells), floor)
        return [
            cell
            for cell, share in zip(cells.tolist(), shares.tolist(), strict=True)
            if dense.is_promised(share, int(pairs[cell]), int(most[cell]))
        ]

    def what(cells: int) -> str:
        return f"the samples of {cells} cells"

    found = by_slices(len(large), CELLS_AT_ONCE, promised, Room(rows.device), least=1, what=what)
    return np.array([cell for cells in found for cell in cells], np.int64)


def looks_dense(vectors: np.ndarray | DeviceRows, listing: Listing, floor: float, dense: DenseCells) -> bool:
    """`dense_by_sample` for a single cell whose rows do not fit the device: it uploads the sampled rows alone."""
    fresh_homes, fresh_ghosts = listing.is_new[listing.home_rows], listing.is_new[listing.ghost_rows]
    listed = np.concatenate(
        [
            *(listing.home_rows[fresh_homes], listing.home_rows[~fresh_homes]),
            *(listing.ghost_rows[fresh_ghosts], listing.ghost_rows[~fresh_ghosts]),
        ]
    )
    sizes = (0, len(fresh_homes), fresh_homes.sum(), len(fresh_ghosts), fresh_ghosts.sum())
    counts = CellCounts(*(np.array([size], np.int64) for size in sizes))
    pairs, most = int(counts.pairs[0]), dense.most(len(fresh_homes), int(sizes[2] + sizes[4]))
    if pairs <= most:
        return False
    i, j = (listed[at[0]] for at in _samples(counts, np.array([0])))
    chosen = np.concatenate([i, j])
    rows = vectors.take(chosen).stored.cpu().numpy() if isinstance(vectors, DeviceRows) else vectors[chosen]
    left, right = (part.ravel() for part in np.meshgrid(np.arange(len(i)), len(i) + np.arange(len(j)), indexing="ij"))
    matches = canonical_pairs(rows, left, right) >= floor
    matches &= chosen[left] != chosen[right]
    return dense.is_promised(float(matches.mean()), pairs, most)


def _samples(counts: CellCounts, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (c, `SAMPLE_SIDE`[0]) and (c, `SAMPLE_SIDE`[1]) of the rows that are compared, evenly spaced."""
    first, homes, new = counts.first[cells], counts.homes[cells], counts.new_homes[cells]
    any_new = new > 0
    left = _spread(first, np.where(any_new, new, homes), SAMPLE_SIDE[0])
    columns = np.where(any_new, homes + counts.ghosts[cells], counts.new_ghosts[cells])
    return left, _spread(first + np.where(any_new, 0, homes), columns, SAMPLE_SIDE[1])


def _spread(first: np.ndarray, counts: np.ndarray, side: int) -> np.ndarray:
    """``side`` evenly spaced positions of each run, which begins at ``first`` and has ``counts`` entries; a shorter run
    repeats some."""
    return first[:, None] + np.arange(side)[None, :] * (counts - 1)[:, None] // (side - 1)


def _shares(
    rows: DeviceRows,
    squares: np.ndarray,
    low: torch.Tensor,
    bound: torch.Tensor,
    listed: torch.Tensor,
    left: np.ndarray,
    right: np.ndarray,
    floor: float,
) -> np.ndarray:
    """Share of matches among the sampled pairs of each cell, float64 (c,)."""
    at = torch.from_numpy(np.concatenate([left, right], axis=1)).to(listed.device)
    i, j = listed[at].long().split((left.shape[1], right.shape[1]), dim=1)
    proposed = torch.bmm(low[i], low[j].transpose(1, 2)) >= bound
    proposed &= i[:, :, None] != j[:, None, :]
    cell, row, column = torch.nonzero(proposed, as_tuple=True)
    i, j = i[cell, row], j[cell, column]
    near, sums = rows.near(i, j, floor)
    of_cell, a, b = torch.stack((cell, i, j)).index_select(1, near).cpu().numpy()
    matches = cosines(sums.cpu().numpy(), squares[a], squares[b]) >= floor
    return np.bincount(of_cell[matches], minlength=len(left)) / (left.shape[1] * right.shape[1])
