"""One published generation for the checks: resolved once, so that all reads are of the same generation.

It reads the published files, and nothing cached by the run that wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dedup_assets.corpus.output import MANIFEST, published_generation
from dedup_assets.errors import WorkspaceError
from dedup_assets.guard_rule import Guard, parse_guards
from dedup_assets.ingest.columns import id_strings
from dedup_assets.storage.decisions import read_record_decisions
from dedup_assets.storage.ledger import REFERENCE, Admission
from dedup_assets.storage.raw_table import RawShard
from dedup_assets.storage.shards import Records, read_records
from dedup_assets.storage.struct_columns import find_column, read_column_of
from dedup_assets.storage.workspace import Workspace

HELD_SHARDS = 32
"""Number of shards whose records and decisions are cached: the keepers for one shard are in many shards, most of them
in a few."""


class Published:
    """The generation that `output/current` led to at construction.

    Raises WorkspaceError if it was published by another workspace.
    """

    def __init__(self, workspace: Workspace, number: int) -> None:
        self.workspace = workspace
        self.number = number
        self.folder = workspace.output_generation(number)
        self.manifest: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        known = {a.number: a for a in workspace.ledger.admissions()}
        self.entries: dict[str, dict[str, Any]] = {entry["shard"]: entry for entry in self.manifest["shards"]}
        self.admissions: dict[str, Admission] = {}
        for shard, entry in self.entries.items():
            admission = known.get(entry["admission"])
            if admission is None or (admission.shard, admission.fingerprint) != (shard, entry["fingerprint"]):
                raise WorkspaceError(
                    f"{self.folder / MANIFEST} lists shard {shard} as admission {entry['admission']}, which "
                    f"{workspace.root} does not know: another workspace published there. Give each workspace its "
                    "own output."
                )
            self.admissions[shard] = admission
        self.records = lru_cache(maxsize=HELD_SHARDS)(self._read_records)
        self.decisions = lru_cache(maxsize=HELD_SHARDS)(self._read_decisions)
        self.kept_ids = lru_cache(maxsize=HELD_SHARDS)(self._read_kept_ids)

    @classmethod
    def of(cls, workspace: Workspace) -> Published | None:
        """The current generation; None before the first is published."""
        number = published_generation(workspace)
        return None if number is None else cls(workspace, number)

    def corpus_shards(self, wanted: Collection[str] | None = None) -> list[str]:
        """Published shards that are not references, in curation order; the wanted ones, or all."""
        return [
            shard
            for shard, a in sorted(self.admissions.items(), key=lambda item: item[1].number)
            if a.role != REFERENCE and (wanted is None or shard in wanted)
        ]

    def file(self, part: str, shard: str) -> Path:
        """A published file of a shard."""
        return self.folder / part / f"{shard}.parquet"

    def raw(self, shard: str) -> RawShard:
        """The files written when a shard was read."""
        return self.workspace.raw(shard, self.admissions[shard].fingerprint)

    def _read_records(self, shard: str) -> Records:
        """The valid records of a shard; `records` caches the latest results."""
        return read_records(self.raw(shard))

    def _read_decisions(self, shard: str) -> pa.Table:
        """The decisions on a shard's records, in row order; `decisions` caches the latest results."""
        return read_record_decisions(self.workspace, self.number, shard)

    def _read_kept_ids(self, shard: str) -> pa.ChunkedArray | None:
        """Ids in the published file of a shard, as text; None if it has no id column. `kept_ids` caches the latest
        results."""
        path, name = self.file("deduplicated", shard), self.workspace.settings.id_column
        if find_column(pq.read_schema(path), name) is None:
            return None
        return id_strings(read_column_of(path, name))

    def kept(self, shard: str, rows: np.ndarray) -> np.ndarray:
        """Decisions on records by row: 1 kept, 0 removed, -1 none: int8 (n,)."""
        table = self.decisions(shard)
        known, kept = table.column("row").to_numpy(), table.column("kept").to_numpy()
        if not len(known):
            return np.full(len(rows), -1, np.int8)
        at = np.minimum(np.searchsorted(known, rows), len(known) - 1)
        return np.where(known[at] == rows, kept[at].astype(np.int8), np.int8(-1))

    @cached_property
    def threshold(self) -> float:
        """The threshold of the decisions."""
        return float(self.manifest["threshold"])

    @cached_property
    def guards(self) -> tuple[Guard, ...]:
        """The guards that were decided by."""
        return parse_guards(self.manifest.get("guards", ()))  # they came later than the first manifests
