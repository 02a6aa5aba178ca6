"""What a reader does not see in a text, written out: the one place that decides it, for terminal, page and errors."""

from __future__ import annotations

import re

_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
"""All but tab and line feed: they steer a terminal or break lines. Halves of surrogate pairs are in no file."""

_IGNORED = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Unicode's Default_Ignorable_Code_Point, and the marks of annotations: zero-width characters, marks and overrides of
the direction of writing, tags, fillers, selectors of variants."""

_STYLES = "\ufe0e\ufe0f"
"""Whether a sign is drawn as text or as a picture: plain behind a sign, and hidden content where they stand alone."""

_UNSEEN = re.compile(f"[{_CONTROLS}{_IGNORED}]|(?:^|(?<=[{_CONTROLS}{_IGNORED}{_STYLES}\\s]))[{_STYLES}]")


def visible(text: str) -> str:
    """A text with what is not seen in it written out as escapes: one from a corpus must neither steer what shows it
    nor say to a program what it does not say to a reader."""
    return _UNSEEN.sub(lambda found: ascii(found.group())[1:-1], text.replace("\r\n", "\n"))
