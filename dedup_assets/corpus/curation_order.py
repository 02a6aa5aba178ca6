"""The curation order of the records of shards, from their stored data.

References come first. Then, if the corpus was rebuilt, all records of that time in one order; then shard by shard in
the order of admission, inside a shard by the keeper rule. The decisions use it, and so does the preview of another
threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from dedup_assets.compute.order import order_by_value, prototype_cosine, random_keys, rebuild_order
from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.keep_rule import KeepRule
from dedup_assets.storage.ledger import REFERENCE, Admission
from dedup_assets.storage.shards import AdmittedShard, Records, read_column, read_records
from dedup_assets.storage.text_vectors import TextVectors
from dedup_assets.storage.workspace import Workspace


class LoadedShard:
    """The live records of a live admission: accepted, and not taken down since."""

    def __init__(self, admission: Admission, raw: Records, texts: np.ndarray, counting: np.ndarray) -> None:
        self.admission = admission
        self.texts = texts[counting]
        self.rows = raw.rows[counting]
        self.positions = raw.positions[counting]
        self.hashes = raw.hashes[counting]
        self.characters = raw.characters[counting]
        self.ids = raw.ids.take(counting)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_reference(self) -> bool:
        return self.admission.role == REFERENCE


def load_shard(workspace: Workspace, a: Admission, living: LiveTexts | None = None) -> LoadedShard:
    """Read the live records of a live admission; `living` saves another read of the ledger."""
    living = living or LiveTexts(workspace)
    admitted = AdmittedShard.read(workspace.admitted(a))
    raw = read_records(workspace.raw(a.shard, a.fingerprint))
    return LoadedShard(a, raw, admitted.record_texts, living.accepted(a, admitted))


def in_curation_order(admissions: Sequence[Admission]) -> list[Admission]:
    """References first, then in the order of admission."""
    return sorted(admissions, key=lambda a: (a.role != REFERENCE, a.number))


def curation_order(
    workspace: Workspace, shards: Sequence[LoadedShard], rebuilt: int, known: np.ndarray | None = None
) -> np.ndarray:
    """Indexes (n,) of the concatenated records of some shards, in curation order.

    Parameters
    ----------
    workspace : Workspace
    shards : sequence of LoadedShard
        In the order of `in_curation_order`.
    rebuilt : int
        Number of the last admission whose records share one order with all earlier ones.
    known : (m,) int64, optional
        Keys of texts that were decided before: no shard introduces them.
    """
    seen = np.empty(0, np.int64) if known is None else np.unique(known)
    parts = [np.empty(0, np.int64)]
    start = 0

    def group_of(shard: LoadedShard) -> tuple[bool, int]:
        number = shard.admission.number
        return shard.is_reference, 0 if number <= rebuilt else number

    for _, group in groupby(shards, key=group_of):
        together = list(group)
        texts = np.concatenate([shard.texts for shard in together])
        parts.append(start + _order_of(workspace, together, rebuilt, texts, seen))
        seen = np.union1d(seen, texts) if workspace.settings.keep_rule().needs_prototype else seen
        start += len(texts)
    return np.concatenate(parts)


def _order_of(
    workspace: Workspace, shards: Sequence[LoadedShard], rebuilt: int, texts: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """One shard by the keeper rule, ties by row; rebuilt ones together, ties by content."""
    rule = workspace.settings.keep_rule()
    values = _preference(workspace, rule, shards, texts, seen)
    if shards[0].admission.number <= rebuilt:
        ids = [record_id for shard in shards for record_id in shard.ids.to_pylist()]
        hashes = np.concatenate([shard.hashes for shard in shards])
        return rebuild_order(hashes, ids, quality=values, descending=rule.descending)
    return np.arange(len(texts)) if values is None else order_by_value(values, rule.descending)


def _preference(
    workspace: Workspace, rule: KeepRule, shards: Sequence[LoadedShard], texts: np.ndarray, seen: np.ndarray
) -> Any:
    """The values that order records under the keeper rule; None for the order of rows."""
    if rule.order == "column":
        values: list[Any] = []
        for shard in shards:
            raw = workspace.raw(shard.admission.shard, shard.admission.fingerprint)
            values += read_column(raw, rule.column, shard.positions)
        return values
    if rule.order == "longest":
        return np.concatenate([shard.characters for shard in shards])
    if rule.order == "random":
        return random_keys([i for shard in shards for i in shard.ids.to_pylist()], workspace.settings.seed)
    return _likeness(workspace, texts, seen) if rule.needs_prototype else None


def _likeness(workspace: Workspace, texts: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Cosine of each record's text to the mean vector of the texts that are new in this batch.

    The prototype does not use clusters, so the number of cells changes no decision. Copies of earlier texts are decided
    like these in any order, so their value does not matter.
    """
    unique, first, back = np.unique(texts, return_index=True, return_inverse=True)
    new = ~np.isin(unique, seen)
    if not new.any():
        return np.zeros(len(texts))
    by_row = np.argsort(first[new], kind="stable")  # sums of float32 vectors depend on the order of summation
    cosine = np.zeros(len(unique))
    at = np.flatnonzero(new)[by_row]
    cosine[at] = prototype_cosine(TextVectors(workspace)(unique[at]))
    return cosine[back]
