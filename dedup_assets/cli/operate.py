"""Commands that keep a workspace running: retract, ui."""

from __future__ import annotations

import click
from rich.console import Console

from dedup_assets.cli.options import json_option, print_json, workspace_option


@click.command(short_help="Take shards or records back, and decide anew what is left.")
@click.argument("names", nargs=-1, required=True, metavar="SHARD|ID...")
@click.option("--vanished", is_flag=True, help="The files are gone and may return; without it nothing returns.")
@workspace_option
@json_option
def retract(names: tuple[str, ...], vanished: bool, workspace: str, as_json: bool) -> None:
    """Take shards, or single records, out of the corpus, and decide anew what is left.

    Names are shards, record ids or SHARD:ROW; write shard:NAME or id:NAME where one could be both. What is left
    is decided as if it had been curated alone: records that had gone for a retracted one come back. Everything
    that changes is listed in OUTPUT/changes, and a new generation takes the place of the published one.

    What is taken down never returns: neither the shard, nor its records' ids in whatever file they come. With
    --vanished only the shards go, and may return.

    
    Examples:
      dedup-assets retract doc-00042 --workspace ws
      dedup-assets retract week-07 --vanished --workspace ws
    """
    from dedup_assets import api
    from dedup_assets.report import console as report
    from dedup_assets.report.live import live_progress
    from dedup_assets.storage.ledger_schema import TAKEDOWN, VANISHED

    with live_progress() as bars:
        reason = VANISHED if vanished else TAKEDOWN
        curation = api.retract(*names, workspace=workspace, reason=reason, listener=bars)
    if as_json:
        print_json(dict(curation.summary))
    else:
        report.print_summary(Console(), curation.summary)


@click.command(short_help="The Dagster UI on a workspace.")
@workspace_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; the UI has no login.")
@click.option("--port", "-p", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port to listen on.")
def ui(workspace: str, host: str, port: int) -> None:
    """The Dagster webserver and daemon on this workspace, until Ctrl-C.

    Shows the seven assets, their partitions, lineage and runs; those of `dedup-assets curate` too. Assets can
    be materialised from there.

    \b
    Examples:
      dedup-assets ui --workspace ws
      dedup-assets ui --workspace ws --port 3001
    """
    from dedup_assets.automation.serve import serve
    from dedup_assets.storage.workspace import Workspace

    serve(Workspace.open(workspace), host, port, say=click.echo)
