"""Metadata of a materialisation in Dagster: numbers for its charts, tables, links, schemas, lineage and pictures.

It describes the recorded results of a finished stage; no other stage uses its values.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from dedup_assets.assets.table_columns import column_lineage, table_schema
from dedup_assets.corpus.data_versions import place_version, place_version_in
from dedup_assets.corpus.output import MANIFEST, read_manifest
from dedup_assets.lookups import measures
from dedup_assets.lookups.corpus import Corpus
from dedup_assets.lookups.groups import largest_groups
from dedup_assets.report import pictures
from dedup_assets.storage.ledger import REFERENCE, Admission, Completion, Generation
from dedup_assets.storage.tables import PAIRS, RECORD_DECISIONS
from dedup_assets.storage.workspace import Workspace

LATEST = 5
"""Number of admissions of an input version that are listed; the digest covers all, and the manifest lists all."""

GROUPS = 5
"""Groups of a shard shown in the UI, each with the removed record least similar to the keeper."""

SHOWN_TEXT = 160
"""Characters of a text in a table of the UI, which has narrow columns."""

PICTURE_BUDGET = 1_000_000
"""Records and matches up to which a run draws the pictures of the whole corpus: a second of work. For a larger corpus
`dedup-assets report` draws them."""

TABLE_OF_TEXTS = "largest_groups"
"""The only metadata entry with texts of records, and a column by which our tables are recognised."""

TEXT_COLUMN = "removed_least_like_it"

DENSE_TEXT = 100
"""Weight of a text of a dense cell in that budget: at every threshold it is compared with its keepers again."""

INTERNAL = ("schema", "source_state", "quarantined_by_reason")
"""Stats that are shown in another form or serve only the next run."""


class RunMetadata:
    """Metadata of the finished shards of one run of one stage: iterates over (shard, metadata).

    Parameters
    ----------
    workspace : Workspace
    stage : str
    shards : sequence of str
        Shards of the run. Metadata of the whole corpus is attached to the one admitted last.
    """

    def __init__(self, workspace: Workspace, stage: str, shards: Sequence[str]) -> None:
        self._workspace = workspace
        self._stage = stage
        self._began = _moment(workspace)
        self._done = workspace.ledger.completions(stage)
        self._live = workspace.ledger.live_admissions()
        self._references = [a for a in self._live if a.role == REFERENCE]
        self._admissions = {a.shard: a for a in self._live}
        admitted = [self._admissions[shard] for shard in shards if shard in self._admissions]
        self._last = max(admitted, key=lambda a: a.number).shard if admitted else None
        self._shards = [shard for shard in shards if shard in self._done]

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for shard in self._shards:
            yield shard, self._of(shard)

    def _of(self, shard: str) -> dict[str, Any]:
        done = self._done[shard]
        settings = self._workspace.settings
        metadata: dict[str, Any] = {
            "seconds": round(done.seconds, 4),
            "settings_fingerprint": settings.fingerprint(),
            "basis": done.input_version,
            "computed_in_run": dg.MetadataValue.dagster_run(done.run_id) if done.run_id else "outside a run",
        }
        for name, value in done.stats.items():
            if name not in INTERNAL:
                metadata[name] = _value(name, value)
        rows = done.stats.get("rows")
        if isinstance(rows, int):
            metadata["dagster/partition_row_count"] = rows
            if done.seconds > 0:
                metadata["rows_per_second"] = round(rows / done.seconds, 1)
        metadata |= _reasons(done.stats.get("quarantined_by_reason", {}))
        metadata |= self._columns(done)
        describe = {
            "cluster_partitions": self._cells,
            "pairwise_similarities": self._matches,
            "duplicate_ids": self._decisions,
            "deduplicated_dataset": self._published,
        }.get(self._stage)
        if describe is not None and shard in self._admissions:
            metadata |= self._basis(self._admissions[shard])
            try:
                metadata |= describe(self._admissions[shard])
            except Exception as problem:
                # Another process retracted, decided or pruned meanwhile, so the reads mix two states; the result of
                # this run is valid anyway.
                if not isinstance(problem, FileNotFoundError) and _moment(self._workspace) == self._began:
                    raise
                metadata["not_described"] = f"what it rests on is no longer there: {type(problem).__name__}: {problem}"
        return metadata

    # -- input ----------------------------------------------------------------------------------------

    @cached_property
    def _generation(self) -> Generation | None:
        return self._workspace.ledger.generation()

    @cached_property
    def _digests(self) -> list[bytes]:
        """Entry n is the digest of the first n live admissions."""
        digests = [b""]
        for a in self._live:
            digests.append(_chained(digests[-1], a))
        return digests

    def _basis(self, a: Admission) -> dict[str, Any]:
        """The shards that this one was compared with: their number, the last ones, and a digest of all.

        These are the shards admitted up to it. Decisions also depend on all shards of the rebuilt order and on every
        reference.
        """
        reach, references = a.number, []
        if self._stage in ("duplicate_ids", "deduplicated_dataset") and self._generation is not None:
            reach = max(reach, self._generation.rebuilt)
            references = [b for b in self._references if b.number > reach]
        count = bisect_right(self._live, reach, key=lambda b: b.number)
        digest = self._digests[count]
        for b in references:
            digest = _chained(digest, b)
        latest = [*self._live[max(0, count - LATEST) : count], *references][-LATEST:]
        return {
            "admission": a.number,
            "codebook": a.codebook,
            "basis_shards": count + len(references),
            "basis_digest": digest.hex(),
            "basis_latest_shards": dg.MetadataValue.table(
                [
                    dg.TableRecord(
                        {"admission": b.number, "shard": b.shard, "role": b.role, "fingerprint": b.fingerprint}
                    )
                    for b in reversed(latest)
                ]
            ),
            "basis_manifest_file": dg.MetadataValue.path(self._workspace.output / MANIFEST),
        }

    # -- columns --------------------------------------------------------------------------------------

    def _columns(self, done: Completion) -> dict[str, Any]:
        """Column schema and lineage of the stage's result for a shard."""
        raw = self._raw_schema(done.shard)
        schema: pa.Schema | None = {
            "raw_shards": raw,
            "pairwise_similarities": PAIRS,
            "duplicate_ids": RECORD_DECISIONS,
            "deduplicated_dataset": raw,
        }.get(self._stage)
        if self._stage == "embeddings" and "dimension" in done.stats:
            item = pa.from_numpy_dtype(done.stats["dtype"])
            text = pa.string()
            vector = pa.list_(item, done.stats["dimension"])
            schema = pa.schema([("id", text), ("shard", text), ("text_hash", text), ("vector", vector)])
        if schema is None or raw is None:
            return {}
        lineage = column_lineage(self._stage, raw.names, self._workspace.settings)
        columns: dict[str, Any] = {"dagster/column_schema": table_schema(self._stage, schema, lineage)}
        return columns | ({"dagster/column_lineage": lineage} if lineage else {})

    def _raw_schema(self, shard: str) -> pa.Schema | None:
        """The input's own columns; None if the files of the read content are gone."""
        done = self._read.get(shard)
        path = self._workspace.raw(shard, done.input_version).table if done else None
        return pq.read_schema(path) if path and path.is_file() else None

    @cached_property
    def _read(self) -> dict[str, Completion]:
        return self._workspace.ledger.completions("raw_shards")

    # -- stages ---------------------------------------------------------------------------------------

    def _cells(self, a: Admission) -> dict[str, Any]:
        sizes = measures.cell_sizes(self._workspace, [a], a.codebook)
        return {
            "cell_skew": round(sizes.skew, 3),
            "largest_cell": int(sizes.homes.max(initial=0)),
            "bytes_written": _bytes(self._workspace.cells(self._workspace.ledger.codebooks()[a.codebook], a)),
            "cell_sizes": _picture(pictures.of_cells(sizes)),
        }

    def _matches(self, a: Admission) -> dict[str, Any]:
        return {"threshold": self._workspace.settings.threshold, "bytes_written": _bytes(self._workspace.pairs(a))}

    def _decisions(self, a: Admission) -> dict[str, Any]:
        generation = self._generation
        if generation is None or not self._done[a.shard].stats.get("rows"):
            return self._model()
        found = measures.best_matches(self._workspace, generation, a)
        metadata = {
            **self._model(),
            "bytes_written": _bytes(self._workspace.decisions(generation.number, "records", a.shard)),
            "best_matches": _picture(pictures.of_best_matches(found, self._workspace.settings)),
        }
        groups = largest_groups(self._corpus, [a], GROUPS, 1)
        if groups:
            metadata[TABLE_OF_TEXTS] = self._group_table(groups)
        if a.shard == self._last:
            metadata |= self._corpus_curve()
        return metadata

    def _corpus_curve(self) -> dict[str, Any]:
        """The share of the corpus that other thresholds would remove, if it takes about a second."""
        admissions = measures.decided_admissions(self._workspace)
        matched = self._workspace.ledger.completions("pairwise_similarities")
        work = sum(a.records for a in admissions) + sum(
            done.stats.get("matches", 0) + DENSE_TEXT * done.stats.get("texts_in_dense_cells", 0)
            for done in matched.values()
        )
        generation = self._generation
        if generation is None or work > PICTURE_BUDGET:
            return {"removed_by_threshold": "a large corpus: `dedup-assets report` draws it"}
        found = measures.removals_by_threshold(self._workspace, generation)
        return {"removed_by_threshold": _picture(pictures.of_removals(found, self._workspace.settings))}

    def _group_table(self, groups: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
        return dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "records_removed": group["size"],
                        "kept": f"{group['keeper_id']} ({group['keeper_shard']}): {_short(group['keeper_text'])}",
                        TEXT_COLUMN: f"{member['id']} ({member['shard']}): {_short(member['text'])}",
                        "similarity": round(member["similarity"], 4),
                    }
                )
                for group in groups
                for member in group["members"]
            ]
        )

    @cached_property
    def _corpus(self) -> Corpus:
        return Corpus(self._workspace)

    def _published(self, a: Admission) -> dict[str, Any]:
        files = [value for name, value in self._done[a.shard].stats.items() if name.endswith("_file")]
        metadata = {**self._model(), "bytes_written": sum(_bytes(Path(file)) for file in files)}
        is_here = place_version_in(self._done[a.shard].input_version) == place_version(self._workspace)
        if a.shard == self._last and is_here:  # elsewhere: another output was set since
            totals = read_manifest(self._workspace)["totals"]
            removed = totals["removed_exact"] + totals["removed_semantic"]
            metadata |= {
                "corpus_rows": totals["rows_in"],
                "corpus_kept": totals["kept"],
                "corpus_removed": removed,
                "corpus_duplicate_ratio": round(removed / totals["rows_in"], 4) if totals["rows_in"] else 0.0,
            }
        return metadata

    def _model(self) -> dict[str, Any]:
        settings = self._workspace.settings
        if settings.embedding_column:
            return {"model": f"given with the data (column {settings.embedding_column})"}
        return {
            "model": settings.model,
            "precision": settings.precision,
            "model_fingerprint": self._workspace.ledger.meta("model_fingerprint") or "",
        }


