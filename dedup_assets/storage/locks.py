"""The locks, the order in which they are taken, what each protects, and what a reader may see.

Any number of processes may work on one workspace: runs from the UI, the command line, a notebook, the sensor. Only the
locks below and the transactions of the ledger coordinate them.

Locks
-----
Files under `locks/`, locked by the kernel (`publish.exclusive_lock`), which frees the locks of a killed process. A
process that needs several takes them in this order, so no two processes wait for each other:

1. `MAINTENANCE`. Every stage and every check holds it *shared* for its whole duration. Maintenance, pruning and purging
   hold it exclusively, because they delete files that a stage may be about to read.
2. `ADMISSION`. Held while shards get their numbers in the curation order, while a codebook is chosen, and during a
   retraction. The number of a new shard, and the shards it is compared with, depend on the shards before it.
3. `DECISIONS`. Held while all admitted shards are decided and published. The holder also decides for the shards of
   other runs: a removal may name a keeper in any of them, and both are published together.

A holder of the following locks waits for no other lock, so their position in the order does not matter: `EMBEDDINGS`
(adding rows to the LanceDB table), `SETTINGS` (changing curation.toml), `INSTANCE` (opening Dagster's instance, which
creates its tables). A run also holds `locks/runs/RUN` (`liveness`), which excludes no one and shows that its process is
alive.

The ledger
----------
One SQLite file. A change is one transaction of a few milliseconds; no lock above is ever taken inside one. Completion
of a stage is recorded after its files are on disk under their final names, never before.

What a stage may see
--------------------
Another process may admit, retract or decide between any two reads of the ledger. Stages therefore never rely on an
earlier read:

- Cells are on disk before a shard is admitted, and its matches are computed afterwards. So of two shards that are
  admitted concurrently, at least one is compared with the other.
- A retraction during the writing of matches or decisions is detected by its number in the ledger at the end, and that
  step is repeated (the loops in `pairwise_similarities` and `deduplicated_dataset`).
- A shard that fails after its admission is withdrawn, and so are the shards admitted after it
  (`StageRun.without_failing`).

What a reader may see
---------------------
Readers take no lock. Files are never changed in place: they are written under a temporary name, synced and renamed
(`publish`). `output/current` is a link to one generation, replaced in one rename, and the manifest in it lists every
file with its checksum. A reader that resolves the link once reads one whole generation while the next is written.
Look-ups that read several files of the workspace repeat the read if a generation or a retraction came in between
(`lookups.steady`). Maintenance keeps superseded versions of the table for an hour, for readers that started with one.
"""

from __future__ import annotations

from enum import StrEnum


class Lock(StrEnum):
    """Names of the locks of a workspace; the first three in the order in which they are taken."""

    MAINTENANCE = "maintenance"
    ADMISSION = "admission"
    DECISIONS = "decisions"
    EMBEDDINGS = "embeddings"
    SETTINGS = "settings"
    INSTANCE = "instance"
