"""Compressed files: known by their first bytes, read as one stream of what they hold.

Knows bytes and no paths. What a file's name says of its compression counts only where its content says nothing.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from typing import IO, cast

import pyarrow as pa

MAGIC_BYTES = 18
"""Bytes of a file from which its compression, and the window of zstd, are known."""

_LARGEST_ARROW_WINDOW = 2**27
"""What the zstd library takes without being told of more: 128 MiB, as `zstd --long=27` packs."""

_LARGEST_WINDOW = 2**31  # `zstd --long=31`, the longest there is

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
)
_BZ2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # behind "BZh" and a digit: the first block, or the end


def compression_of(head: bytes) -> str | None:
    """The compression of a file that begins with `head`: "gzip", "zstd", "bz2", "xz", or None."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:3] == b"BZh" and head[4:10] in _BZ2_BLOCKS:
        return "bz2"
    # Skippable frames come first in what parallel packers of zstd write.
    return "zstd" if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F else None


def decompressed(raw: pa.NativeFile, named: str | None) -> pa.NativeFile:
    """What a file holds, as a stream to be closed by the caller.

    Parameters
    ----------
    raw : pyarrow.NativeFile
        The file, at its beginning; seekable.
    named : str or None
        The compression that the file's name speaks of. It counts where the content is of no known one: reading
        then fails with what the decoder says.

    Concatenated members are one stream, and zeros that pad a gzip file are no part of it, as for gzip itself. A
    truncated or corrupt file raises OSError or EOFError while it is read.
    """
    head = raw.read(MAGIC_BYTES)
    raw.seek(0)
    kind = compression_of(head) or (named if head else None)
    if kind is None:
        return raw
    if kind == "gzip":
        return _stream(gzip.GzipFile(fileobj=io.BufferedReader(cast(io.RawIOBase, raw))))
    if kind == "bz2":  # Arrow's fails at a member without content
        return _stream(bz2.BZ2File(cast(IO[bytes], raw)))
    if kind == "xz":
        return _stream(lzma.LZMAFile(cast(IO[bytes], raw)))
    if kind == "zstd" and (_zstd_window(head) or 0) > _LARGEST_ARROW_WINDOW:
        import zstandard

        unpacker = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        return _stream(unpacker.stream_reader(raw, read_across_frames=True))
    return pa.CompressedInputStream(raw, kind)


def _stream(file: object) -> pa.NativeFile:
    return pa.PythonFile(file, mode="r")


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
