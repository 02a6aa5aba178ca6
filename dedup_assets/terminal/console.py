"""What a person reads on a terminal: short tables of results and of single records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dedup_assets.display_text import counted, shorten, visible

WRAPPED_TEXT = 20_000
"""Characters of a text laid out in columns at most: wrapping takes a second for some 100,000 of them, and more
than a few pages cannot be compared side by side anyway."""


COLUMNS_SIDE_BY_SIDE = 64
"""Width of a terminal from which the time, the event and its details have a column each."""


def print_summary(console: Console, summary: Mapping[str, Any], failed: int = 0) -> None:
    """The short table after a curation of which some shards may have failed."""
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
    """What a person should know beside the counts."""
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


def print_explanation(console: Console, answer: Mapping[str, Any], full: bool) -> None:
    """One record's fate, its texts, and the settings and run that decided."""
    apart = (
        "text", "keeper_text", "record", "settings", "generation", "run_id", "decided", "lineage", "also_quarantined"
    )  # fmt: skip
    console.print(_facts({name: value for name, value in answer.items() if name not in apart}))
    console.print()
    if "record" in answer:
        console.print(Text(shorten(answer["record"] or "", full)))
    elif "keeper_text" in answer:
        _print_side_by_side(console, "removed", answer["text"], "kept", answer["keeper_text"], full)
    elif "text" in answer:
        _print_text(console, shorten(answer["text"], full))
    for row in answer.get("also_quarantined", ()):
        console.print(
            Text(f"\nAnother row with this id is in quarantine: {row['shard']}:{row['row']} ({row['reason']})"),
        )
    if "settings" in answer:
        console.print()
        decided = {name: answer[name] for name in ("generation", "run_id", "decided")}
        origin = {name: value for name, value in answer["lineage"].items() if name not in ("runs", "model")}
        console.print(_facts({**answer["settings"], **origin, **decided}), style="dim")


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
            Text(visible(pair["id_a"]), style="dim").append(f"\n{shorten(pair['text_a'], full)}", style="not dim"),
            Text(visible(pair["id_b"]), style="dim").append(f"\n{shorten(pair['text_b'], full)}", style="not dim"),
        )
    console.print(table)


def print_hits(console: Console, hits: Sequence[Mapping[str, Any]], full: bool) -> None:
    """Records like a text."""
    table = Table(expand=True)
    table.add_column("similarity", no_wrap=True, justify="right")
    table.add_column("decision", no_wrap=True)
    table.add_column("record", ratio=1, overflow="fold")
    for hit in hits:
        record = Text(visible(hit["id"]), style="dim").append(f"\n{shorten(hit['text'], full)}", style="not dim")
        table.add_row(f"{hit['similarity']:.4f}", hit["decision"], record)
    console.print(table)


def print_history(console: Console, history: Mapping[str, Any]) -> None:
    """What happened to a shard, one line or a few for each event."""
    console.print(_facts({name: history[name] for name in ("shard", "state", "role", "source")}))
    if "failure" in history:
        console.print(Text(f"failed in {history['failure']['stage']}: {visible(history['failure']['message'])}"))
    console.print()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=console.width >= COLUMNS_SIDE_BY_SIDE)
    if console.width >= COLUMNS_SIDE_BY_SIDE:
        table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for event in history["events"]:
        when = event["when"].replace("T", " ").removesuffix("Z")
        detail = Text(visible(event["detail"]))
        if event["run_id"]:
            # The first eight digits are what Dagster's own pages show of a run.
            detail.append(f" (run {event['run_id'][:8]})", style="dim")
        if console.width >= COLUMNS_SIDE_BY_SIDE:
            table.add_row(when, event["event"], detail)
        else:
            table.add_row(when, Text(f"{event['event']}: ", style="bold").append_text(detail))
    console.print(table)


def _facts(facts: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), Text(_shown(value)))
    return table


def _print_side_by_side(console: Console, title_a: str, text_a: str, title_b: str, text_b: str, full: bool) -> None:
    text_a, text_b = shorten(text_a, full), shorten(text_b, full)
    if max(len(text_a), len(text_b)) > WRAPPED_TEXT:
        for title, text in ((title_a, text_a), (title_b, text_b)):
            console.print(Text(f"{title}:", style="bold"))
            _print_text(console, text)
        return
    table = Table(expand=True)
    table.add_column(title_a, ratio=1, overflow="fold")
    table.add_column(title_b, ratio=1, overflow="fold")
    table.add_row(Text(text_a), Text(text_b))
    console.print(table)


def _print_text(console: Console, text: str) -> None:
    """A text by itself; a very long one as it is, for the terminal to wrap."""
    if len(text) > WRAPPED_TEXT:
        console.file.write(f"{text}\n")
    else:
        console.print(Text(text))


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else visible(str(value))
