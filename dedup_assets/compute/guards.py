"""Guards: conditions on two texts, besides their similarity, that must hold before one record replaces another.

A keeper k covers a record r when s(k, r) >= t and every guard holds for (k, r). N, W, G and S are the sets of numbers,
words, runs of three words and runs of five characters of a text (`guard_sets`):

=================  ============================================  ==========
guard              value                                         holds from
=================  ============================================  ==========
numbers            \\|N(r) ∩ N(k)\\| / \\|N(r)\\|, 1 if N(r) is empty   1
contains>=X        \\|G(r) ∩ G(k)\\| / \\|G(r)\\|, 1 if G(r) is empty   X
words>=X           \\|W(r) ∩ W(k)\\| / \\|W(r) ∪ W(k)\\|, 1 if both are  X
shingles>=X        \\|S(r) ∩ S(k)\\| / \\|S(r) ∪ S(k)\\|, 1 if both are  X
module:function    function(text of k, text of r), 1 if true     1
=================  ============================================  ==========

The first two have a direction: they measure what is lost when r is removed. All built-in guards hold between equal
texts, so copies are always covered; functions are not called for copies. This module gets texts by key through a
callable and reads no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from dedup_assets.compute.guard_sets import CHARACTER_RUNS, NUMBERS, WORD_RUNS, WORDS, Sets, sets_of
from dedup_assets.errors import SettingsError, first_line
from dedup_assets.guard_rule import Guard, load_function

KINDS = {"numbers": NUMBERS, "contains": WORD_RUNS, "words": WORDS, "shingles": CHARACTER_RUNS}
"""The kind of set that each built-in guard compares."""

DIRECTED = ("numbers", "contains")
"""Guards whose value is a share of the removed text's set; for the others it is a share of the union of both sets."""

READ_CHARACTERS = 1 << 24
"""Characters of the texts that are read at once: about 50 MB, and few reads of each file."""

APART_TEXTS = 4_096
"""Texts whose sets are computed at once, so that intermediate arrays stay in or near the processor's cache."""

HELD_BYTES = 256 << 20
"""Upper limit for the sets that are held in memory; with longer texts, those of fewer texts are held."""

BYTES_EACH = {NUMBERS: 1, WORDS: 2, WORD_RUNS: 2, CHARACTER_RUNS: 8}
"""Approximate bytes per character of text that the sets of each kind take."""

CANDIDATES_SHARE = 0.1
"""Largest share of a dense cell's keepers that may be candidates for a text; beyond it, products are cheaper."""

BLOCK_PAIRS = 1 << 20
"""Candidates that are compared at once: 50 MB."""

Pairs = tuple[np.ndarray, np.ndarray]


class Texts(Protocol):
    """Gives texts by their keys."""

    def __call__(self, keys: np.ndarray) -> Sequence[str]:
        """The texts (m,) of distinct keys (m,)."""

    def characters(self, keys: np.ndarray) -> np.ndarray:
        """Approximate length of each text in characters: integers (m,)."""


class TextList:
    """The texts of a list; a key is an index."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def __call__(self, keys: np.ndarray) -> Sequence[str]:
        return [self._texts[key] for key in keys.tolist()]

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.fromiter(map(len, self._texts), np.int64, len(self._texts))

    def characters(self, keys: np.ndarray) -> np.ndarray:
        return self._lengths[keys]


def _ask(guard: Guard, function: Callable[[str, str], Any], keeper: str, removed: str) -> bool:
    try:
        answer = function(keeper, removed)
    except Exception as problem:
        raise SettingsError(
            f"guard {guard.name!r} failed with {type(problem).__name__}: {first_line(problem)}. Expected true or false "
            "for any two texts."
        ) from problem
    if not isinstance(answer, bool | np.bool_):
        raise SettingsError(f"guard {guard.name!r} gave {answer!r}. Expected true or false for any two texts.")
    return bool(answer)


class _Features:
    """The sets of some texts, and the texts themselves if a guard is a function."""

    def __init__(self, kinds: Sequence[str], with_texts: bool) -> None:
        self._keys = np.empty(0, np.int64)
        self._order = np.empty(0, np.int64)
        self._with_texts = with_texts
        self.texts: list[str] = []
        self.sets = {kind: Sets.joined([]) for kind in kinds}

    def missing(self, keys: np.ndarray) -> np.ndarray:
        """The keys, out of some distinct ones, that were not added yet."""
        return np.setdiff1d(keys, self._keys, assume_unique=True)

    def extend(self, keys: np.ndarray, texts: Texts) -> _Features:
        """Add texts that are missing; returns self."""
        parts = {kind: [sets] for kind, sets in self.sets.items()}
        block = np.cumsum(texts.characters(keys)) // READ_CHARACTERS
        for together in np.split(keys, np.flatnonzero(np.diff(block)) + 1) if len(keys) else ():
            some = texts(together)
            if self._with_texts:
                self.texts += some
            for start in range(0, len(some), APART_TEXTS):
                for kind, sets in sets_of(some[start : start + APART_TEXTS], list(parts)).items():
                    parts[kind].append(sets)
        self.sets = {kind: Sets.joined(sets) for kind, sets in parts.items()}
        every = np.concatenate([self._keys[np.argsort(self._order)], keys])
        self._order = np.argsort(every, kind="stable")
        self._keys = every[self._order]
        return self

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Index of each text, by its key."""
        return self._order[np.searchsorted(self._keys, keys)]


