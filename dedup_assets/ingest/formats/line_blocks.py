"""A file in blocks of whole lines, for the formats with a record on each line."""

from __future__ import annotations

from collections.abc import Iterator

from dedup_assets.ingest.formats.batches import BLOCK_BYTES, LONGEST_RECORD
from dedup_assets.ingest.source_files import SourceFile, open_source


class LineTooLong(Exception):
    """A line has more than `LONGEST_RECORD` bytes. The format says what it expected."""


def line_blocks(source: SourceFile, *, carriage_returns: bool = False) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks of whole lines, without a byte order mark. Raises LineTooLong.

    A line ends with a line feed, or with `carriage_returns` also with a carriage return.
    """
    pieces: list[bytes] = []
    size = 0
    with open_source(source) as stream:
        begun = False
        while piece := stream.read(BLOCK_BYTES):
            piece, begun = piece if begun else piece.removeprefix(b"\xef\xbb\xbf"), True
            cut = piece.rfind(b"\n") + 1
            if carriage_returns:
                # One at the end of a piece may be the first half of a line ending.
                cut = max(cut, piece.rfind(b"\r", 0, len(piece) - 1) + 1)
            if cut:
                yield b"".join([*pieces, piece[:cut]])
                pieces, size = [], 0
            pieces.append(piece[cut:])
            size += len(piece) - cut
            if size > LONGEST_RECORD:
                raise LineTooLong
    if rest := b"".join(pieces):
        yield rest
