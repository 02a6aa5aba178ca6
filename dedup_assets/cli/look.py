"""Commands that look at a curation and change nothing: explain, pairs, search."""

from __future__ import annotations

import click
from rich.console import Console

from dedup_assets.cli.options import full_option, json_option, print_json, workspace_option


@click.command(short_help="Why a record was kept, removed or quarantined.")
@click.argument("record_id", metavar="ID")
@workspace_option
@full_option
@json_option
def explain(record_id: str, workspace: str, full: bool, as_json: bool) -> None:
    """Why record ID was kept, removed or quarantined: keeper, similarity, both texts, settings, run.

    ID is what the id column holds, or SHARD:ROW for any row of a shard; the first row is 0.

    \b
    Examples:
      dedup-assets explain doc-00042 --workspace ws
      dedup-assets explain week-07:1234 --workspace ws --full
    """
    from dedup_assets.report import console as report
    from dedup_assets.report.lookup import explain as look_up
    from dedup_assets.storage.workspace import Workspace

    answer = look_up(Workspace.open(workspace), record_id)
    if as_json:
        print_json(answer)
    else:
        report.print_explanation(Console(), answer, full)


@click.command(short_help="The matches nearest a similarity: how to choose a threshold.")
@click.option("--around", type=float, metavar="T", help="Similarity to look at.  [default: the threshold]")
@click.option("-n", "count", type=click.IntRange(min=1), default=20, show_default=True, help="How many matches.")
@workspace_option
@full_option
@json_option
def pairs(around: float | None, count: int, workspace: str, full: bool, as_json: bool) -> None:
    """The stored matches nearest similarity T, texts side by side: how to choose a threshold.

    Look at a few T between the floor and 1, and stop where the texts are no longer what you would call
    duplicates. `dedup-assets threshold` then decides anew. Matches in cells of near-copies are not listed one by
    one (--dense-limit of `dedup-assets curate`) and so not shown.

    \b
    Examples:
      dedup-assets pairs --around 0.92 -n 20 --workspace ws
      dedup-assets pairs --around 0.97 -n 500 --json --workspace ws > look.json
    """
    from dedup_assets.report import console as report
    from dedup_assets.report.lookup import pairs_around
    from dedup_assets.storage.workspace import Workspace

    space = Workspace.open(workspace)
    settings = space.settings
    found = pairs_around(space, settings.threshold if around is None else around, count)
    if as_json:
        print_json(found)
        return
    if found:
        report.print_pairs(Console(), found, settings.threshold, full)
    else:
        click.echo(f"No two distinct texts are as similar as the floor of {settings.floor}.")
    if around is not None and around < settings.floor:
        click.echo(f"Matches below the floor of {settings.floor} are not stored.")


@click.command(short_help="The records most like a text.")
@click.argument("text", metavar="TEXT")
@click.option("-k", "count", type=click.IntRange(min=1), default=10, show_default=True, help="How many records.")
@workspace_option
@full_option
@json_option
def search(text: str, count: int, workspace: str, full: bool, as_json: bool) -> None:
    """The records of the corpus most like TEXT, from the LanceDB table, kept and removed ones alike.

    \b
    Examples:
      dedup-assets search 'how do I reset my password' -k 5 --workspace ws
      dedup-assets search "$(cat draft.txt)" --json --workspace ws
    """
    from dedup_assets.report import console as report
    from dedup_assets.report.lookup import search as look_up
    from dedup_assets.storage.workspace import Workspace

    hits = look_up(Workspace.open(workspace), text, count)
    if as_json:
        print_json(hits)
    elif hits:
        report.print_hits(Console(), hits, full)
    else:
        click.echo("The corpus holds no record yet.")
