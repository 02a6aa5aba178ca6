"""The published result of a generation: kept records, duplicates, quarantine and the manifest.

`output/generations/NNNN` holds all files of one generation; `output/current` leads to the one in force and is
turned in one step. A reader who follows it once sees one state. Inside a generation files are only added, each in
one step, and the manifest lists the content of every file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.errors import WorkspaceError
from dedup_assets.ingest.formats.batches import render_row, rendered_value
from dedup_assets.storage.decisions import read_record_decisions
from dedup_assets.storage.ledger import REFERENCE, Admission, Generation
from dedup_assets.storage.own_folders import MARKER, MARKER_TEXT
from dedup_assets.storage.publish import (
    checksum,
    publish_copy,
    publish_file,
    publish_json,
    publish_link,
    publish_text,
    storage_errors,
)
from dedup_assets.storage.raw_table import take_rows
from dedup_assets.storage.shards import REJECTED, RETRACTED_ID, AdmittedShard, read_records, read_rejected
from dedup_assets.storage.struct_columns import column_field
from dedup_assets.storage.tables import DUPLICATES, QUARANTINE, write_parquet
from dedup_assets.storage.workspace import Workspace

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 2
PARTS = ("deduplicated", "duplicates", "quarantine")
"""Folders of a generation, one file a shard in each."""

ID_TAKEN = "duplicate id in an earlier shard"
ID_RETRACTED = "retracted id"

_GROUP_ROWS, _GROUP_BYTES = 1 << 16, 1 << 29
"""Rows of a row group of what is published. Arrow numbers the levels of a whole one at once: with 2^20 rows of 384
numbers that takes 5.9 GB, with these 1.0. Fewer rows where they take that many bytes."""

_COUNTS = ("kept", "reference", "removed_exact", "removed_semantic", "quarantined")


@dataclass(frozen=True)
class PublishedShard:
    """Counts and checksums of one published shard. Records of a reference count as that, never as kept."""

    rows: int
    kept: int
    reference: int
    removed_exact: int
    removed_semantic: int
    quarantined: int
    quarantined_by_reason: dict[str, int]
    files: dict[str, str]

    @property
    def removed(self) -> int:
        """Removed records of both kinds."""
        return self.removed_exact + self.removed_semantic


def publication_version(workspace: Workspace, decision_version: str) -> str:
    """What a shard's published files rest on: its decisions, and where they are published."""
    return f"{decision_version} in {workspace.output}"


def published_generation(workspace: Workspace) -> int | None:
    """Number of the generation that `current` leads to; None before the first is published."""
    try:
        return int(workspace.output_current.readlink().name)
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class _Before:
    """The files of the same content in the published generation."""

    folder: Path
    decisions: pa.Table


class EarlierOutput:
    """The published generation, whose files a new one shares where they are equal."""

    def __init__(self, workspace: Workspace, generation: Generation) -> None:
        number = published_generation(workspace)
        self._workspace = workspace
        self._number = number or 0
        self._listed: set[tuple[int, str]] = set()
        if number is None or number == generation.number:
            return
        try:
            manifest = json.loads((workspace.output_generation(number) / MANIFEST).read_text(encoding="utf-8"))
            self._listed = {(entry["admission"], entry["fingerprint"]) for entry in manifest["shards"]}
        except (OSError, ValueError, KeyError):
            return  # made by something else: nothing is shared with it

    def of(self, admission: Admission) -> _Before | None:
        """What it holds of this very admission."""
        if (admission.number, admission.fingerprint) not in self._listed:
            return None
        try:
            decisions = read_record_decisions(self._workspace, self._number, admission.shard)
        except FileNotFoundError:  # pruned, or never made by this workspace
            return None
        return _Before(self._workspace.output_generation(self._number), decisions)


