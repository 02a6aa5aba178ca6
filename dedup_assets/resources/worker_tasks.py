"""The tasks of Dask workers: they read from the workspace, call compute, and return arrays or publish files.

Arguments are small (paths, numbers, a batch of texts); large arrays are in the workspace, which every worker sees under
the same path. A task may run twice and publishes the same files both times.
"""

from __future__ import annotations

import threading
import time
from collections.abc import MutableMapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from dedup_assets.compute.blocks import ShardPiece
from dedup_assets.compute.cells import CellAssignment, assign
from dedup_assets.compute.distances import forget_distances
from dedup_assets.compute.join import MAX_MATCHES, DenseCells, Matches, match_pieces
from dedup_assets.encoder.models import encoder_for, locate_model
from dedup_assets.encoder.probe import hold_to_probe
from dedup_assets.encoder.text_encoder import TextEncoder
from dedup_assets.errors import DedupError, ModelError
from dedup_assets.later import is_loaded
from dedup_assets.resources.worker_device import device_turn, heard_here, worker_device
from dedup_assets.settings import Settings
from dedup_assets.storage.cells import ShardCells, read_centroids
from dedup_assets.storage.embeddings import EmbeddingTable
from dedup_assets.storage.shards import admission_of, text_keys
from dedup_assets.storage.spill import MatchRuns

# Encoders whose vectors of a probe were correct in this process, with the hashes of these probes.
_held: MutableMapping[TextEncoder, set[int]] = WeakKeyDictionary()


