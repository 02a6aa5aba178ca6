"""The bytes of a JSON file cut into blocks of whole rows: one object a line, or documents (`json_documents`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dedup_assets.errors import ShardError
from dedup_assets.ingest.formats.batches import BLOCK_BYTES, LONGEST_RECORD
from dedup_assets.ingest.formats.json_documents import BrokenDocuments, begins_documents, documents
from dedup_assets.ingest.formats.line_blocks import LineTooLong, line_blocks
from dedup_assets.ingest.source_files import SourceFile, open_source

_BEGINNING = 2**20  # bytes from which lines are told from documents
_MOST_BRACKETS = 1_000  # Arrow's parser overflows its stack on some 20,000 nested brackets


@dataclass(frozen=True)
class JsonBlock:
    """Whole rows of the file, and where each begins and ends; in a file of lines the blank ones are no rows."""

    data: bytes
    rows: np.ndarray  # number of each row, int64
    starts: np.ndarray
    ends: np.ndarray
    plain: bool  # every row begins with "{" and holds few enough brackets for Arrow
    over_lines: bool = False  # rows may hold line breaks

    def part(self, first: int, most_bytes: int, most_rows: int) -> JsonBlock:
        """The rows from the `first` of this block on: at most so many, and so many bytes unless one row takes more."""
        start = int(self.starts[first])
        last = max(first + 1, int(np.searchsorted(self.ends, start + most_bytes, side="right")))
        last = min(last, first + most_rows, len(self.rows))
        if last - first == len(self.rows):
            return self
        data = self.data[start : int(self.ends[last - 1])] + b"\n"
        rows, starts, ends = self.rows[first:last], self.starts[first:last] - start, self.ends[first:last] - start
        return JsonBlock(data, rows, starts, ends, self.plain, self.over_lines)


def json_blocks(source: SourceFile) -> Iterator[JsonBlock]:
    """The rows of a file in blocks. Raises `ShardError` where it breaks off, and the errors of reading it."""
    with open_source(source) as stream:
        beginning = stream.read(_BEGINNING).removeprefix(b"\xef\xbb\xbf")
        whole = len(beginning) < _BEGINNING - 3 and not stream.read(1)
    return _documents(source) if begins_documents(beginning, whole) else _lines(source)


def _documents(source: SourceFile) -> Iterator[JsonBlock]:
    first = 0
    with open_source(source) as stream:
        try:
            for found in documents(stream, BLOCK_BYTES):
                starts, ends = np.array(found.starts, np.int64), np.array(found.ends, np.int64)
                characters = np.frombuffer(found.data, dtype=np.uint8)
                plain = bool((characters[starts] == ord("{")).all()) and _few_brackets(found.data, characters, starts)
                rows = np.arange(first, first + len(starts), dtype=np.int64)
                first += len(starts)
                yield JsonBlock(found.data, rows, starts, ends, plain, over_lines=True)
        except BrokenDocuments as problem:
            raise ShardError(
                f"{source.uri!r} (shard {source.key}) is read as JSON over several lines, and behind row {first - 1} "
                f"{problem}. The file is truncated or no JSON. Replace it, or write one object a line, and run again."
            ) from problem


def _lines(source: SourceFile) -> Iterator[JsonBlock]:
    first_line = 0
    try:
        for data in line_blocks(source):
            yield _line_block(data, first_line)
            first_line += data.count(b"\n")
    except LineTooLong:
        raise ShardError(
            f"{source.uri!r}, line {first_line}: longer than {LONGEST_RECORD} bytes. "
            "Expected one JSON object a line; is the file one large JSON array?"
        ) from None


def _line_block(data: bytes, first_line: int) -> JsonBlock:
    characters = np.frombuffer(data, dtype=np.uint8)
    breaks = np.flatnonzero(characters == ord("\n"))
    starts = np.concatenate([[0], breaks + 1])
    ends = np.concatenate([breaks, [len(data)]])
    if starts[-1] == len(data):
        starts, ends = starts[:-1], ends[:-1]
    objects = (ends > starts) & (characters[np.minimum(starts, len(data) - 1)] == ord("{"))
    row = objects.copy()
    plain = True
    for index in np.flatnonzero(~objects & (ends > starts)):  # indented or wrong: few in any real file
        content = data[starts[index] : ends[index]].strip()
        row[index] = bool(content)
        plain &= not content or content.startswith(b"{")
    plain &= _few_brackets(data, characters, starts)
    numbers = first_line + np.flatnonzero(row)
    return JsonBlock(data, numbers.astype(np.int64), starts[row], ends[row], plain)


def _few_brackets(data: bytes, characters: np.ndarray, starts: np.ndarray) -> bool:
    """Whether no row holds more brackets than Arrow can be trusted with."""
    if data.count(b"{") + data.count(b"[") <= _MOST_BRACKETS:
        return True
    brackets = (characters == ord("{")) | (characters == ord("["))
    return int(np.add.reduceat(brackets, starts, dtype=np.int64).max()) <= _MOST_BRACKETS