def publish_shard(
    workspace: Workspace,
    admission: Admission,
    generation: Generation,
    living: LiveTexts,
    earlier: EarlierOutput,
    rows: int,
    reasons: Mapping[str, int],
    kept_file: str | None,
) -> PublishedShard:
    """Write the other files of a shard into its generation. Raises WorkspaceError if a row is unaccounted for.

    `kept_file` is what `publish_kept` gave. `rows` and `reasons` are what reading the shard counted: rows in all, and
    quarantined ones by reason. A file that would equal the one of the earlier output is shared with it. Of a reference
    only the quarantine is published.
    """
    decisions = read_record_decisions(workspace, generation.number, admission.shard)
    kept = decisions.column("kept")
    removed = decisions.filter(pc.invert(kept))
    quarantine, own_reasons = _quarantine(workspace, admission, living)
    by_reason = dict(reasons)
    for reason, count in own_reasons.items():
        by_reason[reason] = by_reason.get(reason, 0) + count
    is_reference = admission.role == REFERENCE
    exact = pc.sum(pc.equal(removed.column("kind"), "exact")).as_py() or 0
    stay = pc.sum(kept).as_py() or 0
    target = workspace.output_generation(generation.number)
    before = earlier.of(admission)
    files = {}
    if not is_reference:
        assert kept_file is not None
        files["deduplicated"] = kept_file
        files["duplicates"] = _publish_table(
            target, "duplicates", admission.shard, _duplicates(workspace, admission, living, removed), before
        )
    files["quarantine"] = _publish_table(target, "quarantine", admission.shard, quarantine, before)
    published = PublishedShard(
        rows=rows,
        kept=0 if is_reference else stay,
        reference=stay if is_reference else 0,
        removed_exact=exact,
        removed_semantic=removed.num_rows - exact,
        quarantined=quarantine.num_rows,
        quarantined_by_reason=dict(sorted(by_reason.items())),
        files=files,
    )
    found = published.kept + published.reference + published.removed + published.quarantined
    if rows != found:
        raise WorkspaceError(
            f"Shard {admission.shard}: {rows} rows came in, but {published.kept} kept + {published.reference} of a "
            f"reference + {published.removed} removed + {published.quarantined} quarantined = {found}. "
            "This must never happen; nothing was recorded as published. Please report it with manifest.json."
        )
    return published


def publish_kept(
    workspace: Workspace,
    generation: Generation,
    earlier: EarlierOutput,
    admission: Admission,
    look: Callable[[], None] = lambda: None,
) -> str | None:
    """Publish the kept records of a shard in the input's own schema; returns the checksum. None for a reference.

    This is nearly all of the work of publishing a shard, and may be done for several at a time. `look` is called
    before each row group; what it raises ends the writing.
    """
    if admission.role == REFERENCE:
        return None
    decisions = read_record_decisions(workspace, generation.number, admission.shard)
    before = earlier.of(admission)
    path = workspace.output_generation(generation.number) / "deduplicated" / f"{admission.shard}.parquet"
    kept_rows = decisions["row"].filter(decisions["kept"])
    if before is not None:
        old = before.folder / "deduplicated" / path.name
        if old.is_file() and before.decisions["row"].filter(before.decisions["kept"]).equals(kept_rows):
            publish_copy(path, old)
            return checksum(path)
    raw = workspace.raw(admission.shard, admission.fingerprint)
    records = read_records(raw)
    positions = records.positions[np.searchsorted(records.rows, kept_rows.to_numpy())]
    publish_file(path, lambda temporary: _write_rows(temporary, raw.table, positions, look))
    return checksum(path)


def _write_rows(target: Path, table: Path, positions: np.ndarray, look: Callable[[], None]) -> None:
    """Write the rows at ascending positions of a shard's table; no more than a row group of them is in memory.

    Without a row there is no row group: some readers fail at one of no rows.
    """
    with (
        pq.ParquetFile(table) as file,
        pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer,
    ):
        for group in _row_groups(file, positions):
            look()
            writer.write_table(group, _GROUP_ROWS)


