"""Escapes invisible characters of a text, for the terminal, the report page and errors."""

from __future__ import annotations

import re

_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
"""Control characters except tab and line feed, which control a terminal or break lines, and lone surrogates."""

_IGNORED = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Unicode's Default_Ignorable_Code_Point, and the marks of annotations: zero-width characters, marks and overrides of
the direction of writing, tags, fillers, selectors of variants."""

_STYLES = "\ufe0e\ufe0f"
"""Variation selectors, which choose between text and picture: normal after a character, hidden content on their own."""

_UNSEEN = re.compile(f"[{_CONTROLS}{_IGNORED}]|(?:^|(?<=[{_CONTROLS}{_IGNORED}{_STYLES}\\s]))[{_STYLES}]")


def visible(text: str) -> str:
    """A text with invisible characters as escapes: a text from a corpus must neither control its display nor tell a
    program what a reader does not see."""
    return _UNSEEN.sub(lambda found: ascii(found.group())[1:-1], text.replace("\r\n", "\n"))
