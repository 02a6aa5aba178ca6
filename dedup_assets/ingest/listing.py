"""Lists a source: its shard files, and the files that are not read, each with the reason.

Knows paths and fsspec URLs. Opens no file but the small ones in which saved datasets and tables describe themselves.
"""

from __future__ import annotations

import glob as globbing
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import fsspec

from dedup_assets.credentials import absolute, is_url, without_credentials, without_query
from dedup_assets.errors import SourceError, missing_package, reason, shown_cause
from dedup_assets.ingest.formats.endings import EXPECTED, ending_of, format_of
from dedup_assets.ingest.hive import Partition, typed_partitions
from dedup_assets.ingest.table_folders import HUDI, Folders, read_folders
from dedup_assets.storage.own_folders import OwnFolders, lies_in_own, own_roots

UNKNOWN_ENDING = "unknown ending"
SEEN_LINK = "a link to what is read already"
LINK_OUT = "a link that leads out of its source (--follow-links anywhere reads it)"
DEAD_LINK = "a link that leads nowhere"
OWN = "inside a workspace or an output of dedup-assets"
NOTE = "plain text beside other formats, perhaps notes (name it, or a glob that ends in .txt, to read its lines)"
CHAINED = "its name holds '::', which a URL cannot say"

_COPY = "Copy it to a folder outside if it is to be curated."

_SILENT = re.compile(r"_[^/]*|[^/]*\.crc|Thumbs\.db|desktop\.ini", re.IGNORECASE)
"""Names, without a known ending, of files that other programs write for themselves. Hidden files are never listed."""


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
        Entry of the file in a listing of its folder; None if the file system must be queried.
    partition : tuple of (name, value)
        Columns from the names of the file's folders, such as `year=2018`.
    """

    name: str
    uri: str
    info: Mapping[str, Any] | None = None
    partition: Partition = ()


@dataclass(frozen=True)
class Unread:
    """A file or link in a source that is not read: its name there, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """The content of a source at one moment. `files` are in natural order of their names, those of a saved dataset in
    its own order.

    `root` is the folder that is searched, empty if the source is a single file. `unread` are the files and links that
    are not shards, except hidden files and files that other programs write for themselves.
    """

    root: str
    files: list[Listed]
    unread: list[Unread] = field(default_factory=list)


def unread_in_words(unread: Sequence[Unread]) -> str:
    """One line about the files that are not read: their number for each reason, and an example."""
    by_reason: dict[str, list[str]] = {}
    for item in unread:
        by_reason.setdefault(item.reason, []).append(item.name)
    parts = [f"{len(names)} {why} (such as {names[0]!r})" for why, names in by_reason.items()]
    return f"{len(unread)} {'file is' if len(unread) == 1 else 'files are'} not read: {'; '.join(parts)}"


