"""What a person sees on a terminal: bars while it runs, short tables after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dedup_assets.report.progress import Listener

LONG_TEXT = 500
"""Characters of a text shown in a table; `--full` shows all."""


class ProgressBars:
    """One live bar for each stage, on standard error."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage_started(self, stage: str) -> None:
        """Show the stage's bar, with no end yet."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=None, unit="")

    def stage_total(self, stage: str, total: int, unit: str) -> None:
        """Give the bar its length."""
        task = self._tasks[stage]
        before = self._bars.tasks[self._bars.task_ids.index(task)].total or 0
        self._bars.update(task, total=before + total, unit=unit)

    def stage_advanced(self, stage: str, amount: int) -> None:
        """Move the bar."""
        self._bars.advance(self._tasks[stage], amount)

    def stage_finished(self, stage: str) -> None:
        """Fill the bar of a stage that had nothing to do, and stop its clock."""
        task = self._tasks[stage]
        entry = self._bars.tasks[self._bars.task_ids.index(task)]
        if entry.total is None:
            self._bars.update(task, total=1, completed=1, unit="")
        self._bars.stop_task(task)


@contextmanager
def progress_bars(console: Console) -> Iterator[Listener | None]:
    """Bars if standard error is a terminal, silence if it is not."""
    if not console.is_terminal:
        yield None
        return
    with ProgressBars(console) as bars:
        yield bars


def print_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """The short table after a curation."""
    rows = summary["rows_in"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    for name, label in (
        ("rows_in", "rows in"),
        ("kept", "kept"),
        ("removed_exact", "removed, exact copies"),
        ("removed_semantic", f"removed, similarity ≥ {summary['threshold']:g}"),
        ("quarantined", "quarantined"),
    ):
        share = "" if name == "rows_in" or not rows else f"{100 * summary[name] / rows:.1f} %"
        table.add_row(label, f"{summary[name]:,}", share)
    console.print(table)
    seconds = sum(stage["seconds"] for stage in summary["stages"].values())
    console.print(
        Text(
            f"{_counted(summary['shards'], 'shard')}, {seconds:.1f} s of work, {summary['overhead_seconds']:.1f} s around it"
        )
    )
    console.print(Text(f"output     {summary['output']}", no_wrap=True, overflow="fold"))
    console.print(Text(f"workspace  {summary['workspace']}", no_wrap=True, overflow="fold"))


def print_explanation(console: Console, answer: Mapping[str, Any], full: bool) -> None:
    """One record's fate."""
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in answer.items():
        if name in ("text", "keeper_text", "record", "settings"):
            continue
        facts.add_row(name.replace("_", " "), Text(_shown(value)))
    for name, value in answer.get("settings", {}).items():
        facts.add_row(f"setting {name.replace('_', ' ')}", Text(_shown(value)))
    console.print(facts)
    if "record" in answer:
        console.print(Text(answer["record"] or ""))
    elif "keeper_text" in answer:
        console.print(_side_by_side("removed", answer["text"], "kept", answer["keeper_text"], full))
    else:
        console.print(Text(shorten(answer["text"], full)))


def print_pairs(console: Console, pairs: Sequence[Mapping[str, Any]], threshold: float, full: bool) -> None:
    """Matches with their texts side by side, and a line where the threshold lies."""
    table = Table(show_lines=True, expand=True)
    table.add_column("similarity", no_wrap=True, justify="right")
    table.add_column("a", ratio=1, overflow="fold")
    table.add_column("b", ratio=1, overflow="fold")
    above = True
    for pair in pairs:
        if above and pair["similarity"] < threshold:
            above = False
            if table.rows:
                table.add_row(Text(f"{threshold:g}", style="bold"), Text("▲ match"), Text("▼ no match"))
        table.add_row(
            f"{pair['similarity']:.4f}",
            Text(f"{pair['id_a']}\n").append(shorten(pair["text_a"], full), style="default"),
            Text(f"{pair['id_b']}\n").append(shorten(pair["text_b"], full), style="default"),
        )
    console.print(table)


def print_hits(console: Console, hits: Sequence[Mapping[str, Any]], full: bool) -> None:
    """Records like a text."""
    table = Table(expand=True)
    table.add_column("similarity", no_wrap=True, justify="right")
    table.add_column("id", overflow="fold")
    table.add_column("decision", no_wrap=True)
    table.add_column("text", ratio=1, overflow="fold")
    for hit in hits:
        table.add_row(f"{hit['similarity']:.4f}", Text(hit["id"]), hit["decision"], Text(shorten(hit["text"], full)))
    console.print(table)


def shorten(text: str, full: bool) -> str:
    """A text cut to what a table shows."""
    return text if full or len(text) <= LONG_TEXT else text[:LONG_TEXT] + f" … ({len(text):,} characters)"


def _side_by_side(title_a: str, text_a: str, title_b: str, text_b: str, full: bool) -> Table:
    table = Table(expand=True)
    table.add_column(title_a, ratio=1, overflow="fold")
    table.add_column(title_b, ratio=1, overflow="fold")
    table.add_row(Text(shorten(text_a, full)), Text(shorten(text_b, full)))
    return table


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
