"""The live texts of the corpus: a text is live while a record that was not retracted has it.

A dead text never returns: if the same text arrives again, it is a new text with a new key. So stored matches may still
name dead texts. They cost time; decisions and look-ups skip them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np
import pyarrow as pa

from dedup_assets.compute.hashes import HashIndex, empty_hashes, hash_ids
from dedup_assets.storage.ledger import REFERENCE, Admission
from dedup_assets.storage.shards import AdmittedShard, admission_of, read_ids, row_of, text_keys
from dedup_assets.storage.workspace import Workspace


class LiveTexts:
    """The live texts, records and admissions of a workspace, according to the ledger.

    Parameters
    ----------
    workspace : Workspace
    without : collection of str, optional
        Shards to treat as retracted, because new content is about to replace theirs.

    Attributes
    ----------
    all, live : list of Admission
        In curation order.
    retractions : int
        Number of the last retraction included.
    """

    def __init__(self, workspace: Workspace, without: Collection[str] = ()) -> None:
        standing = workspace.ledger.standing()
        self._workspace = workspace
        self.all = standing.admissions
        self.retractions = standing.retractions
        self.live = [a for a in self.all if a.retracted is None and a.shard not in without]
        self._retracted = np.array(sorted({a.number for a in self.all} - {a.number for a in self.live}), np.int64)
        self._removed_rows = standing.taken_down

    def accepted(self, a: Admission, admitted: AdmittedShard) -> np.ndarray:
        """Indexes (n,) of the live records of a live admission: accepted and not taken down since."""
        counts = admitted.record_texts >= 0
        counts[self.taken_down(a)] = False
        return np.flatnonzero(counts)

    def taken_down(self, a: Admission) -> np.ndarray:
        """Indexes (n,) of the single records of a live admission that were taken down."""
        gone = self._removed_rows.get(a.number)
        if not gone:
            return np.empty(0, np.int64)
        rows, _ = read_ids(self._workspace.raw(a.shard, a.fingerprint))
        return np.searchsorted(rows, gone)

    @cached_property
    def buried(self) -> pa.Array:
        """The ids that were taken down and must not return."""
        return pa.array(self._workspace.ledger.tombstones(), pa.string())

    @cached_property
    def _survivors(self) -> np.ndarray:
        """Sorted keys of the live texts that a retracted admission introduced."""
        return self._scan[0]

    @cached_property
    def _dead(self) -> np.ndarray:
        """Sorted keys of the texts that a live admission introduced and no record has any more."""
        return self._scan[1]

    @cached_property
    def _scan(self) -> tuple[np.ndarray, np.ndarray]:
        survivors, lost, kept = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        if not len(self._retracted) and not self._removed_rows:
            return survivors[0], lost[0]
        for a in self.live:
            admitted = AdmittedShard.read(self._workspace.admitted(a))
            keys = admitted.record_texts[self.accepted(a, admitted)]
            survivors.append(np.unique(keys[np.isin(admission_of(keys), self._retracted)]))
            lost.append(admitted.record_texts[self.taken_down(a)])
        candidates = np.unique(np.concatenate(lost))
        candidates = candidates[~np.isin(admission_of(candidates), self._retracted)]
        for a in self.live if len(candidates) else ():
            admitted = AdmittedShard.read(self._workspace.admitted(a))
            keys = admitted.record_texts[self.accepted(a, admitted)]
            kept.append(keys[np.isin(keys, candidates)])
        return np.unique(np.concatenate(survivors)), np.setdiff1d(candidates, np.concatenate(kept))

    def texts(self, keys: np.ndarray) -> np.ndarray:
        """Which of some text keys are live: bool (n,)."""
        lives = ~np.isin(admission_of(keys), self._retracted)
        if len(self._dead):
            lives &= ~np.isin(keys, self._dead)
        if len(self._survivors):
            lives |= np.isin(keys, self._survivors)
        return lives

    def stale(self, keys: np.ndarray) -> np.ndarray:
        """Which texts are dead, or have the key of a record that is gone: bool (n,)."""
        stale = np.isin(admission_of(keys), self._retracted)
        if len(self._dead):
            stale |= np.isin(keys, self._dead)
        for number, rows in self._removed_rows.items():
            stale |= np.isin(keys, text_keys(number, np.array(rows)))
        return stale

    def places(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Admission number and row, (n,) each, of the first live record of each live text."""
        numbers, rows = admission_of(keys), row_of(keys)
        stale = self.stale(keys)
        if stale.any():
            known, number_of, row_in = self._representatives
            at = np.searchsorted(known, keys[stale])
            numbers[stale], rows[stale] = number_of[at], row_in[at]
        return numbers, rows

    def names(self, keys: np.ndarray) -> pa.Array:
        """Id of the first live record of each live text."""
        return record_ids(self._workspace, {a.number: a for a in self.all}, *self.places(keys))

    @cached_property
    def _representatives(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each live text with the key of a record that is gone: its key (sorted), and the admission and row of its
        first live record."""
        keys, numbers, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for a in self.live:
            admitted = AdmittedShard.read(self._workspace.admitted(a))
            accepted = self.accepted(a, admitted)
            wanted = accepted[self.stale(admitted.record_texts[accepted])]
            all_rows, _ = read_ids(self._workspace.raw(a.shard, a.fingerprint))
            keys.append(admitted.record_texts[wanted])
            numbers.append(np.full(len(wanted), a.number))
            rows.append(all_rows[wanted])
        found, first = np.unique(np.concatenate(keys), return_index=True)
        return found, np.concatenate(numbers)[first], np.concatenate(rows)[first]

    @cached_property
    def visible(self) -> list[Admission]:
        """Admissions in curation order that a join must include: live ones, and those that introduced texts that are
        still live."""
        lasting = {*np.unique(admission_of(self._survivors)).tolist(), *(a.number for a in self.live)}
        return [a for a in self.all if a.number in lasting]


def record_ids(
    workspace: Workspace, admissions: Mapping[int, Admission], numbers: np.ndarray, rows: np.ndarray
) -> pa.Array:
    """Ids of records by admission number and row."""
    if not len(numbers):
        return pa.array([], pa.string())
    order = np.argsort(numbers, kind="stable")
    present, starts = np.unique(numbers[order], return_index=True)
    parts = []
    for number, chosen in zip(present, np.split(order, starts[1:]), strict=True):
        a = admissions[int(number)]
        known, ids = read_ids(workspace.raw(a.shard, a.fingerprint))
        parts.append(ids.take(pa.array(np.searchsorted(known, rows[chosen]))))
    back = np.empty(len(numbers), np.int64)
    back[order] = np.arange(len(numbers))
    return pa.concat_arrays(parts).take(pa.array(back))


def corpus_index(workspace: Workspace, living: LiveTexts) -> tuple[HashIndex, HashIndex, HashIndex]:
    """Indexes over live data: text hash to text key, hash of each id in use to 0, hash of each permanently taken down
    id to 0."""
    hashes, keys, ids = [empty_hashes()], [np.empty(0, np.int64)], [empty_hashes()]
    live = {a.number for a in living.live}
    for a in living.visible:
        shard = AdmittedShard.read(workspace.admitted(a))
        lives = living.texts(shard.new_keys)
        hashes.append(shard.new_hashes[lives])
        keys.append(shard.new_keys[lives])
        if a.number in live:
            ids.append(shard.id_hashes)
    taken = np.concatenate(ids)
    gone = hash_ids(workspace.ledger.tombstones())
    return (
        HashIndex(np.concatenate(hashes), np.concatenate(keys)),
        HashIndex(taken, np.zeros(len(taken), np.int64)),
        HashIndex(gone, np.zeros(len(gone), np.int64)),
    )


def reference_texts(workspace: Workspace, living: LiveTexts) -> np.ndarray:
    """Sorted keys (m,) of the texts of live references."""
    keys = [np.empty(0, np.int64)]
    for a in living.live:
        if a.role == REFERENCE:
            admitted = AdmittedShard.read(workspace.admitted(a))
            keys.append(admitted.record_texts[living.accepted(a, admitted)])
    return np.unique(np.concatenate(keys))
