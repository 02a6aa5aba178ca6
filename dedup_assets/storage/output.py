"""The published result: kept records, duplicates, quarantine, changes and the manifest.

Each file is replaced in one step; the manifest comes last, and lists the content of every file, so that a
reader who wants all shards of one state can tell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.errors import WorkspaceError
from dedup_assets.storage.decisions import read_record_decisions
from dedup_assets.storage.formats.batches import render_record
from dedup_assets.storage.ledger import Admission, Generation
from dedup_assets.storage.publish import publish_json
from dedup_assets.storage.shards import REJECTED, AdmittedShard, read_records, read_rejected
from dedup_assets.storage.tables import CHANGES, DUPLICATES, QUARANTINE, write_parquet
from dedup_assets.storage.workspace import Workspace

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1


@dataclass(frozen=True)
class PublishedShard:
    """Counts and checksums of one published shard."""

    rows: int
    kept: int
    removed_exact: int
    removed_semantic: int
    quarantined: int
    quarantined_by_reason: dict[str, int]
    files: dict[str, str]

    @property
    def removed(self) -> int:
        """Removed records of both kinds."""
        return self.removed_exact + self.removed_semantic


def publication_basis(workspace: Workspace, decision_basis: str) -> str:
    """What a shard's published files rest on: its decisions, and where they are published."""
    return f"{decision_basis} in {workspace.output}"


def publish_shard(
    workspace: Workspace, admission: Admission, generation: Generation, rows: int, reasons: Mapping[str, int]
) -> PublishedShard:
    """Write the three files of a shard. Raises WorkspaceError if a row is unaccounted for.

    `rows` and `reasons` are what reading the shard counted: rows in all, and quarantined ones by reason.
    """
    shard = admission.shard
    raw = workspace.raw(shard, admission.fingerprint)
    decisions = read_record_decisions(workspace, generation.number, shard)
    records = read_records(raw)
    kept_mask = decisions.column("kept")
    kept_rows = decisions.column("row").filter(kept_mask).to_numpy()
    positions = records.positions[np.searchsorted(records.rows, kept_rows)]

    files = {}
    target = workspace.output / "deduplicated" / f"{shard}.parquet"
    write_parquet(target, _take(raw / "table.parquet", positions))
    files["deduplicated"] = checksum(target)

    removed = decisions.filter(pc.invert(kept_mask))
    duplicates = pa.table(
        [
            removed.column("id"),
            pa.array([shard] * removed.num_rows, pa.string()),
            *(removed.column(name) for name in DUPLICATES.names[2:]),
        ],
        schema=DUPLICATES,
    )
    target = workspace.output / "duplicates" / f"{shard}.parquet"
    write_parquet(target, duplicates)
    files["duplicates"] = checksum(target)

    taken, taken_reason = _taken_ids(workspace, admission)
    quarantine = pa.concat_tables([read_rejected(raw).cast(QUARANTINE), taken]).sort_by("row")
    target = workspace.output / "quarantine" / f"{shard}.parquet"
    write_parquet(target, quarantine)
    files["quarantine"] = checksum(target)

    exact = pc.sum(pc.equal(duplicates.column("kind"), "exact")).as_py() or 0
    by_reason = dict(reasons)
    if taken.num_rows:
        by_reason[taken_reason] = by_reason.get(taken_reason, 0) + taken.num_rows
    published = PublishedShard(
        rows=rows,
        kept=len(kept_rows),
        removed_exact=exact,
        removed_semantic=duplicates.num_rows - exact,
        quarantined=quarantine.num_rows,
        quarantined_by_reason=dict(sorted(by_reason.items())),
        files=files,
    )
    if rows != published.kept + published.removed + published.quarantined:
        raise WorkspaceError(
            f"Shard {shard}: {rows} rows came in, but {published.kept} kept + {published.removed} removed + "
            f"{published.quarantined} quarantined = {published.kept + published.removed + published.quarantined}. "
            "This must never happen; nothing was recorded as published. Please report it with manifest.json."
        )
    return published


