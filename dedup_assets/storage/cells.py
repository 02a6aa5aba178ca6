"""The texts of a shard ordered by home cell, as memory-mapped arrays: one cell over many shards is a slice of each.
Ghosts are entries (row, cell), not copies of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from dedup_assets.storage.mapped_arrays import map_array
from dedup_assets.storage.publish import identity, publish_file, publish_folder

_ARRAYS = ("vectors", "rows", "home_offsets", "ghost_rows", "ghost_offsets")


@dataclass(frozen=True)
class ShardCells:
    """Texts that first appear in one shard, sorted by home cell.

    Attributes
    ----------
    vectors : (n, d) float16 or float32, unit norm
    rows : (n,) int64
        Row in the source of each text's first record.
    home_offsets : (k + 1,) int64
        The home rows of cell c are `vectors[home_offsets[c]:home_offsets[c + 1]]`.
    ghost_rows : (g,) int32
        Indexes into `vectors`, sorted by the cell they are listed in.
    ghost_offsets : (k + 1,) int64
    """

    vectors: np.ndarray
    rows: np.ndarray
    home_offsets: np.ndarray
    ghost_rows: np.ndarray
    ghost_offsets: np.ndarray

    def write(self, folder: Path) -> None:
        """Publish to a folder."""
        with publish_folder(folder) as temporary:
            for name in _ARRAYS:
                np.save(temporary / f"{name}.npy", getattr(self, name))

    @classmethod
    def read(cls, folder: Path) -> ShardCells:
        """Map the files that `write` published; pages are read on first access.

        A folder is mapped once per process: published folders never change.
        """
        return _mapped(folder, identity(folder))

    @classmethod
    def _map(cls, folder: Path) -> ShardCells:
        return cls(**{name: map_array(folder / f"{name}.npy") for name in _ARRAYS})

    @property
    def home_counts(self) -> np.ndarray:
        """Texts at home per cell: (k,) int64."""
        return np.diff(self.home_offsets)

    @property
    def ghost_counts(self) -> np.ndarray:
        """Ghosts per cell: (k,) int64."""
        return np.diff(self.ghost_offsets)


@lru_cache(maxsize=4096)
def _mapped(folder: Path, _: tuple[int, int, int]) -> ShardCells:
    return ShardCells._map(folder)


def write_centroids(path: Path, centroids: np.ndarray) -> None:
    """Publish centroids, shape (k, d) float32."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, centroids)

    publish_file(path, write)


def read_centroids(path: Path) -> np.ndarray:
    """Read centroids, shape (k, d) float32."""
    return np.load(path)
