"""Commands that look at a curation and change nothing: explain, pairs, search, outliers, sample, history, report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click
from rich.console import Console

from dedup_assets.cli.options import full_option, json_option, print_json, workspace_option

if TYPE_CHECKING:
    from dedup_assets.lookups.answers import Explanation, History, Hits, Pairs, Ranked


def _print(answer: Explanation | History | Hits | Pairs | Ranked, as_json: bool, full: bool = False) -> None:
    if as_json:
        print_json(answer if isinstance(answer, dict) else answer.to_pylist())
    else:
        answer.show(Console(), full)


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
    from dedup_assets.api import open_curation

    _print(open_curation(workspace).explain(record_id), as_json, full)


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
    duplicates. `dedup-assets threshold` then decides again. Matches in cells of near-copies are not listed one by
    one (--dense-limit of `dedup-assets curate`): --record and --group compare the vectors and find them.

    \b
    Examples:
      dedup-assets pairs --around 0.92 -n 20 --workspace ws
      dedup-assets pairs --around 0.97 -n 500 --json --workspace ws > look.json
      dedup-assets pairs --record doc-00042 --workspace ws
    """
    from dedup_assets.api import open_curation

    if sum(value is not None for value in (around, record, group)) > 1:
        raise click.UsageError("--around, --record and --group look at different matches: give one of them.")
    result = open_curation(workspace)
    if record is None and group is None:
        found = result.pairs_around(around, count)
    else:
        found = result.matches(record=record, group=group, count=count)
    _print(found, as_json, full)


@click.command(short_help="The records most similar to a text.")
@click.argument("text", metavar="TEXT")
@click.option("-k", "count", type=click.IntRange(min=1), default=10, show_default=True, help="How many records.")
@workspace_option
@full_option
@json_option
def search(text: str, count: int, workspace: str, full: bool, as_json: bool) -> None:
    """The records of the corpus that are most similar to TEXT, from the LanceDB table, both kept and removed ones.

    \b
    Examples:
      dedup-assets search 'how do I reset my password' -k 5 --workspace ws
      dedup-assets search "$(cat draft.txt)" --json --workspace ws
    """
    from dedup_assets.api import open_curation

    _print(open_curation(workspace).search(text, count), as_json, full)


_out_option = click.option(
    "--out",
    "-o",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the records with their own columns to a .parquet, .jsonl or .csv file.",
)


def _print_or_save(find: Callable[[], Ranked], out: str | None, as_json: bool, full: bool) -> None:
    """Show records, or write them to a file and print its name. Unknown file endings are refused before the work."""
    if out is None:
        _print(find(), as_json, full)
        return
    from pathlib import Path

    from dedup_assets.lookups.record_files import require_known_kind

    require_known_kind(Path(out))
    found = find()
    path = found.save(out)
    if as_json:
        print_json({"records": len(found), "file": str(path)})
        return
    click.echo(path)
    for remark in found.remarks:
        click.echo(remark, err=True)


@click.command(short_help="Kept records that are least similar to all others.")
@click.option("-n", "count", type=click.IntRange(min=1), default=20, show_default=True, help="How many records.")
@click.option(
    "--fraction", type=click.FloatRange(0, 1), metavar="SHARE", help="Share of all kept records, instead of -n."
)
@_out_option
@workspace_option
@full_option
@json_option
def outliers(count: int, fraction: float | None, out: str | None, workspace: str, full: bool, as_json: bool) -> None:
    """The kept records that are least similar to all others, the least similar first.

    The score of a record is the mean similarity of its text to its 100 nearest kept texts. Every pair of texts is
    compared, so the time grows with the square of their number.

    \b
    Examples:
      dedup-assets outliers -n 50 --workspace ws
      dedup-assets outliers --fraction 0.01 -o outliers.parquet --workspace ws
    """
    from dedup_assets.api import open_curation

    if fraction is not None and _is_given("count"):
        raise click.UsageError("-n and --fraction contradict each other: give one of them.")
    result = open_curation(workspace)
    _print_or_save(lambda: result.outliers(count, fraction=fraction), out, as_json, full)


@click.command(short_help="Kept records that represent the others.")
@click.option("-n", "count", type=click.IntRange(min=1), default=100, show_default=True, help="How many records.")
@click.option(
    "--diversity",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="From 0 (the most typical records) to 1 (the most different ones).",
)
@_out_option
@workspace_option
@full_option
@json_option
def sample(count: int, diversity: float, out: str | None, workspace: str, full: bool, as_json: bool) -> None:
    """Kept records that represent the others: typical records that differ from one another, in the order of choice.

    They are chosen one after the other by maximal marginal relevance, from the records with the best scores (see
    `dedup-assets outliers`). The same workspace gives the same sample.

    \b
    Examples:
      dedup-assets sample -n 1000 --diversity 0.5 -o sample.jsonl --workspace ws
      dedup-assets sample -n 20 --workspace ws
    """
    from dedup_assets.api import open_curation

    result = open_curation(workspace)
    _print_or_save(lambda: result.sample(count, diversity=diversity), out, as_json, full)


def _is_given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


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
    from dedup_assets.api import open_curation

    _print(open_curation(workspace).history(shard), as_json)


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
    from dedup_assets.api import open_curation

    path = open_curation(workspace).report(out)
    if as_json:
        print_json({"report": str(path)})
    else:
        click.echo(path)
