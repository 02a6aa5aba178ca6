"""Texts of a corpus made fit to be shown: cut to a readable length, and without what a terminal or a page obeys."""

from __future__ import annotations

import re

LONG_TEXT = 500
"""Characters of a text shown in a table."""

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters other than tab and line feed, those that reverse the direction of writing, and halves of
surrogate pairs, which no file can hold."""


def shorten(text: str, full: bool = False) -> str:
    """A text cut to what a table shows, its control characters written out."""
    if full or len(text) <= LONG_TEXT:
        return visible(text)
    return visible(text[:LONG_TEXT]) + f" … ({len(text):,} characters)"


def visible(text: str) -> str:
    """A text with control characters written out: one from a corpus must not steer what shows it."""
    return _UNSEEN.sub(lambda found: ascii(found.group())[1:-1], text.replace("\r\n", "\n"))


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 shard, 2 shards."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