def list_source(source: str, follow_links: str = "inside") -> Listing:
    """List one source. An empty folder gives an empty listing. Raises SourceError if the source cannot be listed.

    A source that is a single file must have a known ending. Plain text files are read if the source names them or if
    there are no files of other formats; beside other formats they are usually notes. `follow_links` is the setting of
    that name; the source itself may be a link.
    """
    anywhere = follow_links == "anywhere"
    if not source.strip():
        raise SourceError("a source is an empty string. Name a file, a folder, a glob or an fsspec URL.")
    if is_url(source):
        without_credentials(source)  # from here on no message shows them
        with _listing(source):
            found = _list_remote(source, anywhere)
    else:
        found = _list_local(source, anywhere)
    found = _without_own(found)
    folders = Folders()
    if found.root:
        found, folders = _without_tables(source, found)
    known = [file for file in found.files if ending_of(file.name)]
    others = [file.name for file in found.files if not ending_of(file.name)]
    if not found.root and others:
        raise SourceError(f"{source!r} has an unknown ending. Expected one of: {EXPECTED}.")
    others = [name for name in others if not _SILENT.fullmatch(PurePosixPath(name).name)]
    unread = [*found.unread, *(Unread(name, UNKNOWN_ENDING) for name in others)]
    notes = [file for file in known if format_of(file.name) == "txt"]
    if found.root and len(notes) < len(known) and format_of(source) != "txt":
        known = [file for file in known if file not in notes]
        unread += [Unread(file.name, NOTE) for file in notes]
    known.sort(key=lambda file: natural(file.name))
    _order_saved(known, folders.orders)
    partitions = typed_partitions([file.name for file in known])
    files = [replace(file, partition=partition) for file, partition in zip(known, partitions, strict=True)]
    return Listing(found.root, files, sorted(unread, key=lambda item: natural(item.name)))


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which part-2 comes before part-10."""
    parts = re.split(r"([0-9]+)", name)
    # Digit runs sort by value and before letters; the text itself breaks ties such as 2 and 02.
    keys = [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]
    return [*keys, (-1, 0, name)]


def absolute_source(source: str) -> str:
    """A source as it is named from every folder: URLs stay, local paths and globs become absolute."""
    return source if is_url(source) else absolute(source)


# ------------------------------------------------------------------------------------ local files


def refuse_led_out(uri: str, folders: Sequence[str]) -> None:
    """Raise SourceError if a file of one of these folders is, or became, a link that leads out of it."""
    for folder in folders:
        if uri.startswith(os.path.join(folder, "")) and not _leads_inside(uri, os.path.realpath(folder)):  # noqa: PTH118
            raise SourceError(f"{uri!r} is {LINK_OUT}. Put the file itself there, or allow such links.")


def _leads_inside(path: str, real_root: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(real_root, ""))  # noqa: PTH118


def _list_local(source: str, anywhere: bool) -> Listing:
    path = absolute(source)
    # A file whose name holds glob characters is that file: existence goes first.
    if os.path.isfile(path):  # noqa: PTH113
        return Listing("", [Listed(os.path.basename(path), path)])  # noqa: PTH119
    if os.path.isdir(path):  # noqa: PTH112
        return _Walk(path, anywhere).listing()
    if os.path.lexists(path) or not globbing.has_magic(source):
        raise SourceError(f"{source!r} does not exist, or is neither a file nor a folder. Check the path.")
    base = _glob_base(path)
    matches = [file for file in globbing.glob(path, recursive=True) if os.path.isfile(file)]  # noqa: PTH113, PTH207
    # `**` follows links, round loops too. Of the names of one file that with the fewest folders is read.
    named: dict[str, str] = {}
    for file in sorted(matches, key=lambda file: (file.count(os.sep), os.path.islink(file), natural(file))):  # noqa: PTH114
        named.setdefault(os.path.realpath(file), file)
    again = sorted(set(matches).difference(named.values()))
    unread = [Unread(os.path.relpath(file, base), SEEN_LINK) for file in again]
    root = os.path.realpath(base)
    files = []
    for file in named.values():
        name = os.path.relpath(file, base)
        if anywhere or _leads_inside(file, root):
            files.append(Listed(name, file))
        else:
            unread.append(Unread(name, LINK_OUT))
    return Listing(base, files, unread)


class _Walk:
    """The files below a folder without the hidden ones. A linked folder is read once, after what is no link: so it
    can be no loop, and what stands in the source itself keeps its own name."""

    def __init__(self, root: str, anywhere: bool) -> None:
        self.root = root
        self.real_root = "" if anywhere else os.path.realpath(root)  # all paths lie in the empty one
        self.files: list[Listed] = []
        self.unread: list[Unread] = []
        self.seen: set[str] = set()
        self.links: list[str] = []
        self.own = OwnFolders()

    def listing(self) -> Listing:
        self._folder(self.root)
        for link in self.links:  # it grows while linked folders show more links
            target = os.path.realpath(link)
            if any(folder == target or folder.startswith(target.rstrip(os.sep) + os.sep) for folder in self.seen):
                self._leave_out(link, SEEN_LINK)
            elif _leads_inside(link, self.real_root):
                self._folder(link)
            else:
                self._leave_out(link, LINK_OUT)
        own = {os.path.realpath(file.uri) for file in self.files if not os.path.islink(file.uri)}  # noqa: PTH114
        files = []
        for file in self.files:
            is_link = os.path.islink(file.uri)  # noqa: PTH114
            if is_link and os.path.realpath(file.uri) in own and not self.own.hold(file.uri):
                self._leave_out(file.uri, SEEN_LINK)
            elif is_link and not _leads_inside(file.uri, self.real_root):
                self._leave_out(file.uri, LINK_OUT)
            else:
                files.append(file)
        return Listing(self.root, files, self.unread)

    def _folder(self, folder: str) -> None:
        def refuse(error: OSError) -> None:
            raise SourceError(f"{error.filename!r} cannot be listed: {error.strerror}. Check its permissions.")

        for parent, folders, files in os.walk(folder, onerror=refuse):
            self.seen.add(os.path.realpath(parent))
            if HUDI in folders:
                self._add(os.path.join(parent, HUDI))  # noqa: PTH118
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if not self.own.hold(os.path.join(parent, "")):  # noqa: PTH118
                paths = [os.path.join(parent, name) for name in folders]  # noqa: PTH118
                self.links += [path for path in paths if os.path.islink(path)]  # noqa: PTH114
            for path in (os.path.join(parent, name) for name in files if not name.startswith(".")):  # noqa: PTH118
                if os.path.isfile(path):  # noqa: PTH113
                    self._add(path)
                elif os.path.islink(path):  # noqa: PTH114
                    self._leave_out(path, DEAD_LINK)

    def _add(self, path: str) -> None:
        self.files.append(Listed(os.path.relpath(path, self.root), path))

    def _leave_out(self, path: str, why: str) -> None:
        self.unread.append(Unread(os.path.relpath(path, self.root), why))


def _glob_base(pattern: str) -> str:
    """The folder above the first part of a pattern that holds a glob character."""
    parts = pattern.split("/")
    first = next((i for i, part in enumerate(parts) if globbing.has_magic(part)), len(parts) - 1)
    return "/".join(parts[:first]) or "/"


# ----------------------------------------------------------------------------------- remote files


def _list_remote(source: str, anywhere: bool) -> Listing:
    """Root and files of an fsspec URL; local files keep their plain path as uri."""
    _refuse_blockcache(source)
    filesystem, path = fsspec.core.url_to_fs(source)
    if "file" in _protocols(filesystem):
        return _list_local(path, anywhere)
    if _lies_in_own(source, filesystem, path):
        raise SourceError(f"{source!r} lies {OWN}, whose files are never a source. {_COPY}")
    filesystem.invalidate_cache()  # a watching process may have listed it an hour ago
    if filesystem.isfile(path):
        uri = without_credentials(source if "::" in source else filesystem.unstrip_protocol(path))
        is_web = not {"http", "https"}.isdisjoint(_protocols(filesystem))
        name = PurePosixPath(without_query(uri) if is_web else path).name
        return Listing("", [Listed(name, uri)])
    if "::" in source:
        raise SourceError(f"{source!r}: a chained URL must name one existing file, not a folder or a glob.")
    # With details: one listing tells the state of every file, where asking for each is a request a file.
    if filesystem.isdir(path):
        base, found, hidden = path, filesystem.find(path, detail=True), False
    elif globbing.has_magic(path):
        base, found, hidden = _glob_base(path), filesystem.glob(path, detail=True), True
    else:
        raise SourceError(f"{source!r} does not exist. Check the URL and that you may read it.")
    shown_base = without_query(without_credentials(base))
    files = [
        Listed(
            without_query(_relative(without_credentials(name), shown_base)),
            without_credentials(filesystem.unstrip_protocol(name)),
            info,
        )
        for name, info in found.items()
        if info.get("type") == "file"
    ]
    # The marker is hidden, so that a glob does not match it.
    depth = None if "**" in path else path.count("/") - base.count("/")
    names = filesystem.find(base, maxdepth=depth, withdirs=True) if hidden else list(found)
    own = own_roots([_relative(name, base) for name in names])
    unread = [Unread(file.name, CHAINED) for file in files if "::" in file.name]
    files = [file for file in files if "::" not in file.name]
    if own:
        unread += [Unread(file.name, OWN) for file in files if _is_below(file.name, own)]
        files = [file for file in files if not _is_below(file.name, own)]
    if not hidden:
        files = [file for file in files if HUDI in file.name or not _is_hidden(file.name)]
    root = without_credentials(filesystem.unstrip_protocol(base))
    return Listing(root, files, [item for item in unread if not _is_hidden(item.name)])


def _lies_in_own(source: str, filesystem: Any, path: str) -> bool:
    """Whether a URL names what lies in such a folder: of a chained one, also the archive that is unpacked."""
    if lies_in_own(filesystem, path):
        return True
    _, chained, last = source.rpartition("::")
    if not chained:
        return False
    outer, place = fsspec.core.url_to_fs(last)
    return OwnFolders().hold(place) if "file" in _protocols(outer) else lies_in_own(outer, place)


def _refuse_blockcache(source: str) -> None:
    """Refuse what fsspec cannot open: blockcache reads ranges, which files on disk, in memory and in archives lack."""
    parts = source.split("::")
    for part, behind in itertools.pairwise(parts):
        scheme = behind.partition("://")[0] if "://" in behind else "file"
        if part.startswith("blockcache") and scheme in ("file", "local", "memory", "zip", "tar", "libarchive"):
            raise SourceError(
                f"{source!r}: blockcache:: stands before {scheme}://, whose files cannot be read in blocks. Write "
                "filecache:: or simplecache::, or leave it out."
            )


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _is_below(name: str, roots: set[str]) -> bool:
    return any(not root or name.startswith(f"{root}/") for root in roots)


def _relative(path: str, base: str) -> str:
    """`path` relative to `base`, which some file systems write with a leading slash and some without."""
    return path.strip("/").removeprefix(base.strip("/")).lstrip("/")


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


@contextmanager
def _listing(source: str) -> Iterator[None]:
    """Turn every error of a remote file system into a SourceError that names the source."""
    try:
        yield
    except SourceError:
        raise
    except ImportError as error:
        raise SourceError(f"{source!r} needs a package that is not installed: {missing_package(error)}") from error
    except Exception as error:  # each fsspec implementation has its own classes
        raise SourceError(
            f"{source!r} cannot be listed: {type(error).__name__}: {reason(error)}. "
            "Check the URL, the credentials and the network."
        ) from shown_cause(error)


# ---------------------------------------------------------------------------------- what is no shard


def _without_own(found: Listing) -> Listing:
    """Without what dedup-assets itself wrote: a workspace would read what it publishes."""
    own = OwnFolders()
    files = [file for file in found.files if not (os.path.isabs(file.uri) and own.hold(file.uri))]  # noqa: PTH117
    left = {file.uri for file in files}
    unread = [Unread(file.name, OWN) for file in found.files if file.uri not in left]
    if unread and not found.root:
        raise SourceError(f"{found.files[0].uri!r} lies {OWN}, whose files are never a source. {_COPY}")
    return replace(found, files=files, unread=[*found.unread, *unread])


def _order_saved(files: list[Listed], orders: list[list[str]]) -> None:
    """Put the files of each saved dataset into its order, within the positions that they occupy together."""
    for names in orders:
        rank = {name: number for number, name in enumerate(names)}
        places = [place for place, file in enumerate(files) if file.name.replace(os.sep, "/") in rank]
        mine = sorted((files[place] for place in places), key=lambda file: rank[file.name.replace(os.sep, "/")])
        for place, file in zip(places, mine, strict=True):
            files[place] = file


def _without_tables(source: str, found: Listing) -> tuple[Listing, Folders]:
    """The listing without tables that only their own library can read and without the metadata of saved datasets, and
    the `Folders` found."""
    uris = {file.name.replace(os.sep, "/"): file.uri for file in found.files}

    def read(name: str) -> bytes:
        with fsspec.open(uris[name], "rb") as file:
            return file.read()

    folders = read_folders(source, list(uris), read)
    files = [file for file in found.files if file.name.replace(os.sep, "/") not in folders.left_out]
    unread = [Unread(name, why) for name, why in folders.left_out.items() if why]
    return replace(found, files=files, unread=[*found.unread, *unread]), folders
