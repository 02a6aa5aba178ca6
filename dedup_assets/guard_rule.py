"""Parses the setting `guards`: conditions, besides the cosine, that must hold before one record replaces another."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dedup_assets.errors import SettingsError, first_line
from dedup_assets.named_code import imported, module_and_factory

SHARES = ("contains", "words", "shingles")
"""Guards with a least share: `NAME>=X`. `compute.guards` defines them."""

NUMBERS = "numbers"

EXPECTED = (
    "expected numbers, contains>=X, words>=X or shingles>=X with X above 0 and at most 1, or "
    "package.module:function of your own"
)

_LATER = ("same", "differs", "within", "fitted", "cross-encoder")
"""Reserved names, which are not modules in `NAME:...`."""

_SHARE = re.compile(r"(?P<name>[\w-]+)\s*>=\s*(?P<bound>\S+)")


@dataclass(frozen=True)
class Guard:
    """One guard.

    Attributes
    ----------
    name : str
        "numbers", one of `SHARES`, or MODULE:FUNCTION.
    bound : float
        The guard holds from this value on; 1 for numbers and functions.
    """

    name: str
    bound: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Guard:
        """Parse one guard. Raises a ValueError that says what was expected."""
        text = text.strip()
        if text == NUMBERS:
            return cls(NUMBERS)
        if share := _SHARE.fullmatch(text):
            if share["name"] in SHARES:
                return cls(share["name"], _bound(text, share["bound"]))
            raise ValueError(f"{share['name']!r} is not known, {EXPECTED}")
        if module_and_factory(text) and text.partition(":")[0] not in _LATER:
            return cls(text)
        raise ValueError(f"{text!r} is not known, {EXPECTED}")

    @property
    def is_function(self) -> bool:
        """Whether it is a user's function of two texts."""
        return ":" in self.name

    def __str__(self) -> str:
        return f"{self.name}>={self.bound!r}" if self.name in SHARES else self.name


def parse_guards(texts: Sequence[str]) -> tuple[Guard, ...]:
    """Parse several guards. Raises ValueError for one that is unknown or given twice."""
    guards = tuple(map(Guard.parse, texts))
    names = [guard.name for guard in guards]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is given twice, expected each guard once")
    return guards


def load_function(guard: Guard) -> Callable[[str, str], Any]:
    """Import the function that a guard names. Raises SettingsError if it cannot be imported or called."""
    module, _, name = guard.name.partition(":")
    try:
        found = imported(module, name)
    except (ImportError, AttributeError) as problem:
        raise SettingsError(
            f"guard {guard.name!r} cannot be imported: {first_line(problem)}. Expected package.module:function of a "
            "module on sys.path or in the current folder."
        ) from problem
    if not callable(found):
        raise SettingsError(f"guard {guard.name!r} is no function. Expected a function of two texts that gives a bool.")
    return found


def guard_words(values: Sequence[Mapping[str, Any]]) -> str:
    """The result of `compute.guards.guard_values` on one line."""
    return ", ".join(f"{v['guard']} {'holds' if v['holds'] else 'fails'} ({v['value']:.3g})" for v in values)


def _bound(text: str, given: str) -> float:
    try:
        bound = float(given)
    except ValueError:
        bound = float("nan")
    if not 0.0 < bound <= 1.0:
        raise ValueError(f"{text!r}: {given!r} is no share above 0 and at most 1, such as 0.8")
    return bound
