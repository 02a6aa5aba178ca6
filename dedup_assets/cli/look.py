"""Commands that look at a curation and change nothing: explain, pairs, search, history, report."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from dedup_assets.cli.options import full_option, json_option, print_json, workspace_option


@click.command(short_help="Why a record was kept, removed or quarantined.")
@click.argument("record_id", metavar="ID")
@workspace_option
@full_option
@json_option
def explain(record_id: str, workspace: str, full: bool, as_json: bool) -> None:
    """Why record ID was kept, removed or quarantined: keeper, similarity, both texts, settings, run, and where it
    comes from: file, content, model, centroids.

    ID is what the id column holds, or SHARD:ROW for any row of a shard; the first row is 0.

    \b
    Examples:
      dedup-assets explain doc-00042 --workspace ws
      dedup-assets explain week-07:1234 --workspace ws --full
    """
    from dedup_assets.lookups.explain import explain as look_up
    from dedup_assets.storage.workspace import Workspace
    from dedup_assets.terminal import console as report

    answer = look_up(Workspace.open(workspace), record_id)
    if as_json:
        print_json(answer)
    else:
        report.print_explanation(Console(), answer, full)


@click.command(short_help="The matches nearest a similarity: how to choose a threshold.")
@click.option("--around", type=float, metavar="T", help="Similarity to look at.  [default: the threshold]")
@click.option("--record", metavar="ID", help="All matches of one record, those in cells of near-copies too.")
@click.option("--group", metavar="GROUP", help="All matches inside one group, as `explain` names it.")
@click.option("-n", "count", type=click.IntRange(min=1), default=20, show_default=True, help="How many matches.")
@workspace_option
@full_option
@json_option
def pairs(
    around: float | None,
    record: str | None,
    group: str | None,
    count: int,
    workspace: str,
    full: bool,
    as_json: bool,
) -> None:
    """The stored matches nearest similarity T, texts side by side: how to choose a threshold.

    Look at a few T between the floor and 1, and stop where the texts are no longer what you would call
    duplicates. `dedup-assets threshold` then decides anew. Matches in cells of near-copies are not listed one by
    one (--dense-limit of `dedup-assets curate`): --record and --group compare the vectors and find them.

    \b
    Examples:
      dedup-assets pairs --around 0.92 -n 20 --workspace ws
      dedup-assets pairs --around 0.97 -n 500 --json --workspace ws > look.json
      dedup-assets pairs --record doc-00042 --workspace ws
    """
    from dedup_assets.lookups.near import pairs_around
    from dedup_assets.lookups.unlisted import matches_of_group, matches_of_record, not_listed_words
    from dedup_assets.storage.workspace import Workspace
    from dedup_assets.terminal import console as report

    if sum(value is not None for value in (around, record, group)) > 1:
        raise click.UsageError("--around, --record and --group look at different matches: give one of them.")
    space = Workspace.open(workspace)
    settings = space.settings
    if record is not None:
        found = matches_of_record(space, record, count)
    elif group is not None:
        found = matches_of_group(space, group, count)
    else:
        found = pairs_around(space, settings.threshold if around is None else around, count)
    if as_json:
        print_json(found)
        return
    of_one = record is not None or group is not None
    unlisted = "" if of_one else not_listed_words(space)
    if found:
        report.print_pairs(Console(), found, settings.threshold, full)
    elif of_one:
        click.echo(f"No other text is as similar to it as the floor of {settings.floor}.")
    elif not unlisted:
        click.echo(f"No two distinct texts are as similar as the floor of {settings.floor}.")
    if unlisted:
        click.echo(unlisted)
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
    from dedup_assets.lookups.near import search as look_up
    from dedup_assets.storage.workspace import Workspace
    from dedup_assets.terminal import console as report

    hits = look_up(Workspace.open(workspace), text, count)
    if as_json:
        print_json(hits)
    elif hits:
        report.print_hits(Console(), hits, full)
    else:
        click.echo("The corpus holds no record yet.")


@click.command(short_help="All that happened to a shard.")
@click.argument("shard", metavar="SHARD")
@workspace_option
@json_option
def history(shard: str, workspace: str, as_json: bool) -> None:
    """All that happened to SHARD: read, embedded, admitted, matched, decided, published, retracted; in which run.

    SHARD is its key, as in the UI and in the names of the published files. Times are UTC.

    \b
    Examples:
      dedup-assets history week-07 --workspace ws
      dedup-assets history week-07 --json --workspace ws | jq '.events[].event'
    """
    from dedup_assets.lookups.history import shard_history
    from dedup_assets.storage.workspace import Workspace
    from dedup_assets.terminal import console as report

    answer = shard_history(Workspace.open(workspace), shard)
    if as_json:
        print_json(answer)
    else:
        report.print_history(Console(), answer)


@click.command(short_help="The curation as one HTML file.")
@click.option(
    "--out", "-o", type=click.Path(dir_okay=False), help="The file to write.  [default: WORKSPACE/report.html]"
)
@workspace_option
@json_option
def report(out: str | None, workspace: str, as_json: bool) -> None:
    """The curation as one HTML file that opens without a server: totals, checks, the curve of removals by
    threshold, the largest groups with their texts, shards, settings, lineage.

    The same workspace gives the same bytes.

    \b
    Examples:
      dedup-assets report --workspace ws
      dedup-assets report --workspace ws --out curation.html
    """
    from dedup_assets.automation.instance import recorded_checks
    from dedup_assets.report.page import report_page
    from dedup_assets.storage.publish import publish_text
    from dedup_assets.storage.workspace import Workspace

    space = Workspace.open(workspace)
    path = Path(out).expanduser().absolute() if out else space.report
    publish_text(path, report_page(space, recorded_checks(space)))
    if as_json:
        print_json({"report": str(path)})
    else:
        click.echo(path)
