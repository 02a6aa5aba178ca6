"""The shards behind some sources: which files they are, and how each is named.

What is there is found by `listing`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dedup_assets.credentials import is_url, without_credentials
from dedup_assets.errors import SourceError
from dedup_assets.ingest.formats.endings import ENDINGS, EXPECTED, ending_of
from dedup_assets.ingest.listing import Listed, Unread, list_source, unread_in_words
from dedup_assets.ingest.source_files import SourceFile
from dedup_assets.storage.shard_keys import SHARD_KEY_PATTERN, validate_shard_key

_KEY_HASH_DIGITS = 10  # 40 bits: names that sanitise alike still differ; a clash is an error, never silent
_KEY_STEM_LENGTH = 100  # leaves room for "-" and the hash inside the 120 characters of the pattern


# ----------------------------------------------------------------------------------------- names


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


# ------------------------------------------------------------------------------------- discovery


@dataclass(frozen=True)
class Found:
    """What SOURCES hold: the shard files in curation order, and what of them is not read."""

    files: list[SourceFile]
    unread: list[Unread]


def find_sources(sources: Sequence[str], follow_links: str = "inside") -> Found:
    """List the shard files behind SOURCES, and what else is there.

    Parameters
    ----------
    sources : sequence of str
        Files, folders (searched recursively), globs, or fsspec URLs of one of these.
    follow_links : {"inside", "anywhere"}
        The setting of that name.

    Returns
    -------
    Found
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
    unread: list[Unread] = []
    named: dict[str, str] = {}
    for source in map(os.fspath, sources):
        shown = without_credentials(source) if is_url(source) else ""
        if shown and named.setdefault(shown, source) != source:
            raise SourceError(
                f"two sources differ only in their credentials or behind the '?', which is not stored: {shown}. Name "
                "one of them, or save what they hold under names of its own."
            )
        listing = list_source(source, follow_links)
        if not listing.files:
            others = listing.unread
            seen = f" ({unread_in_words(others)})" if others else ""
            raise SourceError(f"no shard files in {source!r}{seen}. Expected endings: {EXPECTED}.")
        found += listing.files
        unread += listing.unread
    files, clashes = as_shards(found)
    if clashes:
        raise clashes[0]
    return Found(files, list(dict.fromkeys(unread)))


def discover(sources: Sequence[str]) -> list[SourceFile]:
    """The shard files of `find_sources` alone."""
    return find_sources(sources).files


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
        files[entry.uri] = SourceFile(key, entry.uri, file_format, compression, entry.name, entry.partition)
    return list(files.values()), problems


def _require_utf8(uri: str) -> None:
    try:
        uri.encode("utf-8")
    except UnicodeEncodeError:
        raise SourceError(f"the file name {uri!r} is not valid UTF-8. Rename the file.") from None