def _row_groups(file: pq.ParquetFile, positions: np.ndarray) -> Iterator[pa.Table]:
    """The rows at ascending positions, so many at a time, or fewer where they are large."""
    waiting: list[pa.Table] = []
    rows = size = 0
    for _, part in take_rows(file, positions):
        while part.num_rows:
            fitting = part.slice(0, _GROUP_ROWS - rows)
            part = part.slice(fitting.num_rows)
            waiting.append(fitting)
            rows, size = rows + fitting.num_rows, size + fitting.nbytes
            if rows == _GROUP_ROWS or size >= _GROUP_BYTES:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _publish_table(target: Path, part: str, shard: str, table: pa.Table, before: _Before | None) -> str:
    path = target / part / f"{shard}.parquet"
    old = None if before is None else before.folder / part / path.name
    if old is not None and old.is_file() and pq.read_table(old).equals(table):
        publish_copy(path, old)
    else:
        write_parquet(path, table)
    return checksum(path)


def _duplicates(workspace: Workspace, admission: Admission, living: LiveTexts, removed: pa.Table) -> pa.Table:
    """The removed records of a shard. Ids that are whole numbers in the input are so here, to be joined with it."""
    shard = pa.array([admission.shard] * removed.num_rows, pa.string())
    columns = [removed.column("id"), shard, *(removed.column(name) for name in DUPLICATES.names[2:])]
    admissions = {a.shard: a for a in living.live}
    keepers = set(pc.unique(removed.column("keeper_shard")).to_pylist()) or {admission.shard}
    named = {"id": {admission.shard}, "keeper_id": keepers}
    schema = DUPLICATES
    for name, shards in named.items():
        kinds = {_id_type(workspace, admissions.get(each)) for each in shards}
        kind = kinds.pop() if len(kinds) == 1 else pa.string()
        schema = schema.set(schema.get_field_index(name), pa.field(name, kind))
    return pa.table(columns, schema=DUPLICATES).cast(schema)


def _id_type(workspace: Workspace, admission: Admission | None) -> pa.DataType:
    """The type of a shard's ids if it is one of whole numbers, which text gives back exactly; else text."""
    if admission is None:
        return pa.string()
    schema = _schema_of(workspace.raw(admission.shard, admission.fingerprint).table)
    field = column_field(schema, workspace.settings.id_column)
    return field.type if field is not None and pa.types.is_integer(field.type) else pa.string()


@lru_cache(maxsize=4096)
def _schema_of(table: Path) -> pa.Schema:
    """Of what was read of a content, which does not change."""
    return pq.read_schema(table)


def _quarantine(workspace: Workspace, admission: Admission, living: LiveTexts) -> tuple[pa.Table, dict[str, int]]:
    """All quarantined rows of a shard, and the counts, by reason, of those that its admission added.

    A record that was taken down is listed by its row alone, and so is every other row that carries its id: the
    content is withheld.
    """
    raw = workspace.raw(admission.shard, admission.fingerprint)
    admitted = AdmittedShard.read(workspace.admitted(admission))
    taken = np.flatnonzero(admitted.record_texts == REJECTED)
    gone = np.union1d(np.flatnonzero(admitted.record_texts == RETRACTED_ID), living.taken_down(admission))
    parts = [withheld(read_rejected(raw).cast(QUARANTINE), workspace.settings.id_column, living.buried)]
    reasons = {}
    if len(taken) or len(gone):
        records = read_records(raw)
        is_buried = pc.is_in(records.ids.take(pa.array(taken)), living.buried).to_numpy(zero_copy_only=False)
        shown: list[str | None] = [None] * len(taken)
        visible = np.flatnonzero(~is_buried)
        with pq.ParquetFile(raw.table) as file:
            for indices, rows in take_rows(file, records.positions[taken[visible]]):
                for index, place in enumerate(visible[indices].tolist()):
                    shown[place] = render_row(rows, index)
        contents = ((ID_TAKEN, taken, shown), (ID_RETRACTED, gone, [None] * len(gone)))
        for reason, at, rendered in contents:
            columns = [pa.array(records.rows[at]), pa.array([reason] * len(at)), pa.array(rendered, pa.string())]
            parts.append(pa.table(columns, schema=QUARANTINE))
            if len(at):
                reasons[reason] = len(at)
    return pa.concat_tables(parts).sort_by("row").combine_chunks(), reasons


