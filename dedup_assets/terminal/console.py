"""The summary on a terminal after a curation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dedup_assets.display_text import counted, visible


def print_summary(console: Console, summary: Mapping[str, Any], failed: int = 0) -> None:
    """The short table after a curation; `failed` shards are mentioned."""
    rows, guards = summary["rows_in"], "".join(f", {guard}" for guard in summary.get("guards", ()))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    for name, label in (
        ("rows_in", "rows in"),
        ("kept", "kept"),
        ("removed_exact", "removed, exact copies"),
        ("removed_semantic", f"removed, similarity ≥ {summary['threshold']:g}{guards}"),
        ("reference", "reference"),
        ("quarantined", "quarantined"),
    ):
        if name == "reference" and not summary[name]:
            continue
        share = "" if name == "rows_in" or not rows else f"{100 * summary[name] / rows:.1f} %"
        table.add_row(label, f"{summary[name]:,}", share)
    console.print(table)
    for line in _remarks(summary):
        console.print(Text(visible(line)))
    if summary.get("texts_over_window"):
        console.print(
            Text(
                f"{counted(summary['texts_over_window'], 'text')} longer than the model's window: compared by "
                "their beginning"
            )
        )
    seconds = sum(stage["seconds"] for stage in summary["stages"].values())
    work = f"{seconds:.1f} s of work, {summary['overhead_seconds']:.1f} s to start and orchestrate"
    if not failed and not summary["run_ids"]:
        work = "nothing was left to do"
    console.print(Text(f"{counted(summary['shards'], 'shard')} published; {work}"))
    console.print(Text(f"output     {visible(summary['output'])}", no_wrap=True, overflow="fold"))
    console.print(Text(f"workspace  {visible(summary['workspace'])}", no_wrap=True, overflow="fold"))


def _remarks(summary: Mapping[str, Any]) -> Iterator[str]:
    """Remarks besides the counts."""
    reasons = summary.get("quarantined_by_reason")
    if reasons:
        yield f"quarantined: {', '.join(f'{reason} ({count:,})' for reason, count in reasons.items())}"
    if summary.get("texts_not_understood"):
        yield (
            f"{counted(summary['texts_not_understood'], 'text')} of which the model knows too little: compared with "
            "their copies only. A multilingual model may know them"
        )
    if summary.get("retracted"):
        told = summary["retracted"]
        parts = [counted(len(told["shards"]), "shard")] if told["shards"] else []
        parts += [counted(told["records"], "record")] if told["records"] or not parts else []
        yield f"{' and '.join(parts)} retracted"
        if told["never_in"]:
            yield f"nothing of {', '.join(told['never_in'])} was in the corpus"
    if summary.get("moved"):
        shard, (old, new) = next(iter(summary["moved"].items()))
        count = counted(len(summary["moved"]), "shard")
        yield f"{count} with the same content elsewhere: {shard}, for instance, was {old} and is {new}"
    if summary.get("unread", {}).get("files"):
        yield summary["unread"]["words"]
