"""A `.npy` file of vectors that is written while their number is not known yet."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_ROWS_AT_ONCE = 8_192  # moved when some are dropped: 12 MB of float32 at 384 dimensions


@dataclass
class VectorFile:
    """Rows of one `shape`, appended part by part; read with `np.load` once it is finished.

    No more than a part is in memory, and a full disk is an error of the write, where a map would end the process.
    """

    path: Path
    dtype: str
    shape: tuple[int, int] = (0, 0)

    def append(self, vectors: np.ndarray) -> None:
        """Add some rows (n, dimension)."""
        if not len(vectors):
            return
        rows = np.ascontiguousarray(vectors, self.dtype)
        with self.path.open("ab") as file:
            if not self.shape[0]:
                self.shape = (0, rows.shape[1])
                file.write(self._header())
            file.write(rows.data)
        self.shape = (self.shape[0] + len(rows), rows.shape[1])

    def keep(self, mask: np.ndarray) -> None:
        """Drop the rows where the mask (n,) is false; some stay."""
        start, kept = len(self._header()), 0
        stored = np.memmap(self.path, self.dtype, "r+", start, self.shape)
        for first in range(0, len(stored), _ROWS_AT_ONCE):
            part = stored[first : first + _ROWS_AT_ONCE][mask[first : first + _ROWS_AT_ONCE]]  # a copy
            stored[kept : kept + len(part)] = part
            kept += len(part)
        stored.flush()
        self.shape = (kept, self.shape[1])
        os.truncate(self.path, start + kept * stored.strides[0])

    def finish(self, dimension: int) -> None:
        """Write how many rows there are; without any, a file of none with this dimension."""
        if not self.shape[0]:
            self.shape = (0, dimension)
        with self.path.open("r+b" if self.shape[0] else "wb") as file:
            file.write(self._header())

    def _header(self) -> bytes:
        """Of the same length for any number of rows: numpy leaves room for it to grow."""
        header = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(np.dtype(self.dtype))
        np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": self.shape})
        return header.getvalue()