def encode_texts(
    texts: list[str], settings: Settings, fingerprint: str, device: str, probe: list[list[float]] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors (n, d) in the stored dtype, whether each text was longer than the window (n,) bool, and whether the model
    knows too little of it (n,) bool.

    A text of which the model knows too little has the zero vector, whose similarity to every vector is 0: it matches
    only its copies.
    `probe` holds the vectors of the model when the workspace was created.
    """
    location = locate_model(settings.model, settings.revision)
    if location.fingerprint != fingerprint:
        raise ModelError(
            f"Model {settings.model} on this worker ({location.folder}) has fingerprint "
            f"{location.fingerprint}, the workspace was made with {fingerprint}: install the same model files."
        )
    device = worker_device(device)
    with device_turn(device):
        encoder = encoder_for(settings, location, device)
        if probe is not None:
            held, asked = _held.setdefault(encoder, set()), hash(str(probe))
            if asked not in held:
                hold_to_probe(encoder, probe, settings.model)
                held.add(asked)
        return stored_vectors(texts, encoder, settings)


def stored_vectors(
    texts: list[str], encoder: TextEncoder, settings: Settings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The result of `encode_texts`, with a loaded encoder."""
    encoded = encoder.encode(texts)
    unreadable = (encoded.unknown > settings.max_unknown) | (encoded.unknown == 1.0)
    encoded.vectors[unreadable] = 0.0
    return encoded.vectors.astype(settings.vector_dtype), encoded.truncated, unreadable


def assign_shard(
    table: tuple[str, int | None, str],
    shard: str,
    hashes: np.ndarray,
    rows: np.ndarray,
    centroids: str,
    floor: float,
    target: str,
    device: str,
) -> dict[str, int]:
    """Order a shard's new texts by home cell and publish them to `target`; returns counts.

    `table` holds the arguments of the embeddings: folder, dimension, dtype; the dimension is None while the corpus has
    no vector. `hashes` (n, 2) and `rows` (n,) identify the texts.
    """
    book = read_centroids(Path(centroids))
    vectors, rows = rows_of_shard(table, shard, hashes, rows)
    return publish_cells(lay_out(vectors, rows, book, floor, worker_device(device)), target)


def rows_of_shard(
    table: tuple[str, int | None, str], shard: str, hashes: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, d) and rows (n,) of the new texts of a shard that take part in the join."""
    folder, dimension, dtype = table
    if dimension is None:
        return np.empty((0, 1), dtype), rows
    vectors = EmbeddingTable(Path(folder), dimension, dtype).vectors(shard, hashes)
    # A text that the model cannot read matches nothing, so the join leaves it out.
    comparable = vectors.any(axis=1)
    return vectors[comparable], rows[comparable]


def reassign_shard(source: str, centroids: str, floor: float, target: str, device: str) -> dict[str, int]:
    """Order a shard's texts by the cells of new centroids; `source` holds them under the old ones."""
    vectors, rows = rows_of_cells(source)
    cells = lay_out(vectors, rows, read_centroids(Path(centroids)), floor, worker_device(device))
    return publish_cells(cells, target)


def rows_of_cells(source: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, d) and rows (n,) of a shard from its cells, in the order of rows."""
    old = ShardCells.read(Path(source))
    by_row = np.argsort(old.rows, kind="stable")
    return np.asarray(old.vectors)[by_row], np.asarray(old.rows)[by_row]


def lay_out(vectors: np.ndarray, rows: np.ndarray, centroids: np.ndarray, floor: float, device: str) -> ShardCells:
    """Assign texts and sort them by home cell; ghosts refer to the sorted order."""
    vectors = of_dimension(vectors, centroids)
    with device_turn(device):
        assigned = assign(vectors, centroids, floor, device=device)
    return in_order(vectors, rows, assigned)


def of_dimension(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The vectors; an empty array gets the dimension of the centroids, because a shard may have been admitted before
    the corpus had a vector."""
    return vectors if len(vectors) else np.empty((0, centroids.shape[1]), vectors.dtype)


def in_order(vectors: np.ndarray, rows: np.ndarray, assigned: CellAssignment) -> ShardCells:
    """Texts sorted by home cell."""
    order = np.argsort(assigned.home, kind="stable")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    home_counts = np.bincount(assigned.home, minlength=assigned.cells)
    return ShardCells(
        vectors=vectors[order],
        rows=rows[order],
        home_offsets=np.concatenate([[0], np.cumsum(home_counts)]).astype(np.int64),
        ghost_rows=place[assigned.ghost_rows],
        ghost_offsets=assigned.ghost_offsets.astype(np.int64),
    )


def publish_cells(cells: ShardCells, target: str) -> dict[str, int]:
    """Write cells to a folder; returns counts."""
    cells.write(Path(target))
    return {"texts": len(cells.rows), "ghosts": len(cells.ghost_rows)}


def shard_piece(folder: str, admission: int, is_new: bool) -> ShardPiece:
    """A shard's cells as input of the join: mapped, so that pages are read on first access."""
    cells = ShardCells.read(Path(folder))
    return ShardPiece(
        vectors=cells.vectors,
        home_offsets=cells.home_offsets,
        ghost_rows=cells.ghost_rows,
        ghost_offsets=cells.ghost_offsets,
        keys=cells.rows,
        is_new=is_new,
        first_key=int(text_keys(admission, np.zeros((), np.int64))),
    )


def match_cells_of_shards(
    shards: list[tuple[str, int, bool]],
    first: int,
    last: int,
    floor: float,
    device: str,
    dense_limit: int,
    spill: tuple[str, int],
    threads: int,
    tell: tuple[str, int],
) -> FoundMatches:
    """Matches in cells [first, last) that a new shard owns as the later one.

    `shards` lists (cells folder, admission number, is new). Matches are between text keys, the earlier first; a match
    found in two groups of cells is in the results of both. `spill` is the folder for matches beyond a number of bytes.
    `threads` is the number of threads of the task. `tell` is the topic and number under which it reports finished
    cells.
    """
    forget_distances()  # the assignment is over
    pieces = [shard_piece(*shard) for shard in shards]
    owners = np.array([admission for _, admission, is_new in shards if is_new])
    runs = MatchRuns(Path(spill[0]), spill[1])
    dense = DenseCells(dense_limit)
    most = min(MAX_MATCHES, runs.most)
    device = worker_device(device)
    options: dict[str, Any] = {
        "device": device,
        "max_matches": most,
        "turn": device_turn(device),
        "done": _ProgressReporter(*tell),
    }
    # Closed even if storing the matches fails, because the next task waits for the device.
    with closing(match_pieces(pieces, first, last, floor, dense=dense, threads=threads, **options)) as matches:
        for found in matches:
            # The later shard of a match owns it; matches owned by a shard of another run belong to that run.
            mine = np.isin(admission_of(found.j), owners)
            runs.add(Matches(found.i[mine], found.j[mine], found.similarity[mine]))
    return FoundMatches(runs.in_memory(), runs.files, dense.cells)


TELL_SECONDS = 0.5
"""Seconds between two progress reports of a task: often enough for a progress bar, without load."""


class _ProgressReporter:
    """Counts the finished items of a task and reports to the client a few times a second; outside of Dask it reports
    nothing.

    The client gets (number, count so far), so repeated reports are harmless. A task whose worker is closed meanwhile,
    because the run was interrupted, ends here.
    """

    def __init__(self, topic: str, number: int) -> None:
        self._topic, self._number = topic, number
        self._count, self._told = 0, time.monotonic()
        self._lock = threading.Lock()
        self._worker: Any = None
        if is_loaded("distributed"):
            from distributed import get_worker

            with suppress(ValueError):  # not in a Dask task
                self._worker = get_worker()

    def __call__(self) -> None:
        """Count one finished item; called from any thread."""
        with self._lock:
            self._count += 1
            now = time.monotonic()
            if (self._worker is None and self._topic not in heard_here) or now - self._told < TELL_SECONDS:
                return
            if self._worker is not None and self._worker.status.name in ("closing", "closed"):
                raise DedupError("The Dask worker of this task was closed.")
            self._told = now
        told = self._number, self._count
        if self._worker is not None:
            self._worker.log_event(self._topic, told)
        elif hear := heard_here.get(self._topic):
            hear(told)


@dataclass(frozen=True)
class FoundMatches:
    """The result of a group of cells: matches in memory, runs of further matches on disk, and dense cells."""

    matches: Matches
    files: list[Path]
    dense_cells: list[int]
