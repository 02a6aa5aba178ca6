"""Texts of a corpus made fit to be shown: cut to a readable length, and without what a terminal or a page obeys."""

from __future__ import annotations

from dedup_assets.unseen import visible

__all__ = ["LONG_TEXT", "counted", "shorten", "visible"]

LONG_TEXT = 500
"""Characters of a text shown in a table."""


def shorten(text: str, full: bool = False) -> str:
    """A text cut to what a table shows, its control characters written out."""
    if full or len(text) <= LONG_TEXT:
        return visible(text)
    return visible(text[:LONG_TEXT]) + f" … ({len(text):,} characters)"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 shard, 2 shards."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
