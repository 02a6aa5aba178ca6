"""Assigns the rows of a large shard on several GPUs: one task reads its vectors, each GPU assigns a range of them, and
one task orders them by cell. The published files equal those of `worker_tasks` for a shard in one task, except for
unnecessary ghosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dedup_assets.compute.cells import CellAssignment, assign
from dedup_assets.compute.row_ranges import joined, row_ranges
from dedup_assets.resources import worker_tasks
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.worker_device import device_turn
from dedup_assets.storage.cells import read_centroids
from dedup_assets.storage.mapped_arrays import map_array
from dedup_assets.storage.publish import publish_folder, temporary_folder

ROWS_APART = 1_000_000
"""A shard with at least this many rows is split into ranges: by arithmetic they take seconds of an H200, and writing
and reading them once more takes one second. Not tuned on a GPU."""


@dataclass(frozen=True)
class Layout:
    """A shard to order by cell.

    Attributes
    ----------
    texts : int
    source : tuple
        Arguments of the function that reads its vectors (n, d) and rows (n,) on a worker.
    centroids : str
        File of the centroids.
    floor : float
    target : str
        Folder to publish to.
    """

    texts: int
    source: tuple[Any, ...]
    centroids: str
    floor: float
    target: str


def lay_out_all(
    dask: DaskCluster,
    layouts: Sequence[Layout],
    task: Callable[..., dict[str, int]],
    read: Callable[..., tuple[np.ndarray, np.ndarray]],
    workspace: Path,
) -> Iterator[tuple[int, dict[str, int]]]:
    """Order shards by cell, each in one task, or large ones on all GPUs together; yields (index, counts) as they
    finish.

    `task(*source, centroids, floor, target, device)` does a whole shard; `read(*source)` reads its vectors.
    """
    if not layouts:
        return
    gpus = dask.lanes(dask.rooms()).gpus if any(layout.texts >= ROWS_APART for layout in layouts) else 0
    device = dask.resolved_device()
    others = []
    for index, layout in enumerate(layouts):
        if gpus < 2 or layout.texts < ROWS_APART:
            others.append(index)
            continue
        with temporary_folder(workspace) as scratch:
            yield index, _assign_in_ranges(dask, layout, read, scratch, gpus)
    whole = (
        (*layout.source, layout.centroids, layout.floor, layout.target, device)
        for layout in (layouts[index] for index in others)
    )
    for at, counts in dask.map(task, whole):
        yield others[at], counts


def _assign_in_ranges(
    dask: DaskCluster, layout: Layout, read: Callable[..., tuple[np.ndarray, np.ndarray]], scratch: Path, ranges: int
) -> dict[str, int]:
    """Order one shard by cell in several ranges of rows; tasks exchange data in `scratch`."""
    source, device = str(scratch / "rows"), dask.resolved_device()
    ((_, texts),) = dask.map(keep_rows, [(read, layout.source, source)])
    parts = [
        (source, first, last, layout.centroids, layout.floor, device, str(scratch / f"from-{first}"))
        for first, last in row_ranges(texts, ranges)
    ]
    for _ in dask.map(assign_rows, parts):
        pass
    folders = [part[-1] for part in parts]
    ((_, counts),) = dask.map(put_in_order, [(source, folders, layout.centroids, layout.target)])
    return counts


# -- on a worker -------------------------------------------------------------------------------------


def keep_rows(read: Callable[..., tuple[np.ndarray, np.ndarray]], arguments: tuple[Any, ...], target: str) -> int:
    """Write a shard's vectors and rows to a folder; returns how many there are."""
    vectors, rows = read(*arguments)
    _write(target, vectors=vectors, rows=rows)
    return len(rows)


def assign_rows(source: str, first: int, last: int, centroids: str, floor: float, device: str, target: str) -> None:
    """Assign a range of the rows in a folder, and write the result to another folder."""
    book = read_centroids(Path(centroids))
    vectors = worker_tasks.of_dimension(map_array(Path(source, "vectors.npy"))[first:last], book)
    device = worker_tasks.worker_device(device)
    with device_turn(device):
        found = assign(vectors, book, floor, device=device)
    ghosts = np.asarray(found.ghost_rows)
    _write(target, home=found.home, ghost_offsets=found.ghost_offsets, ghost_rows=ghosts)


def put_in_order(source: str, parts: list[str], centroids: str, target: str) -> dict[str, int]:
    """Publish the cells of a shard whose ranges of rows have been assigned; returns counts."""
    names = ("home", "ghost_offsets", "ghost_rows")
    assigned = joined([CellAssignment(*(map_array(Path(part, f"{name}.npy")) for name in names)) for part in parts])
    vectors, rows = (map_array(Path(source, f"{name}.npy")) for name in ("vectors", "rows"))
    vectors = worker_tasks.of_dimension(vectors, read_centroids(Path(centroids)))
    return worker_tasks.publish_cells(worker_tasks.in_order(vectors, rows, assigned), target)


def _write(target: str, **arrays: np.ndarray) -> None:
    with publish_folder(Path(target)) as folder:
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
