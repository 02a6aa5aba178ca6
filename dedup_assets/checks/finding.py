"""The finding of a check, in plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NAMED = 10
"""Offending records that a finding names: enough to look at, and a page in the UI still opens."""


@dataclass(frozen=True)
class Finding:
    """The answer of one check.

    Attributes
    ----------
    passed : bool
    summary : str
        One sentence with the numbers that matter.
    numbers : mapping
        Everything that was counted, by name.
    offending : sequence of str
        What is wrong, one entry each; only the first `NAMED` are shown.
    advice : str
        What to do about it; empty where the check passed.
    """

    passed: bool
    summary: str
    numbers: Mapping[str, int | float | str] = field(default_factory=dict)
    offending: Sequence[str] = ()
    advice: str = ""


def judged(summary: str, numbers: Mapping[str, int | float | str], offending: Sequence[str], advice: str) -> Finding:
    """A finding that passes where nothing offends."""
    return Finding(not offending, summary, numbers, offending, advice if offending else "")
