"""Raw shards: parsed rows, valid records with ids and text hashes, and what had to be quarantined."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import dagster as dg

from dedup_assets.ahead import ahead
from dedup_assets.assets.stage import StageRun, shard_asset, stage_run
from dedup_assets.corpus.changes import changed_content_error, has_changed, source_file, source_state
from dedup_assets.errors import ShardError, SourceError
from dedup_assets.ingest.listing import refuse_led_out
from dedup_assets.ingest.record_spec import IngestSpec, ingest_spec
from dedup_assets.ingest.records import IngestReport, ingest_shard
from dedup_assets.ingest.source_files import content_fingerprint
from dedup_assets.resources.memory import file_threads
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.ledger import Completion, Shard
from dedup_assets.storage.publish import publish_folder
from dedup_assets.storage.workspace import Workspace


@shard_asset(
    deps=["source_files"],
    kinds={"parquet"},
    description="One input file as validated records: row numbers, ids, text hashes. Rows that cannot be "
    "records go to quarantine with their reason.",
)
def raw_shards(context: dg.AssetExecutionContext, workspace: WorkspaceResource) -> None:
    """Read, validate and publish each shard; a shard that cannot be read does not stop the others."""
    with stage_run(context, workspace) as run:
        registered = {shard.key: shard for shard in run.ledger.shards()}
        done = run.ledger.completions(run.stage)
        run.progress.total(len(run.shards), "shards")
        due: list[Shard] = []
        for key in run.shards:
            with run.isolating(key):
                shard = _due(run, key, registered.get(key), done.get(key))
                due += [] if shard is None else [shard]
            if not due or due[-1].key != key:
                run.progress.advance(1)
        # The first valid vector determines the dimension of all others; until then, shards are read one by one.
        while due and run.workspace.settings.embedding_column and not run.ledger.meta("dimension"):
            _read(run, due[:1], 1)
            del due[0]
        _read(run, due, file_threads(run.workspace.settings))


def _due(run: StageRun, key: str, shard: Shard | None, done: Completion | None) -> Shard | None:
    """The shard if it must be read; None if it was read before."""
    if shard is None:
        raise ShardError(
            f"Shard {key!r} is a partition but no source is registered for it in {run.workspace.root}: "
            "register its file with `dedup-assets register SOURCE`, or delete the partition."
        )
    if run.workspace.settings.follow_links == "inside":
        refuse_led_out(shard.uri, [*run.workspace.settings.sources, *run.workspace.settings.reference_sources])
    if done is not None:
        try:
            if not has_changed(shard, done):
                run.ledger.recover(run.stage, [key])
                return None
        except SourceError:
            # The stored reading stays valid: whether a shard without its file is retracted is not decided here.
            return None
        if run.workspace.settings.changed_shards == "refuse":
            raise changed_content_error(shard)
    return shard


def _read(run: StageRun, shards: Sequence[Shard], threads: int) -> None:
    """Read shards, several at a time, and record them in their order.

    If a shard's file changed, the new content is read in addition to the old. It replaces the old content when it is
    admitted; until then, and if it cannot be read, the old content stays in force.
    """
    settings = run.workspace.settings
    dimension = run.ledger.meta("dimension") if settings.embedding_column else None
    spec = dataclasses.replace(ingest_spec(settings), dimension=int(dimension) if dimension else None)
    with ahead(partial(_ingest, run.workspace, spec), shards, threads) as readings:
        for shard, reading in readings:
            with run.isolating(shard.key):
                fingerprint, report, stats, seconds = reading()
                run.workspace.settle()
                if report.dimension is not None:
                    run.ledger.settle_meta("dimension", str(report.dimension))
                run.complete(shard.key, fingerprint, stats, seconds)
                run.spent.rows += report.rows
            run.progress.advance(1)


def _ingest(
    workspace: Workspace, spec: IngestSpec, shard: Shard, look: Callable[[], None]
) -> tuple[str, IngestReport, dict[str, Any], float]:
    """Read and publish one shard; returns the fingerprint of its content, the report, the stats and the seconds."""
    started = time.perf_counter()
    source = source_file(shard)
    state = source_state(shard)
    fingerprint = content_fingerprint(source)
    with publish_folder(workspace.raw(shard.key, fingerprint).folder) as temporary:
        report = ingest_shard(source, temporary, spec, look)
        if source_state(shard) != state and content_fingerprint(source) != fingerprint:
            raise ShardError(
                f"Shard {shard.key}: {shard.uri} was written to while it was read, so what was read may be of two "
                "contents. Nothing of it is used; run the same command again once the file is complete."
            )
    stats = {
        "rows": report.rows,
        "records": report.records,
        "quarantined": sum(report.quarantined.values()),
        "quarantined_by_reason": report.quarantined,
        "bytes": report.bytes,
        "schema": report.schema,
        "source_file": shard.uri,
        "source_name": shard.name or PurePosixPath(shard.uri).name,
        "content_fingerprint": fingerprint,
        "source_state": state,
    }
    return fingerprint, report, stats, time.perf_counter() - started
