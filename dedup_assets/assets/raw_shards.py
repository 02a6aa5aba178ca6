"""Raw shards: parsed rows, valid records with ids and text hashes, and what had to be quarantined."""

import dataclasses
import time
from pathlib import PurePosixPath

import dagster as dg

from dedup_assets.assets.stage import StageRun, shard_asset, stage_run
from dedup_assets.corpus.changes import changed_content_error, has_changed, source_file, source_state
from dedup_assets.errors import ShardError, SourceError
from dedup_assets.ingest.listing import refuse_led_out
from dedup_assets.ingest.record_spec import ingest_spec
from dedup_assets.ingest.records import ingest_shard
from dedup_assets.ingest.source_files import content_fingerprint
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.ledger import Completion, Shard
from dedup_assets.storage.publish import publish_folder


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
        for key in run.shards:
            with run.isolating(key):
                run.spent.rows += _ingest(run, key, registered.get(key), done.get(key))
            run.progress.advance(1)


def _ingest(run: StageRun, key: str, shard: Shard | None, done: Completion | None) -> int:
    """Read one shard; returns the number of rows, 0 if it was read before.

    Other content than was read before is read beside it. It takes the old content's place once it is admitted;
    until then, and if it cannot be read, the old content is in force.
    """
    if shard is None:
        raise ShardError(
            f"Shard {key!r} is a partition but no source is registered for it in {run.workspace.root}: "
            "register its file with `dedup-assets register SOURCE`, or delete the partition."
        )
    source = source_file(shard)
    if run.workspace.settings.follow_links == "inside":
        refuse_led_out(shard.uri, [*run.workspace.settings.sources, *run.workspace.settings.reference_sources])
    started = time.perf_counter()
    if done is not None:
        try:
            if not has_changed(shard, done):
                run.ledger.recover(run.stage, [key])
                return 0
        except SourceError:
            # What was read is on disk: whether a shard whose file is gone should go too is not decided here.
            return 0
        if run.workspace.settings.changed_shards == "refuse":
            raise changed_content_error(shard)
    state = source_state(shard)
    fingerprint = content_fingerprint(source)
    settings = run.workspace.settings
    dimension = run.ledger.meta("dimension") if settings.embedding_column else None
    spec = dataclasses.replace(ingest_spec(settings), dimension=int(dimension) if dimension else None)
    target = run.workspace.raw(key, fingerprint).folder
    with publish_folder(target) as temporary:
        report = ingest_shard(source, temporary, spec)
        if source_state(shard) != state and content_fingerprint(source) != fingerprint:
            raise ShardError(
                f"Shard {key}: {shard.uri} was written to while it was read, so what was read may be of two contents. "
                "Nothing of it is used; run the same command again once the file is complete."
            )
    run.workspace.settle()
    if report.dimension is not None:
        run.ledger.settle_meta("dimension", str(report.dimension))
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
    run.complete(key, fingerprint, stats, time.perf_counter() - started)
    return report.rows
