"""Commands that keep a workspace running: ui."""

from __future__ import annotations

import click

from dedup_assets.cli.options import workspace_option


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
