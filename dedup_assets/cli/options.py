"""Options that several commands share, and the one form of a JSON answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dedup_assets.keep_rule import ORDERS
from dedup_assets.settings import Settings

WORKSPACE_VARIABLE = "DEDUP_ASSETS_WORKSPACE"
DEFAULT_WORKSPACE = "dedup-workspace"


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


reference_option = click.option(
    "--reference", is_flag=True, help="Records that match SOURCE are removed; SOURCE itself is never written out."
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
        click.option("--exact-only", is_flag=True, default=None, help="No model: only exact copies go."),
        click.option("--pooling", type=click.Choice(["auto", "mean", "cls", "last"]), help="[default: the model's]"),
        click.option("--max-length", type=click.IntRange(min=1), help="Tokens read of a text.  [default: the model's]"),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            help="In which the model computes; float32 is the same on every machine.  [default: float32]",
        ),
        click.option(
            "--max-unknown",
            type=click.FloatRange(0, 1),
            metavar="SHARE",
            help="Share of unknown tokens above which a text is compared by its characters only.  "
            f"[default: {d.max_unknown}]",
        ),
        click.option("--batch-size", type=click.IntRange(min=1), help="Texts per batch.  [default: by token count]"),
        click.option(
            "--keep",
            metavar="RULE",
            help=f"Which of a shard's duplicates stays: {', '.join(ORDERS)}, or column:NAME[:asc|desc].  "
            f"[default: {d.keep}]",
        ),
        click.option("--seed", type=click.IntRange(min=0), help=f"Seed of --keep random.  [default: {d.seed}]"),
        click.option(
            "--keeper-rule",
            type=click.Choice(["leader", "semdedup"]),
            help="leader: removed only for a record that stays. semdedup: for any earlier one.  [default: leader]",
        ),
        click.option(
            "--against",
            type=click.Choice(["everything", "references"]),
            help="references: only what matches a reference goes, the corpus keeps its own duplicates.  "
            "[default: everything]",
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
            "--strict/--no-strict",
            default=None,
            help="A file in SOURCE that is not read is an error.  [default: it is named in the summary]",
        ),
        click.option(
            "--follow-links",
            type=click.Choice(["inside", "anywhere"]),
            help="Links in SOURCE that are followed: those that stay inside it, or all.  [default: inside]",
        ),
        click.option(
            "--max-quarantined",
            type=click.FloatRange(0, 1),
            metavar="SHARE",
            help=f"Share of a shard's rows in quarantine above which it fails.  [default: {d.max_quarantined}]",
        ),
        click.option(
            "--csv-types",
            type=click.Choice(["inferred", "text"]),
            help="Columns of CSV: numbers where nothing of the text is lost, or all text.  [default: inferred]",
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
        click.option(
            "--changed-shards",
            type=click.Choice(["replace", "refuse"]),
            help="A file with other content than was curated: replace the old, or refuse it.  [default: replace]",
        ),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="[default: auto]"),
        click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler.  [default: a local cluster]"),
        click.option("--workers", type=click.IntRange(min=1), help="Local workers.  [default: one, or one per GPU]"),
        click.option(
            "--worker-timeout",
            type=click.IntRange(min=1),
            metavar="SECONDS",
            help=f"How long to wait for lost workers.  [default: {d.worker_timeout}]",
        ),
        click.option(
            "--memory-limit",
            metavar="SIZE",
            help="Memory for the data of the join, such as 2GB; it hardly lowers the peak of the process.  "
            "[default: half of what is free]",
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


def given_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Options as settings: those not given are left out, paths are made absolute."""
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if "output" in given:
        given["output"] = str(Path(given["output"]).expanduser().absolute())
    return given


def print_json(value: Any) -> None:
    """The one line of JSON on standard output; ASCII, so that no locale can spoil it."""
    click.echo(json.dumps(value))