def _moment(workspace: Workspace) -> tuple[object, ...]:
    """A value that changes with every retraction, admission and new decision."""
    standing = workspace.ledger.standing()
    return standing.retractions, len(standing.admissions), workspace.ledger.generation()


def _chained(digest: bytes, a: Admission) -> bytes:
    """The digest extended by one admission."""
    step = f"{a.number} {a.shard} {a.role} {a.fingerprint}".encode()
    return hashlib.blake2b(digest + step, digest_size=16).digest()


def _reasons(by_reason: Mapping[str, int]) -> dict[str, Any]:
    """Quarantined rows by reason, each a number for Dagster's charts."""
    return {f"quarantined: {reason}": count for reason, count in sorted(by_reason.items())}


def _picture(picture: pictures.Picture) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"{picture.words}\n\n![{picture.words}]({picture.plot.data_uri()})")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_TEXT else text[:SHOWN_TEXT] + " …"


def _bytes(path: Path) -> int:
    """Size of a file, or of all files of a folder; 0 if it does not exist."""
    files = path.iterdir() if path.is_dir() else [path] if path.is_file() else []
    return sum(file.stat().st_size for file in files)


def _value(name: str, value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return dg.MetadataValue.path(value) if name.endswith(("_file", "_folder")) else value
    return dg.MetadataValue.json(value)
