"""Answers of look-ups: dicts and tables of plain values that show themselves on a terminal, at a Python prompt and in a
notebook, each time the same lines."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dedup_assets.display_text import counted, shorten, visible
from dedup_assets.guard_rule import guard_words
from dedup_assets.lookups.tables import Head

WRAPPED_TEXT = 20_000
"""Characters of a text laid out in columns at most: wrapping takes a second for some 100,000 of them, and more
than a few pages cannot be compared side by side anyway."""

COLUMNS_SIDE_BY_SIDE = 64
"""Width of a terminal from which the time, the event and its details have a column each."""

NOTEBOOK_COLUMNS = 120
"""Width of an answer in a notebook, which scrolls sideways where it has less."""

_TEXT, _NUMBER, _WHOLE = pa.string(), pa.float64(), pa.int64()

MATCHES = pa.schema(
    {"similarity": _NUMBER, **{f"{name}_{side}": _TEXT for side in "ab" for name in ("id", "shard", "text")}}
)
GUARDED = pa.schema([*MATCHES, ("guards", _TEXT), ("guards_hold", pa.bool_())])
HITS = pa.schema({"id": _TEXT, "shard": _TEXT, "similarity": _NUMBER, "decision": _TEXT, "text": _TEXT})
MEMBER = pa.struct(
    {"id": _TEXT, "shard": _TEXT, "row": _WHOLE, "kind": _TEXT, "similarity": _NUMBER, "text": _TEXT},
)
RANKED = pa.schema({"score": _NUMBER, "id": _TEXT, "shard": _TEXT, "row": _WHOLE, "text": _TEXT})
GROUPS = pa.schema(
    {
        "group_id": _TEXT,
        "size": _WHOLE,
        **{f"keeper_{name}": _TEXT for name in ("id", "shard", "text")},
        "members": pa.list_(MEMBER),
    }
)


class Answer:
    """What shows itself: a subclass prints to a console, `repr` and a notebook show the same."""

    def show(self, console: Console, full: bool = False) -> None:
        """Print the answer; `full`: texts of any length, whole."""
        raise NotImplementedError

    def __repr__(self) -> str:
        lines = io.StringIO()
        self.show(Console(file=lines, color_system=None, force_jupyter=False))
        return lines.getvalue().rstrip("\n")

    def _repr_html_(self) -> str:
        console = Console(file=io.StringIO(), record=True, force_jupyter=False, width=NOTEBOOK_COLUMNS)
        self.show(console)
        form = "<pre style='line-height:normal;white-space:pre;overflow-x:auto'>{code}</pre>"
        return console.export_html(inline_styles=True, code_format=form)


class Explanation(Answer, dict[str, Any]):
    """What became of a record, as a dict.

    `id`, `decision` (kept, removed, quarantined or retracted), `shard` and `row` are always there. A kept or removed
    record has `admission`, `source`, `text`, `settings`, `generation`, `run_id`, `decided` (when) and `lineage`; a
    removed one `kind`, `similarity`, `similarity_recomputed`, `keeper_id`, `keeper_shard`, `keeper_row`,
    `keeper_source`, `keeper_text` and `group_id`; a quarantined one `reason`, `record` and `source`; a retracted one
    `reason` and `admission`. `also_quarantined` lists other rows with the id. With guards, a record removed for a
    similar one has `guards`, a list of `guard`, `value` and `holds`. A kept record that is
    similar to a keeper, but for which a guard fails, has `spared_by_guards`, a list of `id, shard, similarity, guards`.
    """

    def show(self, console: Console, full: bool = False) -> None:
        """The record's fate, its texts, and the settings and run that decided."""
        apart = (
            "text", "keeper_text", "record", "settings", "generation", "run_id", "decided", "lineage",
            "also_quarantined", "guards", "spared_by_guards",
        )  # fmt: skip
        facts = {name: value for name, value in self.items() if name not in apart}
        console.print(_facts({**facts, "guards": guard_words(self["guards"])} if "guards" in self else facts))
        for other in self.get("spared_by_guards", ()):
            near = f"{other['id']} ({other['shard']}), similarity {other['similarity']:.4f}"
            console.print(Text(visible(f"spared by a guard from {near}: {guard_words(other['guards'])}")))
        console.print()
        if "record" in self:
            console.print(Text(shorten(self["record"] or "", full)))
        elif "keeper_text" in self:
            _print_side_by_side(console, ("removed", self["text"]), ("kept", self["keeper_text"]), full)
        elif "text" in self:
            _print_text(console, shorten(self["text"], full))
        for row in self.get("also_quarantined", ()):
            place = f"{row['shard']}:{row['row']} ({row['reason']})"
            console.print(Text(f"\nAnother row with this id is in quarantine: {place}"))
        if "settings" in self:
            console.print()
            decided = {name: self[name] for name in ("generation", "run_id", "decided")}
            origin = {name: value for name, value in self["lineage"].items() if name not in ("runs", "model")}
            console.print(_facts({**self["settings"], **origin, **decided}), style="dim")


