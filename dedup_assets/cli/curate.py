"""Commands that make a curation: curate, register, threshold."""

from __future__ import annotations

import sys
from pathlib import Path
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
from dedup_assets.storage.ledger_schema import CORPUS, REFERENCE
from dedup_assets.unseen import visible


@click.command(short_help="Deduplicate shard files, or finish unfinished ones.")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@workspace_option
@settings_options
@reference_option
@click.option("--demo", is_flag=True, help="Curate the docstrings of the installed Python packages.")
@json_option
def curate(
    sources: tuple[str, ...], workspace: str, reference: bool, demo: bool, as_json: bool, **options: Any
) -> None:
    """Deduplicate shard files against each other and against everything curated before.

    SOURCE is a file, a folder, a glob or an fsspec URL of Parquet, Arrow, JSON (.jsonl, .json), CSV, TSV or plain
    text, compressed or not; each file is a shard. Without SOURCE, registered shards that are unfinished are
    finished.

    The first call writes the options to WORKSPACE/curation.toml, later calls read them. Finished shards are not
    processed again unless the content of their file changed: the new content replaces the old (--changed-shards).
    If a shard cannot be read, the others are finished; the reason is printed to standard error and, with --json,
    under "failures", and the exit status is 1.

    With --reference, no record of SOURCE is ever written out, and every record of the corpus that matches one
    of them is removed: this keeps a test set out of training data.

    \b
    Examples:
      dedup-assets curate shards/ --workspace ws
      dedup-assets curate reviews.csv --text-column title --text-column body
      dedup-assets curate 's3://bucket/week-*.parquet' --threshold 0.9
      dedup-assets curate benchmark/test.jsonl --reference --workspace ws
      dedup-assets curate --demo --workspace demo
    """
    from dedup_assets import api
    from dedup_assets.storage.workspace import SETTINGS_FILE
    from dedup_assets.terminal import console as report
    from dedup_assets.terminal.live import live_progress

    if demo and sources:
        raise click.UsageError("--demo gathers its own corpus: leave SOURCE out.")
    with live_progress() as bars:
        if demo:
            sources = _demo_corpus(workspace)
            if not (Path(workspace).expanduser() / SETTINGS_FILE).is_file():
                _choose_for_demo(options)
        curation = api.curate(
            *sources,
            workspace=workspace,
            listener=bars,
            check=False,
            role=REFERENCE if reference else CORPUS,
            **given_settings(options),
        )
    failures = dict(curation.failures)
    if as_json:
        print_json({**curation.summary, "failures": failures, "failed_checks": dict(curation.failed_checks)})
    else:
        report.print_summary(Console(), curation.summary, len(failures))
    for shard, message in failures.items():
        click.echo(visible(f"Failed: {shard}: {message}"), err=True)
    if failures:
        click.echo(
            f"Error: {len(failures)} {'shard' if len(failures) == 1 else 'shards'} failed, all others are finished. "
            "Correct what is named above and run the same command again.",
            err=True,
        )
    if curation.failed_checks:
        click.echo(visible(f"Error: {api.failed_checks_message(curation.failed_checks)}"), err=True)
    if failures or curation.failed_checks:
        sys.exit(1)


@click.command(short_help="Register shards as partitions without running anything.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@workspace_option
@settings_options
@reference_option
@json_option
def register(sources: tuple[str, ...], workspace: str, reference: bool, as_json: bool, **options: Any) -> None:
    """Register shards as Dagster partitions without running anything.

    The assets of the new partitions can then be materialised from the UI, or by `dedup-assets curate` without
    sources. Options are those of `dedup-assets curate`.

    \b
    Example:
      dedup-assets register 'shards/week-*.jsonl.gz' --workspace ws
      dedup-assets ui --workspace ws
    """
    from dedup_assets import api
    from dedup_assets.terminal.live import live_progress

    with live_progress():
        role = REFERENCE if reference else CORPUS
        new = api.register(*sources, workspace=workspace, role=role, **given_settings(options))
    if as_json:
        print_json({"registered": new})
    else:
        click.echo("\n".join([*new, f"{len(new)} new {'shard' if len(new) == 1 else 'shards'} registered."]))


@click.command(short_help="Decide again with another threshold or guards.")
@click.argument("similarity", metavar="[T]", type=float, required=False)
@setting_option("guards", omitted="the current ones")
@click.option("--no-guards", is_flag=True, help="Use no guards: only the similarity decides.")
@workspace_option
@json_option
def threshold(
    similarity: float | None, guards: tuple[str, ...], no_guards: bool, workspace: str, as_json: bool
) -> None:
    """Decide again with threshold T or other guards, from stored matches, without model and join.

    T must not be below the floor of the stored matches. The given guards replace the current ones; if T or
    the guards are omitted, they stay the same. All changes are listed in OUTPUT/changes. Registered shards that
    are unfinished are finished too.

    \b
    Examples:
      dedup-assets threshold 0.92 --workspace ws
      dedup-assets threshold --guard numbers --guard 'contains>=0.8' --workspace ws
      dedup-assets threshold 0.92 --workspace ws --json | jq .kept
    """
    from dedup_assets import api
    from dedup_assets.terminal import console as report
    from dedup_assets.terminal.live import live_progress

    if guards and no_guards:
        raise click.UsageError("--guard and --no-guards contradict each other: give one of them.")
    if similarity is None and not guards and not no_guards:
        raise click.UsageError("Nothing to change: give T, --guard or --no-guards.")
    asked = guards or (() if no_guards else None)
    with live_progress() as bars:
        curation = api.rethreshold(similarity, guards=asked, workspace=workspace, listener=bars)
    if as_json:
        print_json(dict(curation.summary))
    else:
        report.print_summary(Console(), curation.summary)


def _choose_for_demo(options: dict[str, Any]) -> None:
    """If no model was chosen, choose the one that shows most in a minute, and say how to get the other."""
    from dedup_assets.compute.precision import native_bfloat16
    from dedup_assets.encoder.distilled import can_distill
    from dedup_assets.encoder.models import locate_model
    from dedup_assets.named_code import STATIC
    from dedup_assets.settings import DECLARED

    transformer = DECLARED["model"].default
    given = [name for name in ("model", "exact_only", "embedding_column", "pooling", "precision") if options[name]]
    made = not given and Path(locate_model(STATIC + transformer).folder).is_dir()
    # In bfloat16 the transformer embeds the demo in the time in which a table is made of it: then its answer is better.
    if not given and can_distill() and (made or not native_bfloat16("cpu")):
        options["model"] = STATIC + transformer
        click.echo(
            f"The demo embeds with {options['model']}, a table of token vectors"
            + ("" if made else ", which is made first, once (about 20 s on two idle cores)")
            + ". The transformer's answer, which has paraphrases too and takes minutes without a GPU: --model "
            f"{transformer}, in another --workspace.",
            err=True,
        )
    elif options["precision"] is None and options["model"] in (None, transformer):
        # In which this machine computes fastest: a demonstration is compared with no other.
        options["precision"] = "bfloat16" if native_bfloat16("cpu") else "float32"


def _demo_corpus(workspace: str) -> tuple[str, ...]:
    from dedup_assets.demo import write_demo_corpus
    from dedup_assets.storage.publish import storage_errors

    root = Path(workspace).expanduser().absolute()
    folder = root.with_name(f"{root.name}-corpus")  # beside it: nothing in a workspace is ever a source
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)  # gathering takes seconds: fail before it
        return tuple(str(path) for path in write_demo_corpus(folder))