def _take(table: Path, positions: np.ndarray) -> pa.Table:
    """Rows of a Parquet file at ascending positions, in its own schema."""
    return pq.read_table(table).take(pa.array(positions))


def _taken_ids(workspace: Workspace, admission: Admission) -> tuple[pa.Table, str]:
    """Records whose id belonged to an earlier shard, as quarantine rows, and the reason by which they count."""
    raw = workspace.raw(admission.shard, admission.fingerprint)
    rejected = np.flatnonzero(AdmittedShard.read(workspace.admitted(admission)).record_texts == REJECTED)
    reason = "duplicate id in an earlier shard"
    if not len(rejected):
        return QUARANTINE.empty_table(), reason
    records = read_records(raw)
    rows = _take(raw / "table.parquet", records.positions[rejected]).to_pylist()
    return pa.table(
        [
            pa.array(records.rows[rejected]),
            pa.array([reason] * len(rejected)),
            pa.array([render_record(row) for row in rows]),
        ],
        schema=QUARANTINE,
    ), reason


def publish_manifest(
    workspace: Workspace, generation: Generation, shards: list[tuple[Admission, str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """Write manifest.json for published shards: (admission, source file name, published facts) each.

    Nothing in it depends on when or in which run a shard was published.
    """
    settings = workspace.settings
    manifest = {
        "format": MANIFEST_FORMAT,
        "shards": [
            {
                "shard": admission.shard,
                "admission": admission.number,
                "source": source,
                "fingerprint": admission.fingerprint,
                **facts,
            }
            for admission, source, facts in shards
        ],
        "totals": {
            name: sum(int(facts[name]) for _, _, facts in shards)
            for name in ("rows_in", "kept", "removed_exact", "removed_semantic", "quarantined")
        },
        "generation": generation.number,
        "mode": settings.mode,
        "threshold": settings.threshold,
        "floor": settings.floor,
        "keep": settings.keep,
        "keeper_rule": settings.keeper_rule,
        "settings_fingerprint": settings.fingerprint(),
        "model": "given with the data" if settings.embedding_column else settings.model,
        "model_fingerprint": workspace.ledger.meta("model_fingerprint") or "",
        "versions": {
            name: metadata.version(name)
            for name in ("dedup-assets", "dagster", "lancedb", "numpy", "pyarrow", "torch", "transformers")
        },
    }
    publish_json(workspace.output / MANIFEST, manifest)
    return manifest


def read_manifest(workspace: Workspace) -> dict[str, Any]:
    """The published manifest. Raises WorkspaceError before the first publication."""
    path = workspace.output / MANIFEST
    if not path.is_file():
        raise WorkspaceError(
            f"{workspace.output} holds no {MANIFEST}: nothing was published yet. Run `dedup-assets curate` first."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def publish_changes(workspace: Workspace, before: int, after: int, shards: list[str]) -> int:
    """Write `changes/GENERATION.parquet`: every record whose decision or keeper differs; returns how many."""
    parts = [CHANGES.empty_table()]
    for shard in shards:
        old = read_record_decisions(workspace, before, shard)
        new = read_record_decisions(workspace, after, shard)
        same_keeper = pc.equal(pc.fill_null(old["keeper_id"], ""), pc.fill_null(new["keeper_id"], ""))
        differs = pc.invert(pc.and_(pc.equal(old["kept"], new["kept"]), same_keeper))
        old, new = old.filter(differs), new.filter(differs)
        decision = [pc.if_else(table["kept"], "kept", "removed") for table in (old, new)]
        parts.append(
            pa.table(
                [
                    new["id"],
                    pa.array([shard] * new.num_rows, pa.string()),
                    decision[0],
                    decision[1],
                    old["keeper_id"],
                    new["keeper_id"],
                    old["similarity"],
                    new["similarity"],
                ],
                schema=CHANGES,
            )
        )
    changes = pa.concat_tables(parts)
    write_parquet(workspace.output / "changes" / f"{after:04d}.parquet", changes)
    return changes.num_rows


def checksum(path: Path) -> str:
    """32 hex digits of BLAKE2b-128 over a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
