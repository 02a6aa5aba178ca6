"""Commands that look after a workspace: audit, maintain, prune."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.filesize import decimal

from dedup_assets.cli.options import json_option, print_json, workspace_option
from dedup_assets.errors import some

if TYPE_CHECKING:
    from dedup_assets.corpus.maintenance import Freed


@click.command(short_help="Check the guarantees on the published files.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Records, and removals, in each sample.  [default: 1000]",
)
@workspace_option
@json_option
def audit(sample: int | None, workspace: str, as_json: bool) -> None:
    """Check the guarantees on the published files, and change nothing.

    Recounts rows from the published files. Compares N records with the whole corpus by brute force: every match
    found must be stored, and none may be between two kept records. Computes the similarity of N removed records
    to their keepers again. Warns if new centroids would save time or shards are waiting. The UI shows the same
    checks after each run; here they cover everything, and the result appears in the UI too.

    The exit status is 1 if a check fails; warnings are not failures.

    \b
    Examples:
      dedup-assets audit --workspace ws
      dedup-assets audit --sample 5000 --json --workspace ws | jq .passed
    """
    from dedup_assets import api
    from dedup_assets.terminal.audit import audit_as_json, outcome, print_audit

    checks = api.audit(workspace=workspace, sample=sample or 0)
    if as_json:
        print_json(audit_as_json(checks))
    else:
        print_audit(Console(), checks)
    if any(outcome(check) == "FAILED" for check in checks):
        sys.exit(1)


@click.command(short_help="Delete data that is no longer needed.")
@click.option("--purge", is_flag=True, help="Delete the content of taken-down shards and records from every file.")
@workspace_option
@json_option
def maintain(purge: bool, workspace: str, as_json: bool) -> None:
    """Delete data that is no longer needed, and compact the table of embeddings. No result changes.

    Deletes superseded versions of the table (after an hour), vectors of texts without records, cells of retired
    centroids, readings and matches of retracted content, and leftovers of killed runs. Waits for running stages.
    The job maintain_store in the UI does the same.

    With --purge, texts and vectors of taken-down shards and records are deleted from the workspace for good: only
    the ids of their rows are kept, the table of embeddings is rewritten, and all past generations, report.html and
    the tables of texts in Dagster's history are deleted. Ids are kept because they must never return. Centroids
    are kept too: a centroid is the mean of many vectors, or the vector itself for a cell with one text.

    \b
    Examples:
      dedup-assets maintain --workspace ws
      dedup-assets retract doc-00042 --workspace ws && dedup-assets maintain --purge --workspace ws
    """
    from dedup_assets import api
    from dedup_assets.corpus.maintenance import maintain as give_back
    from dedup_assets.storage.workspace import Workspace

    _report(api.purge(workspace=workspace) if purge else give_back(Workspace.open(workspace)), as_json)


@click.command(short_help="Update Dagster's lists from the workspace.")
@workspace_option
@json_option
def sync(workspace: str, as_json: bool) -> None:
    """Add missing partitions to Dagster and report missing materialisations, after assets were wiped or partitions
    deleted in the UI, or for another instance (DAGSTER_HOME). Every `curate` does this too. Also checks the files of
    all shards: the UI then shows as stale what a `curate` would process. Lists the partitions that are not shards of
    this workspace.

    \b
    Example:
      dedup-assets sync --workspace ws
    """
    from dedup_assets import api

    found = api.sync(workspace=workspace)
    reported = {stage: len(shards) for stage, shards in found.unreported.items()}
    if as_json:
        void = {stage: len(shards) for stage, shards in found.void.items()}
        print_json(
            {
                "added": found.missing,
                "reported": reported,
                "void": void,
                "changed": found.changed,
                "strangers": found.strangers,
            }
        )
        return
    click.echo(f"{len(found.missing)} partitions added, {sum(reported.values())} materialisations reported")
    if found.missing:
        click.echo("A partition that is deleted comes back: `dedup-assets retract SHARD` takes its shard back.")
    if found.void:
        withdrawn = sorted({shard for shards in found.void.values() for shard in shards})
        click.echo(
            f"{some(withdrawn, 10)} are to be brought in again and show as stale: `dedup-assets curate` does it."
        )
    if found.changed:
        click.echo(
            f"The files of {some(found.changed, 10)} changed since they were read: `dedup-assets curate SOURCE`."
        )
    if found.strangers:
        click.echo(
            f"{len(found.strangers)} partitions are no shards of this workspace: {some(found.strangers, 10)}. They are "
            "left alone; delete them in the UI if nobody else uses them."
        )


@click.command(short_help="Delete past published generations.")
@click.option(
    "--keep", type=click.IntRange(min=0), default=0, show_default=True, help="Past generations to keep, the latest."
)
@workspace_option
@json_option
def prune(keep: int, workspace: str, as_json: bool) -> None:
    """Delete the published files and decisions of generations before the current one.

    The lists of changes in OUTPUT/changes are kept. Programs that still read an old generation lose it.

    \b
    Examples:
      dedup-assets prune --workspace ws
      dedup-assets prune --keep 2 --workspace ws
    """
    from dedup_assets.corpus.maintenance import prune as remove_past
    from dedup_assets.storage.workspace import Workspace

    _report(remove_past(Workspace.open(workspace), keep), as_json)


def _report(freed: Freed, as_json: bool) -> None:
    if as_json:
        removed = {kind: {"count": freed.counts[kind], "bytes": freed.bytes[kind]} for kind in freed.counts}
        print_json({"bytes_freed": freed.total, "removed": removed, "waits": freed.waits})
        return
    for kind, count in freed.counts.items():
        click.echo(f"{kind}: {count} removed, {decimal(freed.bytes[kind])}")
    click.echo(f"{decimal(freed.total)} freed")
    if freed.waits:
        click.echo(freed.waits)
