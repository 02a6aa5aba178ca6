"""What a Python prompt and a notebook show of tables and results: a few lines that obey nothing of a corpus."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rich.cells import cell_len, set_cell_size

from dedup_assets.display_text import visible

ROWS = 5
"""Rows that a table shows of itself: with its heading, they and what follows stay below ten lines."""

CELL = 60
"""Characters of a value that a table shows."""

NARROWEST = 6
"""Terminal columns that a column keeps when the line is too short for all."""

_GAP = "  "


def as_text(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table that fit the terminal: wide columns are cut first, then the last ones are left out."""
    room = shutil.get_terminal_size((100, 24)).columns - 1
    left_out = len(names) - room // (1 + len(_GAP))
    names = names[:-left_out] if left_out > 0 else names
    heads = [_cell(name) for name in names]
    cells = [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    while widths and sum(widths) + len(_GAP) * len(widths) > room and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    shown = len(widths)
    while shown > 1 and sum(widths[:shown]) + len(_GAP) * shown > room:
        shown -= 1
    more = f"{_GAP}…" if shown < len(widths) or left_out > 0 else ""

    def line(values: Sequence[str]) -> str:
        cut = (_cut(value, width) for value, width in zip(values[:shown], widths, strict=False))
        return (_GAP.join(cut) + more).rstrip()

    return [line(heads), *map(line, cells)] if heads else []


def as_html(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """The same as an HTML table; all that comes from a corpus is escaped."""
    head = "".join(f"<th>{escape(_cell(name))}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(_cell(row[name]))}</td>" for name in names) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if head else ""


def facts_as_html(title: str, facts: Sequence[tuple[str, str, str]]) -> str:
    """A title over lines of a name, a value and a remark."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(value)}</td>"
        f"<td style='text-align:left'>{escape(remark)}</td></tr>"
        for name, value, remark in facts
    )
    return f"<b>{escape(title)}</b><table><tbody>{rows}</tbody></table>"


def _cut(text: str, width: int) -> str:
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _cell(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if isinstance(value, list) and len(value) > 3:
        return f"[{', '.join(map(_cell, value[:3]))}, … {len(value):,} values]"
    if isinstance(value, list):
        return f"[{', '.join(map(_cell, value))}]"
    text = "null" if value is None else value if isinstance(value, str) else str(value)
    short = visible(" ".join(text[: 4 * CELL].split()))
    return short if len(short) <= CELL and len(text) <= 4 * CELL else f"{short[: CELL - 1]}…"
