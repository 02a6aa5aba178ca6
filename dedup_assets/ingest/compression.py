"""Recognises compressed files by their first bytes, and reads them as one decompressed stream.

Works on bytes, not on paths. The compression in a file's name is used only if the content shows none.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pyarrow as pa

MAGIC_BYTES = 18
"""Number of first bytes that determine the compression and the window of zstd."""

_LARGEST_ARROW_WINDOW = 2**27
"""Largest window that the zstd library accepts by default: 128 MiB, as written by `zstd --long=27`."""

_LARGEST_WINDOW = 2**31  # `zstd --long=31`, the maximum of zstd; the largest dictionary of xz is 1.5 GiB

MOST_EXPANSION, LEAST_SWOLLEN = 250, 2**28
"""A file is refused if its content exceeds both this multiple of the file's size and this number of bytes.
Text compresses to a tenth; a file that expands a thousandfold was made to exhaust memory or time."""

_XZ = b"\xfd7zXZ\x00"
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (_XZ, "xz"),
)
_STORED_BYTES = 2**16  # read at a time
_BZ2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # behind "BZh" and a digit: the first block, or the end


def compression_of(head: bytes) -> str | None:
    """The compression of a file that begins with `head`: "gzip", "zstd", "bz2", "xz", or None."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:3] == b"BZh" and head[4:10] in _BZ2_BLOCKS:
        return "bz2"
    # Parallel compressors of zstd write skippable frames first.
    return "zstd" if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F else None


def decompressed(raw: pa.NativeFile, named: str | None) -> pa.NativeFile:
    """The decompressed content of a file, as a stream that the caller closes.

    Parameters
    ----------
    raw : pyarrow.NativeFile
        The file, at its beginning; seekable.
    named : str or None
        The compression in the file's name. It is used if the content shows no known one: then reading fails with the
        decoder's error.

    Raises `Swollen` during reading if the content exceeds the limits above.

    Concatenated members are one stream, and zero padding of gzip, bz2 and xz files is skipped. A truncated or corrupt
    file, or one with other data behind its end, raises OSError or EOFError during reading.
    """
    head = raw.read(MAGIC_BYTES)
    raw.seek(0)
    kind = compression_of(head) or (named if head else None)
    if kind is None:
        return raw
    return pa.PythonFile(_Measured(_decoder(raw, kind, head), raw.size()), mode="r")


def _decoder(raw: pa.NativeFile, kind: str, head: bytes) -> Any:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=io.BufferedReader(cast(io.RawIOBase, raw)))
    if kind == "bz2":  # Arrow's fails at a member without content
        return io.BufferedReader(_Members(raw, bz2.BZ2Decompressor, b"BZh"))
    if kind == "xz":
        make = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_LARGEST_WINDOW)
        return io.BufferedReader(_Members(raw, make, _XZ))
    if kind == "zstd" and (_zstd_window(head) or 0) > _LARGEST_ARROW_WINDOW:
        import zstandard

        unpacker = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        return unpacker.stream_reader(raw, read_across_frames=True)
    return pa.CompressedInputStream(raw, kind)


class _Members(io.RawIOBase):
    """Reads the concatenated members of a bz2 or xz file. Python's own readers ignore data behind a member that does
    not start another one; behind xz padding that may be the rest of the file."""

    def __init__(self, raw: pa.NativeFile, make: Callable[[], Any], magic: bytes) -> None:
        self._raw, self._make, self._magic = raw, make, magic
        self._member = make()
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._member.eof or self._next():
            given = b""
            if self._member.needs_input:
                given, self._pending = self._pending or self._raw.read(_STORED_BYTES), b""
                if not given:
                    raise EOFError("the file ends inside of its compressed data")
            if data := self._member.decompress(given, len(buffer)):
                buffer[: len(data)] = data
                return len(data)
        return 0

    def _next(self) -> bool:
        """Start the next member; returns whether there is one."""
        rest = self._member.unused_data.lstrip(b"\0")
        while len(rest) < len(self._magic) and (more := self._raw.read(_STORED_BYTES)):
            rest = (rest + more).lstrip(b"\0")
        if not rest:
            return False
        if not rest.startswith(self._magic):
            raise OSError(f"behind the end of its compressed data there is more: {rest[:20]!r}")
        self._member = self._make()
        self._pending = rest
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()


class Swollen(OSError):
    """The content of a compressed file exceeds the limits (`MOST_EXPANSION`, `LEAST_SWOLLEN`)."""


def refuse_swollen(given: int, stored: int) -> None:
    """Raise `Swollen` if `given` bytes are out of all proportion to the `stored` bytes that they come from."""
    if given > max(LEAST_SWOLLEN, MOST_EXPANSION * stored):
        raise Swollen(
            f"grows to {given} bytes and more from {stored}: more than {MOST_EXPANSION} times its size. Expected text. "
            f"Look at the file; if it is meant, split it into files that hold less than {LEAST_SWOLLEN} bytes"
        )


class _Measured:
    """A stream for reading that counts what it gives, and stops where that is out of all proportion."""

    def __init__(self, stream: Any, stored: int) -> None:
        self._stream = stream
        self._stored = stored
        self._given = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._given += len(data)
        refuse_swollen(self._given, self._stored)
        return data

    def close(self) -> None:
        self._stream.close()

    @property
    def closed(self) -> bool:
        return bool(self._stream.closed)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False


def _zstd_window(head: bytes) -> int | None:
    """Bytes of the window that a zstd frame asks for (RFC 8878, 3.1.1.1), None where its header does not say."""
    if len(head) < 6 or not head.startswith(b"\x28\xb5\x2f\xfd"):
        return None
    descriptor = head[4]
    if not descriptor & 0x20:
        base = 1 << (10 + (head[5] >> 3))
        return base + (base >> 3) * (head[5] & 7)
    # A single segment: the window is the content, whose size stands behind the dictionary's id.
    start = 5 + (0, 1, 2, 4)[descriptor & 3]
    size = (1, 2, 4, 8)[descriptor >> 6]
    content = int.from_bytes(head[start : start + size], "little")
    return content + 256 if size == 2 else content
