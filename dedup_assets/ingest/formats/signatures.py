"""Recognises files by their first bytes: the columnar formats, and files that are not shards.

A file whose content differs from its name is read according to its content if possible. Otherwise one error says what
it looks like and what to do, instead of a quarantined row for each of its lines.
"""

from __future__ import annotations

import re

HEAD_BYTES = 4_096
"""Number of bytes that are examined."""

_COLUMNAR: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "parquet"),
    (b"ARROW1\x00\x00", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),  # the stream format: a continuation mark, then the length of the schema
)

_EXPORT = "Export it as Parquet, JSON lines or CSV"
_UNPACK = "Unpack it, and name the folder"
_AS_UTF_8 = "Convert it to UTF-8, for instance with `iconv -f {} -t UTF-8`"

_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS, not the file it stands for",
        "Fetch the content with `git lfs pull`",
    ),
    (b"%PDF-", "a PDF document", "Extract its text first"),
    (b"PK\x03\x04", "a ZIP archive", "Unpack it, or name what is inside as zip://NAME::ARCHIVE"),
    (b"PK\x05\x06", "an empty ZIP archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "Decompress it with `lz4 -d`"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed by snappy", "Decompress it first"),
    (b"\x5d\x00\x00\x80\x00", "compressed by lzma in its old form", "Decompress it with `xz -d --format=lzma`"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
    (b"SQLite format 3\x00", "an SQLite database", _EXPORT),
    (b"\x93NUMPY", "an array of NumPy", _EXPORT),
    (b"FEA1", "a Feather file of version 1", "Write it again as Arrow or Parquet"),
    (b"Obj\x01", "an Avro file", _EXPORT),
    (b"\x89PNG\r\n", "a picture", "Take it out of the source"),
    (b"\xff\xd8\xff", "a picture", "Take it out of the source"),
    (b"\x7fELF", "a program", "Take it out of the source"),
    (b"\x1f\x8b", "compressed by gzip twice", "Decompress it once"),
    (b"\x28\xb5\x2f\xfd", "compressed twice", "Decompress it once"),
    (b"\xfd7zXZ\x00", "compressed twice", "Decompress it once"),
)

_PICKLE = re.compile(rb"\x80[\x02-\x05][\x95}\]c(q\x8c]")
_NOT_TEXT = re.compile(rb"[\x00-\x08]")
_HTML = re.compile(rb"\s*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_XML = re.compile(rb"\s*<(\?xml|!--|[A-Za-z][A-Za-z0-9]*[\s>/])")
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def columnar_format(head: bytes) -> str | None:
    """ "parquet" or "arrow" where a file that begins with `head` is of that format, else None."""
    return next((name for magic, name in _COLUMNAR if head.startswith(magic)), None)


def foreign(head: bytes) -> str | None:
    """What a file that starts with `head` looks like and what to do about it, as a message; None if it may be text."""
    for magic, what, remedy in _FOREIGN:
        if head.startswith(magic):
            return f"looks like {what}. {remedy}"
    if head[257:262] == b"ustar":
        return "looks like a tar archive. Unpack it, or name what is inside as tar://NAME::ARCHIVE"
    if head.startswith(b"ORC") and _NOT_TEXT.search(head):  # text may start with these letters too
        return f"looks like an ORC file. {_EXPORT}"
    if _PICKLE.match(head):
        return f"looks like a pickle of Python, which is never loaded. {_EXPORT}"
    if _HTML.match(head):
        return (
            "looks like an HTML page, perhaps the error page of a download. Look at it in a browser, and fetch the "
            "file again"
        )
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return f"looks like text in {encoding}. {_AS_UTF_8.format(encoding)}"
    return _wide_characters(head)


def markup(head: bytes) -> str | None:
    """The same for XML, which may be a line of a CSV file but never JSON."""
    return f"looks like XML. {_EXPORT}" if _XML.match(head) else None


def _wide_characters(head: bytes) -> str | None:
    """Text of two or four bytes a character without a mark, or no text at all: known by zeros, which text has not."""
    zeros = head.count(0)
    if zeros * 10 < len(head) or not zeros:
        return None
    if zeros == len(head):
        return "holds zeros only, as after a download that broke off. Fetch the file again"
    for encoding, width in (("UTF-32LE", 4), ("UTF-32BE", 4), ("UTF-16LE", 2), ("UTF-16BE", 2)):
        text = head[: len(head) // width * width].decode(encoding, "replace")
        if sum(map(_is_readable, text)) * 10 >= len(text) * 9:
            return f"looks like text in {encoding[:6]}. {_AS_UTF_8.format(encoding)}"
    return f"is no text. {_EXPORT}"


def _is_readable(character: str) -> bool:
    return character != "\ufffd" and (character.isprintable() or character.isspace())
