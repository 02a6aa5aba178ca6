"""Plain text: each line is a record, with one column named `text`. Row number = line number from 0.

Lines end with a line feed, a carriage return or both, and with no other character. An empty line is a record with an
empty text: it is quarantined like other empty texts, or kept with `keep_empty`. A byte order mark is not part of the
first line. A line that is not valid UTF-8 is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from dedup_assets.errors import ShardError
from dedup_assets.ingest.formats.batches import (
    LONGEST_RECORD,
    Batch,
    Rejected,
    ShardContent,
    render_unparsed,
)
from dedup_assets.ingest.formats.line_blocks import LineTooLong, line_blocks
from dedup_assets.ingest.source_files import SourceFile, reading

COLUMN = "text"
_MOST_ROWS = 65_536
_SCHEMA = pa.schema([(COLUMN, pa.string())])


def read(source: SourceFile) -> ShardContent:
    """Open a file of plain text that is not empty; see the module docstring. Raises `ShardError`."""
    return ShardContent(_SCHEMA, frozenset(), True, _batches(source))


def _batches(source: SourceFile) -> Iterator[Batch]:
    first = 0
    with reading(source):
        try:
            for block in line_blocks(source, carriage_returns=True):
                # `splitlines` would split at other characters too; a regular expression takes three times as long.
                lines = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n")
                for start in range(0, len(lines), _MOST_ROWS):
                    piece = lines[start : start + _MOST_ROWS]
                    yield _batch(piece, np.arange(first, first + len(piece), dtype=np.int64))
                    first += len(piece)
        except LineTooLong:
            raise ShardError(
                f"{source.uri!r} (shard {source.key}) has a line of more than {LONGEST_RECORD} bytes. Expected a "
                "record a line. Look at the file, and run again."
            ) from None


def _batch(lines: list[bytes], numbers: np.ndarray) -> Batch:
    try:
        column = pa.array(lines, pa.binary()).cast(pa.string())
        return Batch(pa.Table.from_arrays([column], schema=_SCHEMA), numbers)
    except pa.ArrowInvalid:
        pass
    texts: list[str] = []
    rows: list[int] = []
    rejected: list[Rejected] = []
    for line, row in zip(lines, numbers.tolist(), strict=True):
        try:
            texts.append(line.decode("utf-8"))
            rows.append(row)
        except UnicodeDecodeError as error:
            kind = "invalid UTF-8"
            rejected.append(Rejected(row, kind, f"{kind} at byte {error.start} of the line", render_unparsed(line)))
    table = pa.Table.from_arrays([pa.array(texts, pa.string())], schema=_SCHEMA)
    return Batch(table, np.array(rows, dtype=np.int64), rejected)
