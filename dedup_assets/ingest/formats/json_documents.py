"""JSON that is not one object a line: one array of objects, or objects one after another over several lines.

Finds where each object begins and ends, without holding more than the objects of a block; what is inside is for the
parser. Row number = number of the object from 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from dedup_assets.ingest.formats.batches import LONGEST_RECORD

_BLANK = b" \t\r\n"
# Inside an object only strings and brackets matter. A lone quote is a string that goes on behind what was read.
_INSIDE = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\]"]', re.DOTALL)
_SCALAR = re.compile(rb'"(?:[^"\\]|\\.)*+"|[^\s,\[\]{}"]+', re.DOTALL)


class BrokenDocuments(ValueError):
    """The file breaks off, or something stands between its objects."""


def begins_documents(beginning: bytes, whole: bool) -> bool:
    """Whether a file that begins with `beginning` is to be read as documents rather than as lines.

    It is where it begins with an array of objects, or where its first line is no JSON and an object reaches over it.
    `whole`: there is nothing behind `beginning`.
    """
    text = beginning.lstrip(_BLANK)
    if text.startswith(b"["):
        inside = text[1:].lstrip(_BLANK)
        return (inside.startswith(b"{") and not _is_line_of_array(text)) or (inside.startswith(b"]") and whole)
    if not text.startswith(b"{"):
        return False
    line, _, rest = text.partition(b"\n")
    if _is_json(line) or (rest.startswith(b"{") and _is_json(rest.partition(b"\n")[0])):
        return False  # lines, of which the first may be broken
    scanner = _Scanner(text)
    end = scanner.object_end(0)
    if end is None:  # a large first object
        return bool(rest) and not scanner.broken_string and not whole
    # Several objects in one line are a broken line. Line ends of a carriage return alone make the file one line.
    return _is_json(text[:end]) and (end > len(line) or text[end : end + 1] == b"\r")


def _is_line_of_array(text: bytes) -> bool:
    """Whether the first line is an array of its own, and more lines of the kind follow: then no line is an object."""
    line, _, rest = text.partition(b"\n")
    return rest.lstrip(_BLANK).startswith(b"[") and _is_json(line)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def depth(document: bytes) -> int:
    """How deep the objects and arrays of a document nest."""
    deepest = open_brackets = 0
    for token in _INSIDE.finditer(document):
        if token[0] in (b"{", b"["):
            open_brackets += 1
            deepest = max(deepest, open_brackets)
        elif token[0] in (b"}", b"]"):
            open_brackets -= 1
    return deepest


@dataclass(frozen=True)
class Documents:
    """Some whole documents: `data` holds them with a line break behind each, from `starts` to `ends`."""

    data: bytes
    starts: list[int]
    ends: list[int]


def documents(stream: pa.NativeFile, block_bytes: int) -> Iterator[Documents]:
    """The documents of a stream in blocks of some `block_bytes`.

    Raises
    ------
    BrokenDocuments
        Where the file ends inside a document, or what stands between two is neither white space nor, in an array,
        one comma.
    """
    scanner = _Scanner(b"")
    wanted = block_bytes
    while True:
        piece = stream.read(wanted)
        scanner.feed(piece.removeprefix(b"\xef\xbb\xbf") if scanner.offset == 0 and not scanner.data else piece)
        found = scanner.take(final=not piece)
        if found:
            data = b"\n".join([*found, b""])
            ends, at = [], 0
            for document in found:
                at += len(document) + 1
                ends.append(at - 1)
            yield Documents(data, [0, *(end + 1 for end in ends[:-1])], ends)
        if not piece:
            scanner.finish()
            return
        # One that does not fit is scanned again from its beginning: in pieces of twice the size, that stays linear.
        wanted = max(block_bytes, len(scanner.data))
        if len(scanner.data) > LONGEST_RECORD:
            raise BrokenDocuments(f"the object at byte {scanner.offset} is longer than {LONGEST_RECORD} bytes")


class _Scanner:
    """Cuts documents from the bytes it is fed."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0  # of data in the file
        self.in_array = False
        self.array_over = False
        self.seen = 0
        self.comma = False  # between the last document and what comes
        self.broken_string = False

    def feed(self, piece: bytes) -> None:
        self.data += piece

    def take(self, final: bool) -> list[bytes]:
        """The whole documents that were fed and not taken yet."""
        found: list[bytes] = []
        at = 0
        while True:
            at = self._skip_blanks(at)
            if at >= len(self.data):
                break
            mark = self.data[at : at + 1]
            if self.array_over:
                raise self._error(at, "more behind the end of the array")
            if mark == b"[" and not self.in_array and not self.seen:
                self.in_array, at = True, at + 1
            elif mark == b"," and self.in_array and self.seen and not self.comma:
                self.comma, at = True, at + 1
            elif mark == b"]" and self.in_array and not self.comma:
                self.array_over, at = True, at + 1
            elif self.in_array and self.seen and not self.comma:
                raise self._error(at, "no comma between two objects")
            else:
                end = self._end(at, final)
                if end is None:
                    break
                found.append(self.data[at:end])
                self.seen, self.comma, at = self.seen + 1, False, end
        self.data, self.offset = self.data[at:], self.offset + at
        return found

    def finish(self) -> None:
        """Raise if the file ends inside of something."""
        if self.data.strip(_BLANK):
            raise BrokenDocuments(f"the file ends inside the object that begins at byte {self.offset}")
        if self.in_array and not self.array_over:
            raise BrokenDocuments("the file ends before the array does")

    def object_end(self, at: int) -> int | None:
        """Where the object or array that begins at `at` ends, None where it does not end in what was fed."""
        depth = 0
        for token in _INSIDE.finditer(self.data, at):
            mark = token[0]
            if mark in (b"{", b"["):
                depth += 1
            elif mark in (b"}", b"]"):
                depth -= 1
                if depth == 0:
                    return token.end()
            elif mark == b'"':
                return None
            elif b"\n" in mark:
                self.broken_string = True
        return None

    def _end(self, at: int, final: bool) -> int | None:
        if self.data[at : at + 1] in (b"{", b"["):
            return self.object_end(at)
        scalar = _SCALAR.match(self.data, at)
        if scalar is None:
            if final or self.data[at : at + 1] != b'"':
                raise self._error(at, "something that is no JSON")
            return None
        return scalar.end() if final or scalar.end() < len(self.data) else None

    def _skip_blanks(self, at: int) -> int:
        while at < len(self.data) and self.data[at] in _BLANK:
            at += 1
        return at

    def _error(self, at: int, what: str) -> BrokenDocuments:
        return BrokenDocuments(f"at byte {self.offset + at} there is {what}: {self.data[at : at + 20]!r}")
