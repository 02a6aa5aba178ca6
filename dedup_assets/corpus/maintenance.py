"""Maintenance: removes files that nothing current refers to, compacts the table of embeddings, prunes old generations.

Runs share a lock that maintenance takes exclusively, so it never sees a half-finished stage. A file or folder is first
renamed to a temporary name: readers see all of it or nothing, and the next maintenance removes leftovers of a killed
one. A second maintenance frees nothing more.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np

from dedup_assets.compute.hashes import HashIndex
from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.corpus.output import published_generation
from dedup_assets.encoder.settled import open_table, settled_dimension
from dedup_assets.storage.embeddings import KEPT_VERSIONS
from dedup_assets.storage.ledger import TAKEDOWN, Admission
from dedup_assets.storage.locks import Lock
from dedup_assets.storage.permissions import refuse_unsealed
from dedup_assets.storage.publish import storage_errors, temporary_beside
from dedup_assets.storage.shards import AdmittedShard, read_records
from dedup_assets.storage.tables import dense_cells_of
from dedup_assets.storage.workspace import Workspace


@dataclass
class Freed:
    """The removals of a maintenance: number of entries and bytes on disk, by kind."""

    counts: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    waits: str = ""

    def add(self, kind: str, count: int, size: int) -> None:
        """Count removed entries."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        self.bytes[kind] = self.bytes.get(kind, 0) + size

    @property
    def total(self) -> int:
        """Total bytes freed."""
        return sum(self.bytes.values())


@contextmanager
def exclusive_access(workspace: Workspace) -> Iterator[None]:
    """Exclude every stage, admission, retraction and decision; waits for those in progress."""
    with workspace.lock(Lock.MAINTENANCE), workspace.lock(Lock.ADMISSION), workspace.lock(Lock.DECISIONS):
        yield


def maintain(workspace: Workspace, keep_versions: timedelta = KEPT_VERSIONS) -> Freed:
    """Remove files that no reader of the current state needs, and compact the table of embeddings.

    Parameters
    ----------
    workspace : Workspace
    keep_versions : timedelta
        How long superseded versions of the table are kept for readers that started with one.

    Returns
    -------
    Freed
        While retracted data is still published, no file of any admission is removed; `waits` says so.
    """
    freed = Freed()
    with exclusive_access(workspace), storage_errors(workspace.root):
        swept = workspace.sweep()
        if swept:
            freed.add("temporary leftovers", swept, 0)
        needed = _Needed(workspace)
        if not needed.is_settled:
            freed.waits = (
                "Something was retracted, or decided, that is not published yet: run `dedup-assets curate`, and "
                "maintain again."
            )
        _remove(freed, "readings of shards", _children(workspace, "raw"), needed.raw)
        _remove(freed, "admissions", _children(workspace, "admitted"), needed.admitted)
        _remove(freed, "files of matches", _children(workspace, "pairs"), needed.pairs)
        _remove(freed, "codebooks", _children(workspace, "codebooks"), needed.codebooks)
        for folder in _children(workspace, "cells"):
            _remove(freed, "cells", _children(workspace, f"cells/{folder.name}"), needed.cells)
            if not any(folder.iterdir()):
                folder.rmdir()
        _remove(freed, "decisions", _children(workspace, "decisions"), needed.decisions)
        _clean_table(workspace, needed, freed, keep_versions)
    return freed


def prune(workspace: Workspace, keep: int = 0) -> Freed:
    """Remove the published files and decisions of past generations; `output/changes` stays.

    Parameters
    ----------
    workspace : Workspace
    keep : int
        Number of latest past generations to keep. The published one and the one being decided are always kept.
    """
    refuse_unsealed(workspace.root, workspace.settings)
    freed = Freed()
    with exclusive_access(workspace), storage_errors(workspace.output):
        swept = workspace.sweep()
        if swept:
            freed.add("temporary leftovers", swept, 0)
        current = {published_generation(workspace)}
        last = workspace.ledger.generation()
        current.add(None if last is None else last.number)
        known = [generation.number for generation in workspace.ledger.generations()]
        past = [number for number in known if number not in current]
        for number in past[: len(past) - keep] if keep else past:
            # The published files first: decisions without them are useless.
            _take_away(freed, "published generations", workspace.output_generation(number))
            _take_away(freed, "decisions", workspace.generation(number))
    return freed


