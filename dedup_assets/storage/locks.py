"""Which locks there are, in which order they are taken, what each protects, and what a reader may see.

Any number of processes may work on one workspace: runs from the UI, the command line, a notebook, the sensor. They meet
in the locks below, in transactions of the ledger, and nowhere else.

Locks
-----
Files under `locks/`, locked by the kernel (`publish.exclusive_lock`), which frees the locks of a killed process. A
process that holds several took them in this order, so no two wait for each other:

1. `MAINTENANCE`. Every stage and every check holds it *shared* for its whole length. Maintenance, pruning and purging
   hold it alone, because they delete files that a stage may be about to read.
2. `ADMISSION`. Held while shards get their numbers in the curation order, while a codebook is chosen, and while
   something is retracted. Both what a new shard is compared with and what it is called depend on those before it.
3. `DECISIONS`. Held while all that is admitted is decided and published. Whoever holds it decides for the shards of
   other runs too: a removal may name a keeper in any of them, and both are published together.

Under the following ones nothing is waited for, so their place in the order does not matter: `EMBEDDINGS` (adding rows
to the LanceDB table), `SETTINGS` (changing curation.toml), `INSTANCE` (opening Dagster's instance, which makes its
tables). A run also holds `locks/runs/RUN` (`liveness`): not to keep anybody out, but to show that its process lives.

The ledger
----------
One SQLite file. A change is one transaction of some milliseconds; no lock above is ever taken inside one. Completion of
a stage is recorded after its files are on disk and named, never before: what the ledger calls finished is there.

What a stage may see
--------------------
Another process may admit, retract or decide between any two looks at the ledger. Stages therefore never rely on an
earlier look:

- Cells are on disk before a shard is admitted, and its matches are looked for after. Of two shards that are admitted
  side by side at least one meets the other.
- A retraction that comes while matches are written or decisions are taken is noticed by its number in the ledger at the
  end, and that step is done again (the loops in `pairwise_similarities` and `deduplicated_dataset`).
- A shard that fails after its admission is withdrawn with those admitted behind it (`StageRun.without_failing`).

What a reader may see
---------------------
Readers take no lock. Files are never changed in place: they are written beside, synced and renamed (`publish`).
`output/current` is a link to one generation, turned in one rename, and the manifest in it lists every file with its
checksum. Who follows the link once reads one generation, whole, while the next is written. Look-ups that read several
files of the workspace do it again if a generation or a retraction came in between (`lookups.steady`). Maintenance keeps
superseded versions of the table for an hour, for readers that began with one.
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