class History(Answer, dict[str, Any]):
    """All that happened to a shard, as a dict.

    `shard`, `state`, `role` and `source`; `admissions`, a list of `admission, content_fingerprint, codebook, records,
    retracted`; `events`, a list of `when` (UTC), `event`, `detail`, `run_id`, and for a stage its `facts`, `stage`,
    `seconds` and `basis`; and `failure` (`stage, message, run_id`) where the last run failed.
    """

    def show(self, console: Console, full: bool = False) -> None:
        """A line or a few for each event."""
        console.print(_facts({name: self[name] for name in ("shard", "state", "role", "source")}))
        if "failure" in self:
            console.print(Text(f"failed in {self['failure']['stage']}: {visible(self['failure']['message'])}"))
        console.print()
        table = Table(box=None, pad_edge=False, show_header=False)
        wide = console.width >= COLUMNS_SIDE_BY_SIDE
        table.add_column(style="dim", no_wrap=wide)
        if wide:
            table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for event in self["events"]:
            when = event["when"].replace("T", " ").removesuffix("Z")
            detail = Text(visible(event["detail"]))
            if event["run_id"]:
                # The first eight digits are what Dagster's own pages show of a run.
                detail.append(f" (run {event['run_id'][:8]})", style="dim")
            if wide:
                table.add_row(when, event["event"], detail)
            else:
                table.add_row(when, Text(f"{event['event']}: ", style="bold").append_text(detail))
        console.print(table)


class Pairs(Answer, Head):
    """Matches, the most alike first, as a table of `similarity`, and `id, shard, text` of both (`id_a`, `id_b`, ...).

    With guards, `guards` has the result of each as text, and `guards_hold` whether all hold, with the earlier record as
    the keeper. `remarks` says which matches are not listed.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], threshold: float, remarks: Iterable[str]) -> None:
        schema = GUARDED if any("guards" in row for row in rows) else MATCHES
        super().__init__(pa.Table.from_pylist([*rows], schema=schema))
        self.threshold, self.remarks = threshold, list(remarks)

    def show(self, console: Console, full: bool = False) -> None:
        """Texts side by side, a line where the threshold lies, and the remarks."""
        table = _columns("similarity", "a", "b", show_lines=True)
        above = True
        for pair in self:
            if above and pair["similarity"] < self.threshold:
                above = False
                if table.rows:
                    table.add_row(Text(f"{self.threshold:g}", style="bold"), Text("▲ match"), Text("▼ no match"))
            sides = (_record(pair[f"id_{side}"], pair[f"text_{side}"], full) for side in "ab")
            guards = pair.get("guards", "").replace(", ", "\n")
            table.add_row(f"{pair['similarity']:.4f}\n{guards}".rstrip(), *sides)
        if table.rows:
            console.print(table)
        for remark in self.remarks:
            console.print(Text(remark), soft_wrap=True)


class Hits(Answer, Head):
    """Records like a text, the most alike first, as a table of `id, shard, similarity, decision, text`."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(pa.Table.from_pylist([*rows], schema=HITS))

    def show(self, console: Console, full: bool = False) -> None:
        """Each with what was decided on it."""
        table = Table(expand=True)
        table.add_column("similarity", no_wrap=True, justify="right")
        table.add_column("decision", no_wrap=True)
        table.add_column("record", ratio=1, overflow="fold")
        for hit in self:
            table.add_row(f"{hit['similarity']:.4f}", hit["decision"], _record(hit["id"], hit["text"], full))
        console.print(table if table.rows else "The corpus holds no record yet.")