class _Needed:
    """The paths still in use according to the ledger. The caller holds `exclusive_access`."""

    def __init__(self, workspace: Workspace) -> None:
        ledger = workspace.ledger
        self.workspace = workspace
        self.living = LiveTexts(workspace)
        self.last = ledger.generation()
        self.published = published_generation(workspace)
        # Retracted data stays visible until a generation without it is published.
        self.is_settled = self.last is None or (
            self.published == self.last.number and self.last.retractions == ledger.last_retraction()
        )
        everything = self.living.all
        self.visible = self.living.visible if self.is_settled else everything
        down = {shard.key for shard in ledger.shards() if shard.retracted == TAKEDOWN} if self.is_settled else set()
        latest = {a.shard: a for a in everything if a.shard not in down}  # the last content of a vanished shard
        read = ledger.completions("raw_shards")
        self.pending = [
            (shard, done.input_version)
            for shard, done in read.items()
            if (shard, done.input_version) not in {(a.shard, a.fingerprint) for a in self.living.live}
        ]
        with_content = {a for a in self.visible if a.shard not in down} | set(latest.values())
        self.raw = {workspace.raw(a.shard, a.fingerprint).folder for a in with_content}
        self.raw |= {workspace.raw(shard, done.input_version).folder for shard, done in read.items()}
        self.admitted = {workspace.admitted(a) for a in {*self.visible, *latest.values()}}
        self.pairs = {workspace.pairs(a) for a in self.visible}
        books = ledger.codebooks()
        self.codebooks = {workspace.codebook(book) for book in books.values()}
        self.cells = {path for number in books for path in self._cells_under(number)}
        self.decisions = {workspace.generation(generation.number) for generation in ledger.generations()}

    def _cells_under(self, number: int) -> Iterator[Path]:
        """Cells under a codebook that are still in use.

        Under the current codebook: the cells of all admissions that new shards are compared with. Under an earlier one:
        the cells of the admissions made under it, for their vectors; and if one of these has matches that are not
        computed yet or are implied by dense cells, the cells of all earlier admissions under that codebook.
        """
        book = self.workspace.ledger.codebooks()[number]
        in_force = self.workspace.ledger.codebook()
        own = [a for a in self.visible if a.codebook == number]
        reach = max((a.number for a in own if self._reads_cells(a)), default=0)
        for a in self.visible:
            if (in_force is not None and number == in_force.number) or a in own or a.number <= reach:
                yield self.workspace.cells(book, a)

    def _reads_cells(self, a: Admission) -> bool:
        path = self.workspace.pairs(a)
        return not path.is_file() or bool(dense_cells_of(path))

    def text_hashes(self) -> Iterator[np.ndarray]:
        """Hashes of the texts of records that are live or not admitted yet."""
        for a in self.living.live:
            records = read_records(self.workspace.raw(a.shard, a.fingerprint))
            admitted = AdmittedShard.read(self.workspace.admitted(a))
            yield records.hashes[self.living.accepted(a, admitted)]
        for shard, fingerprint in self.pending:
            yield read_records(self.workspace.raw(shard, fingerprint)).hashes


def _clean_table(workspace: Workspace, needed: _Needed, freed: Freed, keep_versions: timedelta) -> None:
    """Remove the vectors of texts that no record has any more, and compact."""
    if settled_dimension(workspace) is None:
        return
    table = open_table(workspace)
    before, versions = _size(workspace.lancedb), table.versions()
    if needed.is_settled:
        stored = table.hashes()
        known = HashIndex(stored, np.arange(len(stored)))
        dead = np.ones(len(stored), bool)
        for hashes in needed.text_hashes():
            found = known.find(hashes)
            dead[found[found >= 0]] = False
        if dead.any():
            freed.add("vectors of texts that are gone", table.remove(stored[dead]), 0)
    table.compact(keep_versions)
    given_back = before - _size(workspace.lancedb)
    if given_back > 0:  # a compaction writes first, and keeps replaced versions for a while
        freed.add("versions of the table of embeddings", max(1, versions - table.versions()), given_back)


def _children(workspace: Workspace, part: str) -> list[Path]:
    folder = workspace.root / part
    # Names that begin with a dot are being written: the sweep leaves those of other machines.
    return sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _remove(freed: Freed, kind: str, found: list[Path], needed: set[Path]) -> None:
    for path in found:
        if path not in needed:
            _take_away(freed, kind, path)


def _take_away(freed: Freed, kind: str, path: Path) -> None:
    """Remove a file or a folder that may already be gone."""
    if not path.exists():
        return
    size = _size(path)
    temporary = temporary_beside(path)
    path.rename(temporary)
    if temporary.is_dir():
        shutil.rmtree(temporary)
    else:
        temporary.unlink()
    freed.add(kind, 1, size)


def _size(path: Path) -> int:
    """Bytes that the removal of a file or folder frees: a file with a second hard link frees none."""
    files = path.rglob("*") if path.is_dir() else [path]
    states = (file.lstat() for file in files if file.is_file())
    return sum(state.st_size for state in states if state.st_nlink == 1)
