"""Records that were quarantined because another record had their id, which is now free.

An id becomes free when its shard vanishes or changes. A shard with a record quarantined for that id is then admitted
again, after all others, like a shard with changed content.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dedup_assets.compute.hashes import hash_ids
from dedup_assets.corpus.live_texts import LiveTexts, corpus_index
from dedup_assets.storage.locks import Lock
from dedup_assets.storage.shards import REJECTED, AdmittedShard, read_ids
from dedup_assets.storage.workspace import Workspace


def readmit_freed(workspace: Workspace) -> list[str]:
    """End the admission of each live shard with a quarantined record whose id is now free; returns their keys.

    They are unfinished then: the next run admits them. Ids that were taken down are never free.
    """
    done = workspace.ledger.completions("cluster_partitions")
    if not any(entry.stats.get("ids_taken") for entry in done.values()):
        return []
    freed = []
    with workspace.lock(Lock.ADMISSION):
        living = LiveTexts(workspace)
        _, taken, buried = corpus_index(workspace, living)
        for a in living.live:
            rejected = np.flatnonzero(AdmittedShard.read(workspace.admitted(a)).record_texts == REJECTED)
            if not len(rejected):
                continue
            _, ids = read_ids(workspace.raw(a.shard, a.fingerprint))
            waiting = hash_ids(ids.take(pa.array(rejected)).to_pylist())
            if ((taken.find(waiting) < 0) & (buried.find(waiting) < 0)).any():
                workspace.ledger.withdraw(a.shard)
                freed.append(a.shard)
    return freed
