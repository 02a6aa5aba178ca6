"""Prepares texts of a corpus for display: truncated to a readable length, with control characters escaped."""

from __future__ import annotations

import reprlib
from typing import Any

from dedup_assets.unseen import visible

__all__ = ["COLLECTIONS", "LONG_TEXT", "counted", "kind_of", "short", "shorten", "visible"]

LONG_TEXT = 500
"""Characters of a text shown in a table."""

SHOWN = 40
"""Characters of a value shown in an error."""

COLLECTIONS = (list, tuple, set, frozenset, dict)
"""Types whose number of items an error gives."""


def shorten(text: str, full: bool = False) -> str:
    """A text truncated for a table, with control characters escaped."""
    if full or len(text) <= LONG_TEXT:
        return visible(text)
    return visible(text[:LONG_TEXT]) + f" … ({len(text):,} characters)"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 shard, 2 shards."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def kind_of(value: Any) -> str:
    """A value's type in words."""
    if value is None or isinstance(value, bytes):
        return type(value).__name__ if isinstance(value, bytes) else "None"
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]} {kind.__name__}"
    article = "an" if name[0].lower() in "aeio" else "a"
    count = f" of {counted(len(value), 'item')}" if isinstance(value, COLLECTIONS) else ""
    return f"{article} {name}{count}"


def short(value: Any) -> str:
    """A value on one line, truncated to `SHOWN` characters."""
    shown = visible(reprlib.repr(value))
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
