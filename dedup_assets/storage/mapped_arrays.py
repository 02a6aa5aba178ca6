"""Arrays of .npy files mapped into memory without open file descriptors.

`numpy.load(mmap_mode="r")` keeps a descriptor for each map. A corpus has five maps a shard, and a process is limited to
some hundreds or thousands of descriptors.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

SMALL_BYTES = 16_384
"""Files up to this size are read: a map costs at least a page of memory, and a system allows some 65,000 maps."""

_PAGE = mmap.PAGESIZE


class MappedArray(np.ndarray):
    """A read-only array over a file. `_mmap` accepts `madvise`, as the attribute of that name of `numpy.memmap`
    does."""

    _mmap: Any = None

    def __array_finalize__(self, of: Any) -> None:
        self._mmap = getattr(of, "_mmap", None)


class _Region:
    """The pages of a mapped file, kept as long as an array uses them."""

    def __init__(self, buffer: pa.Buffer) -> None:
        self._buffer = buffer

    def madvise(self, advice: int) -> None:
        """Tell the system how the pages will be used; a refusal is no error."""
        start = self._buffer.address // _PAGE * _PAGE
        length = self._buffer.address + self._buffer.size - start
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(advice))


def map_array(path: Path) -> np.ndarray:
    """The array of a .npy file: mapped, so that pages are read on first access, or read at once where it is small."""
    if path.stat().st_size <= SMALL_BYTES:
        array = np.load(path)
        array.flags.writeable = False
        return array
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, is_fortran, dtype = read_header(file)
        offset = file.tell()
    if is_fortran or dtype.hasobject:
        raise ValueError(f"{path} holds an array that cannot be mapped: expected rows of numbers")
    with pa.memory_map(str(path)) as file:  # the buffer keeps the map alive after the file is closed
        buffer = file.read_buffer()
    values = np.frombuffer(buffer, dtype, count=int(np.prod(shape)), offset=offset).reshape(shape)
    mapped: MappedArray = values.view(MappedArray)
    mapped._mmap = _Region(buffer)
    return mapped