def _value(guard: Guard, sets: Sets, keeper: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Value of a built-in guard: float64 (m,). A share that equals the bound as a fraction gives the same float."""
    shared, sizes = sets.overlap(keeper, removed), sets.sizes
    whole = sizes[removed] if guard.name in DIRECTED else sizes[removed] + sizes[keeper] - shared
    return np.where(whole == 0, 1.0, shared / np.maximum(whole, 1))


class Covers:
    """Whether the guards hold, for pairs of texts by their keys.

    Parameters
    ----------
    guards : sequence of Guard
        At least one.
    texts : Texts
        Called for the texts of the pairs only, a part of them at a time.
    """

    def __init__(self, guards: Sequence[Guard], texts: Texts) -> None:
        self.guards, self._texts = tuple(guards), texts
        self._kinds = [KINDS[guard.name] for guard in guards if not guard.is_function]
        self._functions = [(guard, load_function(guard)) for guard in guards if guard.is_function]
        self._each = sum(BYTES_EACH[kind] for kind in self._kinds) + bool(self._functions)
        self._features, self._held = self._none(), 0
        built_in = [guard for guard in guards if not guard.is_function]
        # The guard that excludes most pairs through its index: equal numbers are rare, equal words are not.
        order = list(KINDS)
        self.index = Index(min(built_in, key=lambda guard: order.index(guard.name)), texts) if built_in else None

    def __call__(self, keepers: np.ndarray, removed: np.ndarray) -> np.ndarray:
        """Whether every guard holds for each pair of keys (m,), (m,): bool (m,). Raises SettingsError if a function
        fails or does not return a bool."""
        holds = np.ones(len(keepers), bool)
        for at, features in self._blocks(keepers, removed):
            one, other = features.find(keepers[at]), features.find(removed[at])
            for guard in self.guards:
                if guard.is_function:
                    continue
                value = _value(guard, features.sets[KINDS[guard.name]], one, other)
                good = value >= guard.bound
                holds[at[~good]] = False
                at, one, other = at[good], one[good], other[good]
            for guard, function in self._functions:
                for pair, k, r in zip(at.tolist(), one.tolist(), other.tolist(), strict=True):
                    if holds[pair]:
                        holds[pair] = _ask(guard, function, features.texts[k], features.texts[r])
        return holds

    def _blocks(self, keepers: np.ndarray, removed: np.ndarray) -> Iterator[tuple[np.ndarray, _Features]]:
        """Blocks of pair indexes, with the pairs of one keeper next to each other, and the features of their texts."""
        if not len(keepers):
            return
        order = np.lexsort((removed, keepers))
        distinct, back = np.unique(np.concatenate([keepers[order], removed[order]]), return_inverse=True)
        if self.prepare(distinct):
            yield order, self._features
            return
        lengths = self._texts.characters(distinct)
        read = lengths[back[: len(order)]] + lengths[back[len(order) :]]
        block = np.cumsum(read * self._each) // HELD_BYTES
        for part in np.split(order, np.flatnonzero(np.diff(block)) + 1):
            self._features, self._held = self._none(), HELD_BYTES  # freed before the next are made
            keys = np.unique(np.concatenate([keepers[part], removed[part]]))
            yield part, self._features.extend(keys, self._texts)

    def prepare(self, keys: np.ndarray) -> bool:
        """Load the features of some texts, by distinct keys, if they fit into `HELD_BYTES`; returns whether they do."""
        new = self._features.missing(keys)
        if not len(new):
            return True
        more = int(self._texts.characters(new).sum()) * self._each
        if self._held + more > HELD_BYTES:
            # They may fit if all others are dropped.
            self._features, self._held = self._none(), 0
            new, more = keys, int(self._texts.characters(keys).sum()) * self._each
        if more > HELD_BYTES:
            return False
        self._features.extend(new, self._texts)
        self._held += more
        return True

    def _none(self) -> _Features:
        return _Features(self._kinds, bool(self._functions))

    def of(self, keys: np.ndarray) -> NamedCovers:
        """The same guards for texts that are given as indexes of these keys."""
        return NamedCovers(self, keys)


class NamedCovers:
    """Whether the guards hold, for texts that are given as indexes of some keys."""

    def __init__(self, covers: Covers, keys: np.ndarray) -> None:
        self._covers, self._keys = covers, keys

    @property
    def is_index(self) -> bool:
        """Whether the index is the only guard, so that all guards hold for the pairs from `candidates`."""
        return len(self._covers.guards) == 1 and self._covers.index is not None

    def __call__(self, keepers: np.ndarray, removed: np.ndarray) -> np.ndarray:
        """As `Covers.__call__`, by index."""
        return self._covers(self._keys[keepers], self._keys[removed])

    def prepare(self, numbers: np.ndarray) -> None:
        """Load the features of texts that will be compared, if they fit into `HELD_BYTES`."""
        if not self.is_index:
            self._covers.prepare(self._keys[numbers])

    def candidates(self, keepers: np.ndarray, removed: np.ndarray) -> tuple[np.ndarray, Iterator[Pairs]]:
        """As `Index.candidates`, by index; without a built-in guard every row is wide."""
        if self._covers.index is None:
            return np.arange(len(removed)), iter(())
        return self._covers.index.candidates(self._keys[keepers], self._keys[removed])


class Index:
    """Inverted index that finds the keepers for which one built-in guard may hold. Among near-copies these can be few.

    The guard requires that k has at least ``n`` of the ``m`` numbers (or words, or runs) of r. Then k has at least one
    of any ``m - n + 1`` of them. Those that occur in the fewest keepers are looked up (prefix filter; Chaudhuri et al.
    2006, Bayardo et al. 2007).
    """

    def __init__(self, guard: Guard, texts: Texts) -> None:
        self._guard, self._texts = guard, texts
        self._kind = KINDS[guard.name]
        self._features = _Features([self._kind], False)

    def candidates(self, keepers: np.ndarray, removed: np.ndarray) -> tuple[np.ndarray, Iterator[Pairs]]:
        """The pairs for which the guard holds, for each removed text that has few candidates.

        Parameters
        ----------
        keepers, removed : int64 (k,), (r,)
            Keys of texts.

        Returns
        -------
        wide : int64 (w,)
            Indexes in `removed` of the texts with too many candidates: they must be compared with every keeper.
        pairs : iterator of int64 (m,), int64 (m,)
            For the other rows, every pair of indexes in `keepers` and `removed` for which the guard holds.
        """
        if not len(keepers) or not len(removed):
            return np.empty(0, np.int64), iter(())
        known = self._features
        # Features are kept while dense cells are decided, because each text is compared repeatedly.
        known.extend(known.missing(np.unique(np.concatenate([keepers, removed]))), self._texts)
        theirs, mine = (known.sets[self._kind].take(known.find(keys)) for keys in (keepers, removed))
        # Sorted by hash, so that the keepers with one hash are next to each other.
        order = np.argsort(theirs.values, kind="stable")
        owner = np.repeat(np.arange(len(keepers)), theirs.sizes)[order]
        start, stop = (np.searchsorted(theirs.values[order], mine.values, side=side) for side in ("left", "right"))
        row = np.repeat(np.arange(len(removed)), mine.sizes)
        rarest = np.lexsort((stop - start, row))
        rank = np.arange(len(row)) - np.repeat(mine.offsets[:-1], mine.sizes)
        needed = np.ceil(self._guard.bound * mine.sizes * (1.0 - 1e-12)).astype(np.int64)  # rounding only lowers it
        looked_up = rarest[rank < (mine.sizes - needed + 1)[row]]
        count = (stop - start)[looked_up]
        cost = np.bincount(row[looked_up], weights=count, minlength=len(removed))
        wide = (mine.sizes == 0) | (cost > CANDIDATES_SHARE * len(keepers))
        narrow = ~wide[row[looked_up]]
        looked_up, count = looked_up[narrow], count[narrow]

        def pairs() -> Iterator[Pairs]:
            # All hashes of a row are in one block.
            before = np.concatenate([[0], np.cumsum(cost[~wide])])[:-1] // BLOCK_PAIRS
            block = np.repeat(before, np.bincount(row[looked_up], minlength=len(removed))[~wide])
            for some in np.split(np.arange(len(looked_up)), np.flatnonzero(np.diff(block)) + 1):
                ends = np.cumsum(count[some])
                shift = np.repeat(start[looked_up[some]] - ends + count[some], count[some])
                found = owner[np.arange(len(shift)) + shift], np.repeat(row[looked_up[some]], count[some])
                keeper, mate = np.divmod(np.unique(found[0] * np.int64(len(removed)) + found[1]), len(removed))
                both = Sets.joined([theirs.take(keeper), mine.take(mate)])
                at = np.arange(len(keeper))
                holds = _value(self._guard, both, at, at + len(keeper)) >= self._guard.bound
                yield keeper[holds], mate[holds]

        return np.flatnonzero(wide), pairs()


def guard_values(guards: Sequence[Guard], keeper: str, removed: str) -> list[dict[str, Any]]:
    """The result of each guard for two texts: `guard` (its name), `value` (float), `holds` (bool).

    Raises SettingsError if a function cannot be imported, fails, or does not return a bool.
    """
    features = _Features([KINDS[guard.name] for guard in guards if not guard.is_function], False)
    features.extend(np.arange(2), TextList([keeper, removed]))
    found = []
    for guard in guards:
        if guard.is_function:
            value = float(_ask(guard, load_function(guard), keeper, removed))
        else:
            value = float(_value(guard, features.sets[KINDS[guard.name]], np.array([0]), np.array([1]))[0])
        found.append({"guard": str(guard), "value": value, "holds": value >= guard.bound})
    return found
