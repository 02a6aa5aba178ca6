"""One published generation as the checks read it: resolved once, so that no switch comes between two looks.

Reads what is on disk for every reader, and never what the run that wrote it still remembers.
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
from dedup_assets.storage.workspace import Workspace

HELD_SHARDS = 32
"""Shards of which records and decisions are held: keepers of one shard stand in many, most of them in a few."""


class Published:
    """The generation that `output/current` led to when this was made.

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
                    f"{workspace.root} does not know: another workspace published there. Give each workspace an "
                    "output of its own."
                )
            self.admissions[shard] = admission
        self.records = lru_cache(maxsize=HELD_SHARDS)(self._read_records)
        self.decisions = lru_cache(maxsize=HELD_SHARDS)(self._read_decisions)
        self.kept_ids = lru_cache(maxsize=HELD_SHARDS)(self._read_kept_ids)

    @classmethod
    def of(cls, workspace: Workspace) -> Published | None:
        """The generation in force; None before the first is published."""
        number = published_generation(workspace)
        return None if number is None else cls(workspace, number)

    def corpus_shards(self, wanted: Collection[str] | None = None) -> list[str]:
        """Published shards that are no references, in curation order; those wanted, or all."""
        return [
            shard
            for shard, a in sorted(self.admissions.items(), key=lambda item: item[1].number)
            if a.role != REFERENCE and (wanted is None or shard in wanted)
        ]

    def file(self, part: str, shard: str) -> Path:
        """A published file of a shard."""
        return self.folder / part / f"{shard}.parquet"

    def raw(self, shard: str) -> RawShard:
        """What was read of a shard."""
        return self.workspace.raw(shard, self.admissions[shard].fingerprint)

    def _read_records(self, shard: str) -> Records:
        """The valid records of a shard; asked for as `records`, which keeps the last ones."""
        return read_records(self.raw(shard))

    def _read_decisions(self, shard: str) -> pa.Table:
        """The decisions on a shard's records, in row order; asked for as `decisions`."""
        return read_record_decisions(self.workspace, self.number, shard)

    def _read_kept_ids(self, shard: str) -> pa.ChunkedArray | None:
        """Ids in the published file of a shard, as text; None where it has no id column. Asked for as `kept_ids`."""
        path, name = self.file("deduplicated", shard), self.workspace.settings.id_column
        if name not in pq.read_schema(path).names:
            return None
        return id_strings(pq.read_table(path, columns=[name]).column(0))

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
        """The threshold that was decided by."""
        return float(self.manifest["threshold"])

    @cached_property
    def guards(self) -> tuple[Guard, ...]:
        """The guards that were decided by."""
        return parse_guards(self.manifest.get("guards", ()))  # they came later than the first manifests
