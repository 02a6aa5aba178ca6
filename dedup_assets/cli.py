"""The command line: a thin face over `dedup_assets.api` and the look-ups."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from dedup_assets.errors import DedupError
from dedup_assets.settings import KEEP_CHOICES, Settings

WORKSPACE_VARIABLE = "DEDUP_ASSETS_WORKSPACE"
DEFAULT_WORKSPACE = "dedup-workspace"

# Libraries that draw bars or warn on standard error would run into ours.
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
    "DAGSTER_DISABLE_TELEMETRY": "1",
}


def workspace_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--workspace`, alike for every command."""
    return click.option(
        "--workspace",
        "-w",
        type=click.Path(file_okay=False),
        default=DEFAULT_WORKSPACE,
        envvar=WORKSPACE_VARIABLE,
        show_default=True,
        show_envvar=True,
        help="Folder of the workspace.",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, alike for every command."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON value on standard output, nothing else.")(
        command
    )


full_option = click.option("--full", is_flag=True, help="Show long texts whole.")


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that become settings; None means not given."""
    d = Settings()
    options = [
        click.option(
            "--output", type=click.Path(file_okay=False), help="Where to publish.  [default: WORKSPACE/output]"
        ),
        click.option("--threshold", type=float, help=f"Cosine from which two records match.  [default: {d.threshold}]"),
        click.option("--eps", type=float, help="The same as 1 - threshold; give one of the two."),
        click.option("--floor", type=float, help="Store matches down to here.  [default: threshold - 0.05]"),
        click.option(
            "--text-column",
            "text_columns",
            multiple=True,
            help="Column of the text; repeat to join several by an empty line.  [default: text]",
        ),
        click.option("--id-column", help="Column of the id; without one ids are SHARD:ROW.  [default: id]"),
        click.option("--embedding-column", help="Use the vectors in this column instead of a model."),
        click.option("--model", help=f"Local folder or hub id of the encoder.  [default: {d.model}]"),
        click.option("--pooling", type=click.Choice(["auto", "mean", "cls", "last"]), help="[default: the model's]"),
        click.option("--max-length", type=click.IntRange(min=1), help="Tokens read of a text.  [default: the model's]"),
        click.option("--batch-size", type=click.IntRange(min=1), help="Texts per batch.  [default: by token count]"),
        click.option(
            "--keep",
            metavar="RULE",
            help=f"Which of a shard's duplicates stays: {', '.join(KEEP_CHOICES)}, or column:NAME[:asc|desc].  "
            f"[default: {d.keep}]",
        ),
        click.option("--seed", type=click.IntRange(min=0), help=f"Seed of --keep random.  [default: {d.seed}]"),
        click.option(
            "--keeper-rule",
            type=click.Choice(["leader", "semdedup"]),
            help="leader: removed only for a record that stays. semdedup: for any earlier one.  [default: leader]",
        ),
        click.option(
            "--keep-empty",
            is_flag=True,
            default=None,
            help="Empty texts are records like any other.  [default: quarantined]",
        ),
        click.option(
            "--duplicate-ids",
            type=click.Choice(["quarantine", "refuse"]),
            help="A second record with an id: quarantine it, or refuse its shard.  [default: quarantine]",
        ),
        click.option(
            "--unicode-form",
            type=click.Choice(["none", "NFC", "NFKC"]),
            help="Normal form applied before texts are compared.  [default: none]",
        ),
        click.option(
            "--vector-dtype", type=click.Choice(["float16", "float32"]), help="Stored vectors.  [default: float16]"
        ),
        click.option("--clusters", type=click.IntRange(min=1), help="Number of k-means cells.  [default: by size]"),
        click.option(
            "--mode",
            type=click.Choice(["append", "rebuild"]),
            help="append: earlier decisions stand. rebuild: one order over all, decided anew.  [default: append]",
        ),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="[default: auto]"),
        click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler.  [default: a local cluster]"),
        click.option("--workers", type=click.IntRange(min=1), help="Local workers.  [default: one, or one per GPU]"),
        click.option(
            "--memory-limit", metavar="SIZE", help="Memory for data, such as 2GB.  [default: half of what is free]"
        ),
        click.option(
            "--dense-limit",
            type=click.IntRange(min=0),
            help=f"Matches per text from which a cell is not listed by pairs; 0: never.  [default: {d.dense_limit}]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


class _InOrder(click.Group):
    """A group that lists its commands in the order in which people meet them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dedup-assets")
def main() -> None:
    """Exact semantic deduplication for text corpora that grow.

    Shard files become a corpus without duplicates, with the reason for every removal. The work is done by
    Dagster assets; `dedup-assets ui` shows them. `dedup-assets COMMAND --help` explains a command.

    \b
    Examples:
      dedup-assets curate shards/ --workspace ws
      dedup-assets pairs --around 0.92 --workspace ws
      dedup-assets threshold 0.92 --workspace ws

    Exit status: 0 done, 1 something failed and is named on standard error, 2 wrong usage, 130 interrupted.
    """


