"""The setting `keep`: which record of a shard comes first and so is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

ORDERS = ("first", "longest", "hard", "easy", "random")
"""Named orders; the other one is `column:NAME[:asc|desc]`."""

_COLUMN = re.compile(r"column:(?P<name>.+?)(?::(?P<direction>asc|desc))?", re.DOTALL)


@dataclass(frozen=True)
class KeepRule:
    """The order of the records of a shard.

    Attributes
    ----------
    order : str
        One of `ORDERS`, or "column".
    column : str
        The column that orders keepers; "" if none does.
    descending : bool
        Whether the largest value comes first.
    """

    order: str
    column: str = ""
    descending: bool = False

    @classmethod
    def parse(cls, keep: str) -> KeepRule:
        """Read the setting. Raises ValueError that says what was expected."""
        if keep in ORDERS:
            return cls(keep, descending=keep in ("longest", "easy"))
        found = _COLUMN.fullmatch(keep)
        if found is None:
            raise ValueError(f"expected {', '.join(ORDERS)} or column:NAME[:asc|desc]")
        # A quality score is the usual case, so the highest value is kept by default.
        return cls("column", found["name"], found["direction"] != "asc")

    @property
    def needs_prototype(self) -> bool:
        """Whether records are ordered by their similarity to the mean vector of the shard."""
        return self.order in ("hard", "easy")
