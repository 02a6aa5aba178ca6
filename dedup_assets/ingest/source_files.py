"""One input file: how it is named, what the file system tells of it, its bytes and their fingerprint.

Knows paths and fsspec URLs, and nothing about what the bytes mean.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from dedup_assets.credentials import with_credentials
from dedup_assets.errors import ShardError, SourceError, missing_package, reason, shown_cause
from dedup_assets.ingest.compression import Swollen, decompressed

FINGERPRINT_BYTES = 16
_READ_BYTES = 4 * 2**20  # large enough that a request to an object store is worth its latency


@dataclass(frozen=True)
class SourceFile:
    """One input file, which is one shard.

    Attributes
    ----------
    key : str
        The shard key; matches `SHARD_KEY_PATTERN`.
    uri : str
        An absolute local path without a scheme, or an fsspec URL without its credentials (`credentials`).
    format : str
        "parquet", "arrow", "jsonl", "csv", "tsv" or "txt", as the name says.
    compression : str or None
        None, "gzip", "zstd", "bz2" or "xz", as the name says.
    name : str
        Relative to the source in which it was found; empty where it is not known.
    partition : tuple of (name, value)
        Columns that the file's folders stand for (`hive`).
    """

    key: str
    uri: str
    format: str
    compression: str | None
    name: str = field(default="", compare=False)
    partition: tuple[tuple[str, int | str | None], ...] = ()


# ----------------------------------------------------------------------------------------- state


@dataclass(frozen=True)
class FileState:
    """State of a file according to the file system, without reading the file.

    `marks` joins size, time of change and entity tag in one text: with equal marks the file need not be read again.
    `modified` is the time of change in seconds since 1970, None if the file system does not give a number.
    """

    marks: str
    size: int | None
    modified: float | None


def file_state(uri: str, info: Mapping[str, Any] | None = None) -> FileState:
    """The state of a file; `info` is its entry in a listing, if any. Raises the OSErrors of the file system."""
    if info is None:
        filesystem, path = _opened(uri)
        info = filesystem.info(path)
    names = ("size", "mtime", "LastModified", "updated", "created", "ETag", "etag", "blob_id")  # blob_id: on the Hub
    marks = [info.get(name) for name in names]
    size, modified = info.get("size"), info.get("mtime")
    return FileState(
        " ".join(str(mark) for mark in marks if mark is not None),
        size if isinstance(size, int) else None,
        modified if isinstance(modified, int | float) else None,
    )


# --------------------------------------------------------------------------------------- content


@contextmanager
def reading(source: SourceFile) -> Iterator[None]:
    """Turn every error of reading a file into a `ShardError` that names the file and the reason."""
    try:
        yield
    except (ShardError, SourceError):
        raise
    except MemoryError as error:
        raise ShardError(
            f"{source.uri!r} (shard {source.key}) takes more memory than this process may have: {reason(error)}. A "
            f"batch of some {2**24} bytes should fit: give the process more, or write the file in smaller row groups."
        ) from error
    except Swollen as error:
        raise ShardError(f"{source.uri!r} (shard {source.key}) {error}, and run again.") from error
    except ImportError as error:
        raise ShardError(f"{source.uri!r} needs a package that is not installed: {missing_package(error)}") from error
    except Exception as error:  # each fsspec implementation and each decoder has its own classes
        kind = source.format if source.compression is None else f"{source.compression} {source.format}"
        raise ShardError(
            f"{source.uri!r} (shard {source.key}) cannot be read as {kind}: {type(error).__name__}: {reason(error)}. "
            "The file is truncated, corrupt, gone or not what its ending says. Replace it and run again."
        ) from shown_cause(error)


def open_raw(source: SourceFile) -> pa.NativeFile:
    """Open the raw bytes of a file for reading, still compressed; seekable."""
    if is_local(source.uri):
        return pa.OSFile(source.uri, "rb")
    filesystem, path = _opened(source.uri)
    stream = _RemoteFile(filesystem.open(path, "rb"), mode="r")
    stream.filesystem = filesystem
    return stream


class _RemoteFile(pa.PythonFile):
    """Keeps the file system alive that the file is of: an archive is closed with it."""

    filesystem: Any = None


def is_local(uri: str) -> bool:
    """Whether a uri is a local path: those are absolute, whatever characters they hold."""
    return os.path.isabs(uri)  # noqa: PTH117


def _opened(uri: str) -> tuple[Any, str]:
    """The file system of a uri and the path in it. Raises SourceError where its credentials are not known."""
    if is_local(uri):
        return LocalFileSystem(), uri
    whole = with_credentials(uri)
    if whole is None:
        raise SourceError(
            f"{uri!r} was named with credentials, which are stored nowhere. Name it again as it was, or tell fsspec of "
            "them (its configuration, the environment, .netrc) and name it without."
        )
    return fsspec.core.url_to_fs(whole)


def open_source(source: SourceFile) -> pa.NativeFile:
    """Open a file for reading its decompressed bytes; a stream, to be closed by the caller.

    How it is compressed is known by its content (`compression`). A truncated or corrupt file raises OSError or
    EOFError while it is read; wrap the reading in `reading` to have that as a `ShardError`.
    """
    raw = open_raw(source)
    try:
        return decompressed(raw, source.compression)
    except BaseException:
        raw.close()
        raise


def is_empty(source: SourceFile) -> bool:
    """Whether the file has no byte at all: an empty shard in every format."""
    with open_raw(source) as stream:
        return stream.read(1) == b""


def stored_bytes(source: SourceFile) -> int:
    """The size of the file as it is stored; raises `ShardError` if it cannot be had."""
    with reading(source), open_raw(source) as stream:
        return stream.size()


def content_fingerprint(source: SourceFile) -> str:
    """BLAKE2b-128 over the raw bytes of the file, as 32 hexadecimal digits; streamed.

    Raises `ShardError` if the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    with reading(source), open_raw(source) as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