@main.command(short_help="Deduplicate shard files, or finish what is unfinished.")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@workspace_option
@settings_options
@click.option("--demo", is_flag=True, help="Curate the docstrings of the installed Python packages.")
@json_option
def curate(sources: tuple[str, ...], workspace: str, demo: bool, as_json: bool, **options: Any) -> None:
    """Deduplicate shard files against each other and all that was curated before.

    SOURCE is a file, a folder, a glob or an fsspec URL of Parquet, JSON lines (.jsonl, .json; .gz, .zst) or
    CSV; one file is one shard. Without SOURCE, what is registered and unfinished is finished.

    The first call writes the options to WORKSPACE/curation.toml, later calls read them. Shards that are
    finished are not touched again. A shard that cannot be read fails alone: the others are finished, the
    reason goes to standard error and, with --json, under "failures", and the exit status is 1.

    \b
    Examples:
      dedup-assets curate shards/ --workspace ws
      dedup-assets curate reviews.csv --text-column title --text-column body
      dedup-assets curate 's3://bucket/week-*.parquet' --threshold 0.9
      dedup-assets curate --demo --workspace demo
    """
    from dedup_assets import api
    from dedup_assets.report import console as report
    from dedup_assets.report.live import live_progress

    if demo and sources:
        raise click.UsageError("--demo gathers its own corpus: leave SOURCE out.")
    with live_progress() as bars:
        if demo:
            sources = _demo_corpus(workspace)
        curation = api.curate(*sources, workspace=workspace, listener=bars, check=False, **_given(options))
    failures = dict(curation.failures)
    if as_json:
        _print_json({**curation.summary, "failures": failures})
    else:
        report.print_summary(Console(), curation.summary, len(failures))
    for shard, message in failures.items():
        click.echo(f"Failed: {shard}: {message}", err=True)
    if failures:
        click.echo(
            f"Error: {len(failures)} {'shard' if len(failures) == 1 else 'shards'} failed, all others are finished. "
            "Correct what is named above and run the same command again.",
            err=True,
        )
        sys.exit(1)


@main.command(short_help="Register shards as partitions without running anything.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@workspace_option
@settings_options
@json_option
def register(sources: tuple[str, ...], workspace: str, as_json: bool, **options: Any) -> None:
    """Register shards as Dagster partitions without running anything.

    The assets of the new partitions can then be materialised from the UI, or by `dedup-assets curate` without
    sources. Options are those of `dedup-assets curate`.

    \b
    Example:
      dedup-assets register 'shards/week-*.jsonl.gz' --workspace ws
      dedup-assets ui --workspace ws
    """
    from dedup_assets import api
    from dedup_assets.report.live import live_progress

    with live_progress():
        new = api.register(*sources, workspace=workspace, **_given(options))
    if as_json:
        _print_json({"registered": new})
    else:
        click.echo("\n".join([*new, f"{len(new)} new {'shard' if len(new) == 1 else 'shards'} registered."]))


@main.command(short_help="Decide anew under another threshold, in seconds.")
@click.argument("similarity", metavar="T", type=float)
@workspace_option
@json_option
def threshold(similarity: float, workspace: str, as_json: bool) -> None:
    """Decide anew under threshold T, from stored matches: no model, no join.

    T must not lie below the floor of the stored matches. What changes is listed in OUTPUT/changes. Shards
    that are registered and unfinished are finished on the way.

    \b
    Examples:
      dedup-assets threshold 0.92 --workspace ws
      dedup-assets threshold 0.92 --workspace ws --json | jq .kept
    """
    from dedup_assets import api
    from dedup_assets.report import console as report
    from dedup_assets.report.live import live_progress

    with live_progress() as bars:
        curation = api.rethreshold(similarity, workspace=workspace, listener=bars)
    if as_json:
        _print_json(dict(curation.summary))
    else:
        report.print_summary(Console(), curation.summary)


@main.command(short_help="Why a record was kept, removed or quarantined.")
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
        _print_json(answer)
    else:
        report.print_explanation(Console(), answer, full)


@main.command(short_help="The matches nearest a similarity: how to choose a threshold.")
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
        _print_json(found)
        return
    if found:
        report.print_pairs(Console(), found, settings.threshold, full)
    else:
        click.echo(f"No two distinct texts are as similar as the floor of {settings.floor}.")
    if around is not None and around < settings.floor:
        click.echo(f"Matches below the floor of {settings.floor} are not stored.")


@main.command(short_help="The records most like a text.")
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
        _print_json(hits)
    elif hits:
        report.print_hits(Console(), hits, full)
    else:
        click.echo("The corpus holds no record yet.")


@main.command(short_help="The Dagster UI on a workspace.")
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


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Options as settings: those not given are left out, paths are made absolute."""
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if "output" in given:
        given["output"] = str(Path(given["output"]).expanduser().absolute())
    return given


def _demo_corpus(workspace: str) -> tuple[str, ...]:
    from dedup_assets.demo import write_demo_corpus
    from dedup_assets.storage.publish import storage_errors

    folder = Path(workspace).expanduser() / "demo"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)  # gathering takes seconds: fail before it
        return tuple(str(path) for path in write_demo_corpus(folder))


def _print_json(value: Any) -> None:
    """The one line of JSON on standard output; ASCII, so that no locale can spoil it."""
    click.echo(json.dumps(value))


def run() -> None:
    """Entry point: errors a person can act on are printed without a traceback."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show ≥ is no reason to fail
    try:
        main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as problem:
        problem.show()
        sys.exit(problem.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. What was finished is kept; run the same command to go on.", err=True)
        sys.exit(130)
    except DedupError as problem:
        click.echo(f"Error: {problem}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`). What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
