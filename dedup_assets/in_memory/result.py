"""The result of a deduplication in memory. Everything is computed from a few arrays on access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np
import pyarrow as pa

from dedup_assets.compute.audit import Probes
from dedup_assets.compute.curation import NONE
from dedup_assets.compute.guards import guard_values
from dedup_assets.compute.in_memory import Decided, decide_rows
from dedup_assets.display_text import counted, visible
from dedup_assets.errors import SettingsError
from dedup_assets.guard_rule import Guard, guard_words, parse_guards
from dedup_assets.in_memory.compared import Compared
from dedup_assets.in_memory.matching import checked_guards, checked_threshold, decided
from dedup_assets.in_memory.records import Records
from dedup_assets.in_memory.references import CuratedTexts
from dedup_assets.lookups.reprs import as_html, as_text, facts_as_html

T = TypeVar("T")

SHOWN = 5
"""Maximum removed records, and members of a group, that a `repr` shows."""


@dataclass(frozen=True)
class Removed:
    """A removed record and the one that stays for it.

    Attributes
    ----------
    index : int
        Number of the record, from 0.
    record : Any
        The record; a dict where the records are a table.
    keeper_index : int
        Number of the keeper: among the records, or among those of `against`.
    keeper : Any
        The keeper; of a workspace its `id` and `shard`.
    similarity : float
        Of the two, at least the threshold; 1 for an exact copy.
    kind : {"exact", "semantic"}
        Exact: both have the same text, or without texts the same vector.
    """

    index: int
    record: Any
    keeper_index: int
    keeper: Any
    similarity: float
    kind: Literal["exact", "semantic"]


@dataclass(frozen=True)
class Group:
    """A kept record, or one of `against`, and the records removed for it, the most similar first."""

    index: int
    record: Any
    removed: list[Removed]


@dataclass(frozen=True)
class Explanation:
    """The decision about a record, and its reasons.

    Attributes
    ----------
    index, record
    removed : Removed, optional
        Keeper, similarity and kind; None if the record is kept.
    stands_for : list of int
        The records removed for it.
    matches : list of (int, float)
        Records (of `against`, if it was given) that match its text, each with its similarity, the most similar first;
        one record for each text.
    guards : list of dict
        For a record removed for a similar one: each `guard`, its `value`, and whether it `holds`.
    spared_by_guards : list of (int, list of dict)
        For a kept record: the keepers that it matches but that did not remove it because of the guards, with the values
        of the guards.
    """

    index: int
    record: Any
    removed: Removed | None
    stands_for: list[int]
    matches: list[tuple[int, float]]
    guards: list[dict[str, Any]] = field(default_factory=list)
    spared_by_guards: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)

    def __repr__(self) -> str:
        lines = [f"record {self.index}: {'kept' if self.removed is None else 'removed'}", f"  {_line(self.record)}"]
        if self.removed is not None:
            lines += [
                f"{self.removed.kind}, similarity {self.removed.similarity:.4f} to keeper {self.removed.keeper_index}:",
                f"  {_line(self.removed.keeper)}",
            ]
        if self.stands_for:
            more = ", …" if len(self.stands_for) > SHOWN else ""
            lines.append(f"stands for {', '.join(map(str, self.stands_for[:SHOWN]))}{more}")
        if self.guards:
            lines.append(guard_words(self.guards))
        lines += [f"spared from {other}: {guard_words(values)}" for other, values in self.spared_by_guards[:SHOWN]]
        lines += [f"matches {other} at {similarity:.4f}" for other, similarity in self.matches[:SHOWN]]
        return "\n".join(lines)


class Filtered(Sequence[Removed]):
    """The removed records in their order; each `Removed` is created on access."""

    def __init__(self, result: DeduplicationResult[Any]) -> None:
        self._result = result

    def __len__(self) -> int:
        return len(self._result.filtered_indices)

    @overload
    def __getitem__(self, at: int) -> Removed: ...
    @overload
    def __getitem__(self, at: slice) -> list[Removed]: ...
    def __getitem__(self, at: int | slice) -> Removed | list[Removed]:
        indices = self._result.filtered_indices
        if isinstance(at, slice):
            return [self._result._removed(int(index)) for index in indices[at]]
        return self._result._removed(int(indices[at]))

    def __iter__(self) -> Iterator[Removed]:
        return (self[at] for at in range(len(self)))

    def _rows(self, count: int) -> list[dict[str, Any]]:
        return [
            {"similarity": r.similarity, "kind": r.kind, "record": _line(r.record), "keeper": _line(r.keeper)}
            for r in self[:count]
        ]

    def __repr__(self) -> str:
        more = [f"… {len(self) - SHOWN:,} more"] if len(self) > SHOWN else []
        names = ["similarity", "kind", "record", "keeper"]
        return "\n".join([counted(len(self), "removed record"), *as_text(names, self._rows(SHOWN)), *more])

    def _repr_html_(self) -> str:
        names = ["similarity", "kind", "record", "keeper"]
        return f"<p>{counted(len(self), 'removed record')}</p>{as_html(names, self._rows(2 * SHOWN))}"


class DeduplicationResult(Generic[T]):
    """Result of `deduplicate`: the kept records, the removed records, and their keepers.

    Examples
    --------
    >>> import dedup_assets as da
    >>> texts = ["Roses are red.", "Violets are blue.", "Roses are red."]
    >>> result = da.deduplicate(texts)
    >>> result.selected
    ['Roses are red.', 'Violets are blue.']
    >>> result.filtered[0].keeper_index
    0
    """

    def __init__(
        self,
        records: Records[T],
        against: Records | CuratedTexts | None,
        compared: Compared,
        order: np.ndarray,
        found: Decided,
        floor: float,
        threshold: float,
        guards: Sequence[Guard] = (),
    ) -> None:
        self._records, self._against, self._compared, self._order = records, against, compared, order
        self._matches, self._decisions, self._floor = found.matches, found.decisions, floor
        self.threshold = threshold
        """Lowest similarity at which a record is removed."""
        self.guards = tuple(map(str, guards))
        """The guards, as strings: further conditions for removing a record."""

    # -------------------------------------------------------------------------------------- answers

    def __len__(self) -> int:
        return self._records.count

    @property
    def selected(self) -> T:
        """The kept records, in their order, in the type of the input."""
        return self._records.take(self.selected_indices)

    @cached_property
    def selected_indices(self) -> np.ndarray:
        """Numbers of the kept records: int64, ascending."""
        return np.flatnonzero(self._kept)

    @property
    def filtered(self) -> Filtered:
        """The removed records, each with its keeper, their similarity and the kind."""
        return Filtered(self)

    @cached_property
    def filtered_indices(self) -> np.ndarray:
        """Numbers of the removed records: int64, ascending."""
        return np.flatnonzero(~self._kept)

    @property
    def duplicate_ratio(self) -> float:
        """Removed records as a share of all."""
        return len(self.filtered_indices) / len(self)

    @property
    def exact_ratio(self) -> float:
        """Records removed as exact copies, as a share of all."""
        return int(self._exact.sum()) / len(self)

    def groups(self) -> list[Group]:
        """The keepers for which records were removed, those with the most removed records first.

        Examples
        --------
        >>> import dedup_assets as da
        >>> [(group.index, len(group.removed)) for group in da.deduplicate(["a b c", "x y", "a b c"]).groups()]
        [(0, 1)]
        """
        members: dict[int, list[int]] = {}
        for index in self.filtered_indices.tolist():
            members.setdefault(int(self._keeper[index]), []).append(index)
        ordered = sorted(members, key=lambda keeper: (-len(members[keeper]), keeper))
        similarity = self._decided(self._decisions.similarity)
        return [
            Group(
                keeper,
                self._keeper_record(keeper),
                [self._removed(index) for index in sorted(members[keeper], key=lambda at: (-similarity[at], at))],
            )
            for keeper in ordered
        ]

    @property
    def pairs(self) -> pa.Table:
        """All matches of distinct texts with at least the threshold, as record numbers: `a, b, similarity`, a before b.
        Guards are not applied.

        A text with several records has the number of the record that represents it. With `against`, `b` is a number of
        `against`. Matches inside dense cells, which hold thousands of near-copies, are used in every decision but are
        not listed; `find_matches` lists them all.
        """
        good = self._matches.similarity >= self.threshold
        first, second = (self._stand_in[side[good]] for side in (self._matches.i, self._matches.j))
        start = self._compared.references
        low, high = np.minimum(first, second), np.maximum(first, second)
        a, b = (high - start, low) if start else (low, high)
        table = pa.table({"a": a, "b": b, "similarity": self._matches.similarity[good]})
        return table.sort_by([("a", "ascending"), ("b", "ascending")])

    def least_similar(self, count: int = 10) -> list[Removed]:
        """The removed records least like their keepers, the least first.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.deduplicate(["a b c", "x y", "a b c"]).least_similar(1)[0].similarity
        1.0
        """
        similarity = self._decided(self._decisions.similarity)[self.filtered_indices]
        order = np.argsort(similarity, kind="stable")[: max(0, count)]
        return [self._removed(int(index)) for index in self.filtered_indices[order]]

    def rethreshold(
        self, threshold: float | None = None, *, guards: str | Sequence[str] | None = None
    ) -> DeduplicationResult[T]:
        """A new result with another threshold or other guards; this one does not change. Omitted arguments keep their
        values.

        For a higher threshold, the known matches are decided again; for a lower one, they are searched again. Nothing
        is embedded.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.deduplicate(["a b c", "x y", "a b c"]).rethreshold(0.99).duplicate_ratio
        0.3333333333333333
        """
        threshold = self.threshold if threshold is None else checked_threshold(threshold)
        rules = checked_guards(self.guards if guards is None else guards)
        compared, order = self._compared, self._order
        if threshold < self._floor:
            floor, found = threshold, decided(compared, order, threshold, rules)
        else:
            floor, matches = self._floor, self._matches
            decisions = decide_rows(
                compared.vectors,
                matches,
                threshold,
                texts=compared.texts,
                order=order,
                reference=compared.reference,
                covers=compared.covers(rules),
            )
            found = Decided(matches, decisions)
        return DeduplicationResult(self._records, self._against, compared, order, found, floor, threshold, rules)

    def explain(self, index: int) -> Explanation:
        """Explain the decision about a record: its keeper, or the records removed for it, and all its matches.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.deduplicate(["a b c", "x y", "a b c"]).explain(2).removed.kind
        'exact'
        """
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self):
            raise SettingsError(f"record {index!r}: expected a number from 0 to {len(self) - 1}.")
        index = int(index)
        removed = None if self._kept[index] else self._removed(index)
        stands_for = [] if self._compared.references else np.flatnonzero(self._keeper == index).tolist()
        near = self._matching(index)
        matches = [(number, similarity) for number, _, similarity in near]
        return Explanation(
            index, self._records.one(index), removed, stands_for, matches, *self._guarded(index, removed, near)
        )

    def to_arrow(self) -> pa.Table:
        """One row for each record: `index, kept, keeper, similarity, kind`; the last three are null for kept records.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.deduplicate(["a b c", "x y", "a b c"]).to_arrow()["keeper"].to_pylist()
        [None, None, 0]
        """
        return pa.table(
            {
                "index": np.arange(len(self)),
                "kept": self._kept,
                "keeper": pa.array(self._keeper, mask=self._kept),
                "similarity": pa.array(self._decided(self._decisions.similarity), mask=self._kept),
                "kind": pa.array(np.where(self._exact, "exact", "semantic"), pa.string(), mask=self._kept),
            }
        )

    # ---------------------------------------------------------------------------------------- looks

    def __repr__(self) -> str:
        facts = self._facts()
        lines = [f"  {name:<8}  {value:>11}  {remark}".rstrip() for name, value, remark in facts]
        return "\n".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        return facts_as_html(self._title(), self._facts())

    def _title(self) -> str:
        guards = "".join(f", {guard}" for guard in self.guards)
        return f"Deduplication of {counted(len(self), 'record')} at threshold {self.threshold:g}{guards}"

    def _facts(self) -> list[tuple[str, str, str]]:
        exact = int(self._exact.sum())
        kept, gone = len(self.selected_indices), len(self.filtered_indices)
        dense = sum(int(cell.home.sum()) for cell in self._matches.dense)
        unlisted = f"; those of {counted(dense, 'near-copy')} in dense cells are not listed" if dense else ""
        return [
            ("selected", f"{kept:,}", f"{kept / len(self):7.1%}  .selected"),
            (
                "filtered",
                f"{gone:,}",
                f"{gone / len(self):7.1%}  .filtered: {exact:,} exact, {gone - exact:,} by similarity",
            ),
            ("pairs", f"{int((self._matches.similarity >= self.threshold).sum()):,}", f"{'':7}  .pairs{unlisted}"),
        ]

    # ---------------------------------------------------------------------------------------- parts

    def _decided(self, column: np.ndarray) -> np.ndarray:
        """A column of the decisions, of the records alone."""
        return column[self._compared.references :]

    @cached_property
    def _kept(self) -> np.ndarray:
        return self._decided(self._decisions.kept)

    @cached_property
    def _exact(self) -> np.ndarray:
        return self._decided(self._decisions.exact)

    @cached_property
    def _stand_in(self) -> np.ndarray:
        """For each distinct text the number, references first, of the record that stands for it."""
        out = np.empty(len(self._compared.vectors), np.int64)
        out[self._decisions.texts.keys] = self._decisions.representative
        return out

    @cached_property
    def _keeper(self) -> np.ndarray:
        """Number of each record's keeper, among the references where there are some; -1 where the record stays."""
        keeper = self._decided(self._decisions.keeper)
        return np.where(keeper == NONE, NONE, self._stand_in[np.maximum(keeper, 0)])

    def _keeper_record(self, number: int) -> Any:
        # With references nothing but these removes anything.
        return self._records.one(number) if self._against is None else self._against.one(number)

    def _removed(self, index: int) -> Removed:
        keeper = int(self._keeper[index])
        return Removed(
            index,
            self._records.one(index),
            keeper,
            self._keeper_record(keeper),
            float(self._decided(self._decisions.similarity)[index]),
            "exact" if self._exact[index] else "semantic",
        )

    def _guarded(
        self, index: int, removed: Removed | None, near: list[tuple[int, int, float]]
    ) -> tuple[list[dict[str, Any]], list[tuple[int, list[dict[str, Any]]]]]:
        """The guards' values for a removal; and for a kept record, the matching keepers that guards prevented."""
        rules, compared, texts = parse_guards(self.guards), self._compared, self._decisions.texts
        if not rules or compared.row_texts is None or (removed is not None and removed.kind == "exact"):
            return [], []
        read, row = compared.row_texts(), int(compared.own_texts[index])
        if removed is not None:
            keeper = int(self._decided(self._decisions.keeper)[index])
            return guard_values(rules, read[keeper], read[row]), []
        spared = []
        for number, other, _ in near:
            first, mine = texts.find(np.array([other, row]))
            if texts.kept[first] and texts.place[first] < texts.place[mine]:
                values = guard_values(rules, read[other], read[row])
                if not all(value["holds"] for value in values):
                    spared.append((number, values))
        return [], spared

    def _matching(self, index: int) -> list[tuple[int, int, float]]:
        """(number, row, similarity) of all matches of a record's text, which is compared with every text, also in dense
        cells."""
        compared, row = self._compared, int(self._compared.own_texts[index])
        probes = Probes(compared.vectors[row : row + 1], self.threshold)
        one, other = probes.near(compared.vectors)
        similarity = probes.similarity(compared.vectors, one, other)
        good = (similarity >= self.threshold) & (other != row)
        if compared.references:
            good = (similarity >= self.threshold) & (self._stand_in[other] < compared.references)
        rows, other, similarity = other[good], self._stand_in[other[good]], similarity[good]
        order = np.lexsort((other, -similarity))
        return list(zip(other[order].tolist(), rows[order].tolist(), similarity[order].tolist(), strict=True))


def _line(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return visible(" ".join(text[:400].split()))