def withheld(rejected: pa.Table, id_column: str, buried: pa.Array) -> pa.Table:
    """Rows that were quarantined when they were read, without the content of those whose id was taken down."""
    if not len(buried) or not rejected.num_rows:
        return rejected
    ids = pa.array([rendered_value(record, id_column) for record in rejected["record"].to_pylist()], pa.string())
    shown = pc.if_else(pc.is_in(ids, buried), None, rejected["record"])
    return rejected.set_column(rejected.schema.get_field_index("record"), "record", shown).cast(QUARANTINE)


def claim_output(workspace: Workspace) -> None:
    """Mark the folder as an output, before anything lies in it that could be taken for a source."""
    marker = workspace.output / MARKER
    if not marker.is_file():
        publish_text(marker, MARKER_TEXT)


def remove_unlisted_files(workspace: Workspace, generation: Generation, shards: Collection[str]) -> None:
    """Take files of other shards out of a generation's folder before it is published for the first time.

    They are of another workspace that published here, or of a killed run whose shards were retracted since.
    """
    wanted = {f"{shard}.parquet" for shard in shards}
    with storage_errors(workspace.output):
        for part in PARTS:
            for path in (workspace.output_generation(generation.number) / part).glob("*.parquet"):
                if path.name not in wanted:
                    path.unlink(missing_ok=True)


def publish_manifest(
    workspace: Workspace, generation: Generation, shards: list[tuple[Admission, str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """Write the manifest of a generation: (admission, source file name, published stats) of each shard.

    Nothing in it depends on when or in which run a shard was published.
    """
    settings = workspace.settings
    manifest = {
        "format": MANIFEST_FORMAT,
        "shards": [
            {
                "shard": admission.shard,
                "role": admission.role,
                "admission": admission.number,
                "source": source,
                "fingerprint": admission.fingerprint,
                "rows_in": stats["rows"],
                **{name: stats[name] for name in (*_COUNTS, "quarantined_by_reason", "checksums")},
            }
            for admission, source, stats in shards
        ],
        "totals": {
            name: sum(int(stats["rows" if name == "rows_in" else name]) for _, _, stats in shards)
            for name in ("rows_in", *_COUNTS)
        },
        "generation": generation.number,
        "rebuilt_admissions": generation.rebuilt,
        "mode": settings.mode,
        "threshold": settings.threshold,
        "floor": settings.floor,
        "keep": settings.keep,
        "keeper_rule": settings.keeper_rule,
        "guards": list(settings.guards),
        "against": settings.against,
        "settings_fingerprint": settings.fingerprint(),
        "model": "given with the data" if settings.embedding_column else settings.model,
        "precision": "given with the data" if settings.embedding_column else settings.precision,
        "model_fingerprint": workspace.ledger.meta("model_fingerprint") or "",
        "versions": {
            name: metadata.version(name)
            for name in ("dedup-assets", "dagster", "lancedb", "numpy", "pyarrow", "torch", "transformers")
        },
    }
    publish_json(workspace.output_generation(generation.number) / MANIFEST, manifest)
    return manifest


def switch_to(workspace: Workspace, generation: Generation) -> None:
    """Put a generation in force for readers: the link `current` is turned to it in one step."""
    with storage_errors(workspace.output):
        for part in PARTS:
            (workspace.output_generation(generation.number) / part).mkdir(parents=True, exist_ok=True)
    publish_link(workspace.output_current, f"generations/{generation.number:04d}")
    for name in (*PARTS, MANIFEST):
        publish_link(workspace.output / name, f"current/{name}")


def read_manifest(workspace: Workspace) -> dict[str, Any]:
    """The published manifest. Raises WorkspaceError before the first publication."""
    path = workspace.output_current / MANIFEST
    if not path.is_file():
        raise WorkspaceError(
            f"{workspace.output} holds no {MANIFEST}: nothing was published yet. Run `dedup-assets curate` first."
        )
    return json.loads(path.read_text(encoding="utf-8"))
