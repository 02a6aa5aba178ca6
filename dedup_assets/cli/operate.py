"""Commands that keep a workspace running: retract, recurate, watch, ui."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from dedup_assets.cli.options import (
    given_settings,
    json_option,
    print_json,
    reference_option,
    setting_option,
    settings_options,
    workspace_option,
)
from dedup_assets.unseen import visible


@click.command(short_help="Remove shards or records, and decide the others again.")
@click.argument("names", nargs=-1, required=True, metavar="SHARD|ID...")
@click.option("--vanished", is_flag=True, help="The files are gone and may return; without it nothing returns.")
@workspace_option
@json_option
def retract(names: tuple[str, ...], vanished: bool, workspace: str, as_json: bool) -> None:
    """Take shards, or single records, out of the corpus, and decide the others again.

    Names are shards, record ids or SHARD:ROW; write shard:NAME or id:NAME if a name could be both. The others are
    decided as if they had been curated alone: records that were removed for a retracted one come back. All changes
    are listed in OUTPUT/changes, and a new generation replaces the published one.

    Retracted shards and the ids of retracted records never return, in any file. With --vanished, only the shards
    are removed, and they may return.

    \b
    Examples:
      dedup-assets retract doc-00042 --workspace ws
      dedup-assets retract week-07 --vanished --workspace ws
    """
    from dedup_assets import api
    from dedup_assets.corpus.purging import REMAINS
    from dedup_assets.storage.ledger_schema import TAKEDOWN, VANISHED
    from dedup_assets.terminal import console as report
    from dedup_assets.terminal.live import live_progress

    with live_progress() as bars:
        reason = VANISHED if vanished else TAKEDOWN
        curation = api.retract(*names, workspace=workspace, reason=reason, listener=bars)
    if as_json:
        print_json(dict(curation.summary))
    else:
        report.print_summary(Console(), curation.summary)
        if not vanished:
            click.echo(REMAINS)


@click.command(short_help="Decide everything again, in one order over all records.")
@workspace_option
@json_option
def recurate(workspace: str, as_json: bool) -> None:
    """Decide everything again: new centroids, and one order over all records, independent of their arrival.

    Appending never changes earlier decisions; this command may, and lists the changes in OUTPUT/changes. The result
    is a new generation, which replaces the published one in one step. Nothing is embedded again. To run this on a
    schedule, set recurate_cron (see `dedup-assets watch --recurate`).

    \b
    Example:
      dedup-assets recurate --workspace ws
    """
    from dedup_assets import api
    from dedup_assets.terminal import console as report
    from dedup_assets.terminal.live import live_progress

    with live_progress() as bars:
        curation = api.recurate(workspace=workspace, listener=bars)
    if as_json:
        print_json(dict(curation.summary))
    else:
        report.print_summary(Console(), curation.summary)


@click.command(short_help="Watch sources: curate new files while the UI runs.")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@workspace_option
@reference_option
@setting_option("watch_seconds", "--every")
@setting_option("recurate_cron", "--recurate", "CRON")
@settings_options
@json_option
def watch(sources: tuple[str, ...], workspace: str, reference: bool, as_json: bool, **options: Any) -> None:
    """Set sources whose shards are curated automatically while `dedup-assets ui` runs.

    SOURCE is a folder (it may be empty), a glob, a file or an fsspec URL. New, changed and returned files are
    curated; a file that is still being written waits; a file that disappears from a folder with other files is
    retracted. Sources are stored in WORKSPACE/curation.toml, where they can also be removed. Without SOURCE, the
    watched sources are listed. The options are those of `dedup-assets curate`.

    \b
    Examples:
      dedup-assets watch incoming/ --workspace ws
      dedup-assets watch 's3://bucket/week-*.parquet' --every 300 --recurate '0 3 * * 0' --workspace ws
      dedup-assets watch benchmarks/ --reference --workspace ws
      dedup-assets ui --workspace ws
    """
    from dedup_assets import api
    from dedup_assets.storage.ledger_schema import CORPUS, REFERENCE
    from dedup_assets.storage.workspace import Workspace

    if not sources:
        Workspace.open(workspace)  # listing the watched sources must not create a workspace
    role = REFERENCE if reference else CORPUS
    watched = api.watch(*sources, workspace=workspace, role=role, **given_settings(options))
    if as_json:
        print_json({"watched": watched})
        return
    for source, files in watched.items():
        click.echo(visible(f"{source}: {files} shard {'file' if files == 1 else 'files'}"))
    click.echo("`dedup-assets ui` brings in what is there and what comes." if watched else "No source is watched.")


@click.command(short_help="The Dagster UI on a workspace.")
@click.option("--watch", "sources", multiple=True, metavar="SOURCE", help="As `dedup-assets watch` does; repeat.")
@workspace_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; the UI has no login.")
@click.option("--port", "-p", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port to listen on.")
def ui(sources: tuple[str, ...], workspace: str, host: str, port: int) -> None:
    """The Dagster webserver and daemon on this workspace, until Ctrl-C.

    Shows the seven assets, their partitions, lineage and runs, including those of `dedup-assets curate`. Assets
    can be materialised in the UI. While it runs, new files in watched sources are curated.

    \b
    Examples:
      dedup-assets ui --workspace ws
      dedup-assets ui --workspace ws --port 3001
      dedup-assets ui --watch incoming/ --workspace ws
    """
    from dedup_assets.automation.serve import serve
    from dedup_assets.storage.workspace import Workspace

    if sources:
        from dedup_assets import api

        api.watch(*sources, workspace=workspace)
    serve(Workspace.open(workspace), host, port, say=click.echo)