class Ranked(Answer, Head):
    """Kept records in an order, as a table of `score, id, shard, row, text`.

    The score is the mean similarity to the nearest neighbours. `remarks` has notes, such as shards not decided yet.
    """

    def __init__(self, table: pa.Table, remarks: Iterable[str], read: Callable[[], pa.Table]) -> None:
        super().__init__(table)
        self.remarks = list(remarks)
        self._read = read

    def records(self) -> pa.Table:
        """The records in the input's own columns, in this order. They are read at each call."""
        return self._read()

    def save(self, path: str | Path) -> Path:
        """Write the records in the input's own columns, in this order, to a .parquet, .jsonl or .csv file.

        Raises
        ------
        SettingsError
            The file has another suffix, or a column has values that the format cannot hold.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.open_curation("ws").sample(1000).save("sample.jsonl")
        """
        from dedup_assets.lookups.record_files import require_known_kind, write_records

        file = Path(path).expanduser().absolute()
        require_known_kind(file)
        write_records(self.records(), file)
        return file

    def show(self, console: Console, full: bool = False) -> None:
        """Print each record with its score."""
        table = _columns("score", "record")
        for record in self:
            table.add_row(f"{record['score']:.4f}", _record(record["id"], record["text"], full))
        if table.rows:
            console.print(table)
        for remark in self.remarks:
            console.print(Text(remark), soft_wrap=True)


class Groups(Answer, Head):
    """Groups of duplicates, the largest first, as a table.

    `group_id`; `size`, the number of removed records; `keeper_id`, `keeper_shard` and `keeper_text`; and `members`,
    removed records as a list of `id, shard, row, kind, similarity, text`, those least like the keeper first.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(pa.Table.from_pylist([*rows], schema=GROUPS))

    def show(self, console: Console, full: bool = False) -> None:
        """Each keeper with its members below each other."""
        table = _columns("removed", "kept", "removed, least like it first", show_lines=True)
        for group in self:
            members = Text("\n").join(
                _record(f"{member['similarity']:.4f}  {member['id']}", member["text"], full)
                for member in group["members"]
            )
            left_out = group["size"] - len(group["members"])
            if left_out:
                members.append(f"\n… {counted(left_out, 'more record')}")
            table.add_row(f"{group['size']:,}", _record(group["keeper_id"], group["keeper_text"], full), members)
        console.print(table if table.rows else "No record was removed.")


def _columns(number: str | None, *texts: str, show_lines: bool = False) -> Table:
    """A table as wide as the terminal: a column of numbers, and columns of texts that share the room."""
    table = Table(expand=True, show_lines=show_lines)
    if number:
        table.add_column(number, no_wrap=True, justify="right")
    for text in texts:
        table.add_column(text, ratio=1, overflow="fold")
    return table


def _record(name: str, text: str, full: bool) -> Text:
    return Text(visible(name), style="dim").append(f"\n{shorten(text, full)}", style="not dim")


def _facts(facts: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        shown = f"{value:.6g}" if isinstance(value, float) else visible(str(value))
        table.add_row(name.replace("_", " "), Text(shown))
    return table


def _print_side_by_side(console: Console, one: tuple[str, str], other: tuple[str, str], full: bool) -> None:
    """Two texts with their titles."""
    texts = [(title, shorten(text, full)) for title, text in (one, other)]
    if max(len(text) for _, text in texts) > WRAPPED_TEXT:
        for title, text in texts:
            console.print(Text(f"{title}:", style="bold"))
            _print_text(console, text)
        return
    table = _columns(None, *(title for title, _ in texts))
    table.add_row(*(Text(text) for _, text in texts))
    console.print(table)


def _print_text(console: Console, text: str) -> None:
    """A text by itself; a very long one as it is, for the terminal to wrap."""
    if len(text) > WRAPPED_TEXT:
        console.file.write(f"{text}\n")
    else:
        console.print(Text(text))
