"""The order in which the records of shards are judged: by the keeper rule, read from what is stored of them.

Used by whoever decides, and by whoever asks what another threshold would decide. Decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dedup_assets.compute.order import keeper_order, prototype_cosine, random_keys, rebuild_order
from dedup_assets.storage.cells import ShardCells
from dedup_assets.storage.ledger import Admission
from dedup_assets.storage.shards import REJECTED, AdmittedShard, Records, read_column, read_records
from dedup_assets.storage.workspace import Workspace


class LoadedShard:
    """The accepted records of an admitted shard."""

    def __init__(self, admission: Admission, raw: Records, admitted: AdmittedShard) -> None:
        accepted = np.flatnonzero(admitted.record_texts != REJECTED)
        self.admission = admission
        self.texts = admitted.record_texts[accepted]
        self.rows = raw.rows[accepted]
        self.positions = raw.positions[accepted]
        self.hashes = raw.hashes[accepted]
        self.characters = raw.characters[accepted]
        self.ids = raw.ids.take(accepted)

    def __len__(self) -> int:
        return len(self.rows)


def load_shard(workspace: Workspace, a: Admission) -> LoadedShard:
    """Read the accepted records of an admitted shard."""
    raw = read_records(workspace.raw(a.shard, a.fingerprint))
    return LoadedShard(a, raw, AdmittedShard.read(workspace.admitted(a)))


def append_order_of(workspace: Workspace, shard: LoadedShard) -> np.ndarray:
    """Curation order of one shard's records: by the keeper rule, ties by row."""
    settings = workspace.settings
    values, descending = _preference(workspace, [shard])
    if values is None:
        return keeper_order("first", len(shard))
    if settings.keep == "random":
        return keeper_order("random", len(shard), ids=shard.ids.to_pylist(), seed=settings.seed)
    return keeper_order("column", len(shard), column=values, descending=descending)


def rebuild_order_of(workspace: Workspace, shards: Sequence[LoadedShard]) -> np.ndarray:
    """One order over all records: by the keeper rule, ties by content, whatever shard they came in."""
    values, descending = _preference(workspace, shards)
    ids = [record_id for shard in shards for record_id in shard.ids.to_pylist()]
    hashes = np.concatenate([shard.hashes for shard in shards])
    return rebuild_order(hashes, ids, quality=values, descending=descending)


def _preference(workspace: Workspace, shards: Sequence[LoadedShard]) -> tuple[Any, bool]:
    """The value that orders records under the keeper rule and whether the largest comes first; None for
    the order in which they stand."""
    settings = workspace.settings
    column = settings.keep_column()
    if column is not None:
        name, descending = column
        values: list[Any] = []
        for shard in shards:
            raw = workspace.raw(shard.admission.shard, shard.admission.fingerprint)
            values += read_column(raw, name, shard.positions)
        return values, descending
    if settings.keep == "longest":
        return np.concatenate([shard.characters for shard in shards]), True
    if settings.keep == "random":
        return random_keys([i for shard in shards for i in shard.ids.to_pylist()], settings.seed), False
    if settings.keep in ("hard", "easy"):
        return _likeness(workspace, shards), settings.keep == "easy"
    return None, False


def _likeness(workspace: Workspace, shards: Sequence[LoadedShard]) -> np.ndarray:
    """Cosine of each record's text to the mean vector of the batch's new texts.

    A prototype without clusters, so that the number of cells changes no decision. Copies of earlier texts
    are removed or follow them in any order, so their value does not matter.
    """
    keys, vectors = [], []
    for shard in shards:
        codebook = workspace.ledger.codebooks()[shard.admission.codebook]
        cells = ShardCells.read(workspace.cells(codebook, shard.admission))
        by_row = np.argsort(cells.rows, kind="stable")
        keys.append(np.sort(AdmittedShard.read(workspace.admitted(shard.admission)).new_keys))
        vectors.append(np.asarray(cells.vectors)[by_row])
    known = np.concatenate(keys)
    texts = np.concatenate([shard.texts for shard in shards])
    if not len(known):
        return np.zeros(len(texts))
    cosine = prototype_cosine(np.concatenate([part for part in vectors if len(part)]))
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known[order], texts), len(known) - 1)]
    return np.where(known[at] == texts, cosine[at], 0.0)
