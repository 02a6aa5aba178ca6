"""Where shards come from: finding input files and naming them.

Knows paths and fsspec URLs, and opens no file.
"""

from __future__ import annotations

import glob as globbing
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec

from dedup_assets.errors import SourceError, reason
from dedup_assets.storage.formats.endings import ENDINGS, EXPECTED, ending_of
from dedup_assets.storage.source_files import SourceFile

SHARD_KEY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}\Z")
"""What a shard key may look like: safe as a file name, in a URL and inside an SQL string literal."""

_KEY_HASH_DIGITS = 10  # 40 bits: names that sanitise alike still differ; a clash is an error, never silent
_KEY_STEM_LENGTH = 100  # leaves room for "-" and the hash inside the 120 characters of the pattern


# ----------------------------------------------------------------------------------------- names


def validate_shard_key(key: str) -> str:
    """Return `key` if it may be used as a shard key; raise `SourceError` otherwise."""
    if not SHARD_KEY_PATTERN.match(key) or ".." in key:
        raise SourceError(
            f"{key!r} is not a valid shard key: expected 1 to 120 letters, digits, '.', '_' or '-', "
            "the first one a letter or a digit, and no '..'."
        )
    return key


def shard_key(relative_name: str) -> str:
    """Make the shard key of a file from its name relative to its source, and from nothing else.

    The key is the name without its known ending. When that alone is no valid key (a folder in the name,
    spaces, other alphabets, a leading dot, too long), the characters that do not fit become "_" and a hash
    of the original name is appended, so that different names stay different.
    """
    stem = relative_name.replace(os.sep, "/")
    ending = ending_of(stem)
    stem = stem[: len(stem) - len(ending)] if ending else stem
    if SHARD_KEY_PATTERN.match(stem) and ".." not in stem:
        return stem
    clean = re.sub(r"[^A-Za-z0-9._-]", "_", stem)
    clean = re.sub(r"\.{2,}", ".", clean)
    clean = clean.lstrip("._-")[:_KEY_STEM_LENGTH].rstrip("._-") or "shard"
    digest = hashlib.blake2b(stem.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return validate_shard_key(f"{clean}-{digest[:_KEY_HASH_DIGITS]}")


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which part-2 comes before part-10."""
    parts = re.split(r"([0-9]+)", name)
    # Digit runs sort by value and before letters; the text itself breaks ties such as 2 and 02.
    keys = [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]
    return [*keys, (-1, 0, name)]


# ------------------------------------------------------------------------------------- discovery


@dataclass(frozen=True)
class Listed:
    """A shard file as its source lists it.

    Attributes
    ----------
    name : str
        Relative to the source.
    uri : str
        As in `SourceFile`.
    info : mapping or None
        What the file system said of the file in passing; None where it has to be asked.
    """

    name: str
    uri: str
    info: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Listing:
    """What a source holds at one moment: `files` in natural order of their names.

    `root` is the folder below which the source looks, empty where one file was named itself. `others` are names of
    files without a known ending.
    """

    root: str
    files: list[Listed]
    others: list[str]


def discover(sources: Sequence[str]) -> list[SourceFile]:
    """List the shard files behind SOURCES.

    Parameters
    ----------
    sources : sequence of str
        Files, folders (searched recursively; hidden files and unknown endings are skipped), globs, or
        fsspec URLs of one of these.

    Returns
    -------
    list of SourceFile
        Sources in the order given, files of one source in natural order of their relative names. A file
        named twice counts once.

    Raises
    ------
    SourceError
        Nothing was found, a path is missing, a named file has an unknown ending, or two files would get
        the same shard key (upper and lower case count as the same, for file systems that think so).
    """
    if not sources:
        raise SourceError("no source was named. Name at least one file, folder, glob or fsspec URL.")
    found: list[Listed] = []
    for source in sources:
        listing = list_source(os.fspath(source))
        if not listing.files:
            others = listing.others
            seen = f" ({len(others)} other files are there, such as {others[0]!r})" if others else ""
            raise SourceError(f"no shard files in {source!r}{seen}. Expected endings: {EXPECTED}.")
        found += listing.files
    files, clashes = as_shards(found)
    if clashes:
        raise clashes[0]
    return files


def as_shards(listed: Iterable[Listed]) -> tuple[list[SourceFile], list[SourceError]]:
    """The shards that listed files are, in their order; of files that cannot be one, the errors.

    Of two files that would get the same key, the first is the shard.
    """
    files: dict[str, SourceFile] = {}
    by_key: dict[str, str] = {}
    problems: list[SourceError] = []
    for entry in listed:
        if entry.uri in files:
            continue
        try:
            _require_utf8(entry.uri)
        except SourceError as problem:
            problems.append(problem)
            continue
        ending = ending_of(entry.name)
        assert ending is not None  # a listing lets nothing else through
        key = shard_key(entry.name)
        other = by_key.setdefault(key.casefold(), entry.uri)
        if other != entry.uri:
            problems.append(
                SourceError(
                    f"{other!r} and {entry.uri!r} would get the same shard key {key!r} (a key is the "
                    "file name without its ending; upper and lower case count as the same). Rename one of "
                    "them, or name their common parent folder as the source so that folders become part of "
                    "the keys."
                )
            )
            continue
        file_format, compression = ENDINGS[ending.lower()]
        files[entry.uri] = SourceFile(key, entry.uri, file_format, compression)
    return list(files.values()), problems


def list_source(source: str) -> Listing:
    """List one source. An empty folder is an answer; SourceError where the source cannot be listed.

    A file named itself has to have a known ending.
    """
    if not source.strip():
        raise SourceError("a source is an empty string. Name a file, a folder, a glob or an fsspec URL.")
    if is_url(source):
        with _listing(source):
            root, files = _list_remote(source)
    else:
        root, files = _list_local(source)
    known = [file for file in files if ending_of(file.name)]
    if not root and not known:
        raise SourceError(f"{source!r} has an unknown ending. Expected one of: {EXPECTED}.")
    others = [file.name for file in files if not ending_of(file.name)]
    return Listing(root, sorted(known, key=lambda file: _natural(file.name)), others)


def absolute_source(source: str) -> str:
    """A source as it is named from every folder: URLs stay, local paths and globs become absolute."""
    return source if is_url(source) else os.path.abspath(os.path.expanduser(source))  # noqa: PTH100, PTH111


def is_url(source: str) -> bool:
    """Whether a source is an fsspec URL rather than a local path."""
    return "://" in source or "::" in source


def _list_local(source: str) -> tuple[str, list[Listed]]:
    """Root and files of a local source."""
    path = os.path.abspath(os.path.expanduser(source))  # noqa: PTH100, PTH111 - keeps what Path would fold
    # A file whose name holds glob characters is that file: existence goes first.
    if os.path.isfile(path):  # noqa: PTH113
        return "", [Listed(os.path.basename(path), path)]  # noqa: PTH119
    if os.path.isdir(path):  # noqa: PTH112
        return path, [Listed(os.path.relpath(file, path), file) for file in _walk(path)]
    if os.path.lexists(path) or not globbing.has_magic(source):
        raise SourceError(f"{source!r} does not exist, or is neither a file nor a folder. Check the path.")
    base = _glob_base(path)
    matches = [file for file in globbing.glob(path, recursive=True) if os.path.isfile(file)]  # noqa: PTH113, PTH207
    return base, [Listed(os.path.relpath(file, base), file) for file in matches]


def _walk(folder: str) -> Iterator[str]:
    """Files below a folder without the hidden ones. Linked folders are not followed: they may be loops."""

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename!r} cannot be listed: {error.strerror}. Check its permissions.")

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = os.path.join(parent, name)  # noqa: PTH118
            if not name.startswith(".") and os.path.isfile(path):  # noqa: PTH113
                yield path


def _glob_base(pattern: str) -> str:
    """The folder above the first part of a pattern that holds a glob character."""
    parts = pattern.split("/")
    first = next((i for i, part in enumerate(parts) if globbing.has_magic(part)), len(parts) - 1)
    return "/".join(parts[:first]) or "/"


def _list_remote(source: str) -> tuple[str, list[Listed]]:
    """Root and files of an fsspec URL; local files keep their plain path as uri."""
    filesystem, path = fsspec.core.url_to_fs(source)
    if "file" in _protocols(filesystem):
        return _list_local(path)
    if filesystem.isfile(path):
        uri = source if "::" in source else filesystem.unstrip_protocol(path)
        return "", [Listed(PurePosixPath(path).name, uri)]
    if "::" in source:
        raise SourceError(f"{source!r}: a chained URL must name one existing file, not a folder or a glob.")
    # With details: one listing tells the state of every file, where asking for each is a request a file.
    if filesystem.isdir(path):
        base, found, hidden = path, filesystem.find(path, detail=True), False
    elif globbing.has_magic(path):
        base, found, hidden = _glob_base(path), filesystem.glob(path, detail=True), True
    else:
        raise SourceError(f"{source!r} does not exist. Check the URL and that you may read it.")
    listed = [
        Listed(_relative(name, base), filesystem.unstrip_protocol(name), info)
        for name, info in found.items()
        if info.get("type") == "file"
    ]
    if not hidden:
        listed = [file for file in listed if not any(part.startswith(".") for part in file.name.split("/"))]
    return filesystem.unstrip_protocol(base), listed


def _relative(path: str, base: str) -> str:
    """`path` relative to `base`, which some file systems write with a leading slash and some without."""
    return path.strip("/").removeprefix(base.strip("/")).lstrip("/")


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _require_utf8(uri: str) -> None:
    try:
        uri.encode("utf-8")
    except UnicodeEncodeError:
        raise SourceError(f"the file name {uri!r} is not valid UTF-8. Rename the file.") from None


@contextmanager
def _listing(source: str) -> Iterator[None]:
    """Turn whatever a remote file system raises into a SourceError that names the source."""
    try:
        yield
    except SourceError:
        raise
    except ImportError as error:
        raise SourceError(f"{source!r} needs a package that is not installed: {error}") from error
    except Exception as error:  # each fsspec implementation has its own classes
        raise SourceError(
            f"{source!r} cannot be listed: {type(error).__name__}: {reason(error)}. "
            "Check the URL, the credentials and the network."
        ) from error
