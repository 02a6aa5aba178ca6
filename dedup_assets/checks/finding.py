"""The finding of a check, in plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NAMED = 10
"""Largest number of offending records that a finding names, so that its page in the UI still opens."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes
    ----------
    passed : bool
    summary : str
        One sentence with the numbers that matter.
    numbers : mapping
        All figures, by name.
    offending : sequence of str
        The problems, one entry each; only the first `NAMED` are shown.
    advice : str
        What to do about it; empty where the check passed.
    """

    passed: bool
    summary: str
    numbers: Mapping[str, int | float | str] = field(default_factory=dict)
    offending: Sequence[str] = ()
    advice: str = ""


def judged(summary: str, numbers: Mapping[str, int | float | str], offending: Sequence[str], advice: str) -> Finding:
    """A finding that passes if nothing offends."""
    return Finding(not offending, summary, numbers, offending, advice if offending else "")
