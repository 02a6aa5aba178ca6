"""Renders the templates of the page and its pictures, and formats the values in them.

All values from a corpus pass through `shown` and are then escaped, so they are never markup.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dedup_assets.display_text import counted, shorten, visible

COMPARED_WORDS = 400
"""Largest number of words of a text that are compared for differences: the comparison is quadratic."""


def shown(value: Any) -> Any:
    """A value as text of the page; our own markup is unchanged."""
    if hasattr(value, "__html__"):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(str(shown(part)) for part in value)
    return visible("" if value is None else str(value))


def pixels(value: Any) -> Any:
    """A number of a picture with as many digits as a pixel needs; other values are unchanged."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def marked_differences(one: str, other: str) -> tuple[Markup, Markup]:
    """Two texts as markup, with the words that the other lacks marked; long texts are left unmarked."""
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (one, other))
    if max(len(a), len(b)) > 2 * COMPARED_WORDS:
        return escape(one), escape(other)
    left, right = Markup(), Markup()
    for kind, a1, a2, b1, b2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        left, right = left + _marked(kind, a[a1:a2]), right + _marked(kind, b[b1:b2])
    return left, right


def _marked(kind: str, words: list[str]) -> Markup:
    text = escape("".join(words))
    return text if kind == "equal" or not text.strip() else Markup("<mark>{}</mark>").format(text)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


PAGES = Environment(
    loader=PackageLoader("dedup_assets.report"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
PAGES.filters |= {"shorten": shorten, "counted": counted}
PAGES.globals |= {"marked_differences": marked_differences}
PAGES.tests["numeric"] = lambda column: all(map(_is_number, column))

PICTURES = PAGES.overlay(finalize=pixels)
"""The same for pictures, whose numbers are positions."""
