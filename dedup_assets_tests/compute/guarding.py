"""The guards by their plain definitions, with sets of Python. Shares nothing with what they are held against but how a
number is written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from dedup_assets.compute.guard_sets import CHARACTER_RUNS, NUMBERS, WORD_RUNS, WORDS, numbers_of

UNSPACED = re.compile(
    r"CJK (UNIFIED|COMPATIBILITY IDEOGRAPH)|IDEOGRAPHIC|HIRAGANA|KATAKANA|BOPOMOFO|(THAI|LAO|KHMER|MYANMAR) "
)


def plain_sets(text: str) -> dict[str, set]:
    """The four sets of a text."""
    text = re.sub("[\u00a0\u2009\u202f]", " ", text)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = "".join(str(unicodedata.decimal(c)) if unicodedata.category(c) == "Nd" else c for c in text)
    words: list[str] = []
    ends = True
    for c in text:
        is_word = unicodedata.category(c)[0] in "LMN" or c == "_"
        alone = is_word and bool(UNSPACED.match(unicodedata.name(c, "")))
        if is_word:
            words = [*words, c] if ends or alone else [*words[:-1], words[-1] + c]
        ends = not is_word or alone
    characters = " ".join(text.split())
    return {
        NUMBERS: set(numbers_of(text)),
        WORDS: set(words),
        WORD_RUNS: runs(words, 3),
        CHARACTER_RUNS: runs(characters, 5),
    }


def runs(items: Sequence[str], length: int) -> set[tuple[str, ...]]:
    """All runs of so many items, or one of all."""
    if len(items) <= length:
        return {tuple(items)} if items else set()
    return {tuple(items[at : at + length]) for at in range(len(items) - length + 1)}


def share(part: int, whole: int) -> float:
    """A share; 1 of nothing."""
    return part / whole if whole else 1.0


def value(name: str, keeper: str, removed: str) -> float:
    """What a built-in guard comes to."""
    kind = {"numbers": NUMBERS, "contains": WORD_RUNS, "words": WORDS, "shingles": CHARACTER_RUNS}[name]
    k, r = plain_sets(keeper)[kind], plain_sets(removed)[kind]
    return share(len(k & r), len(r if name in ("numbers", "contains") else k | r))


def holds(
    guards: Sequence[str], keeper: str, removed: str, functions: dict[str, Callable[[str, str], bool]] | None = None
) -> bool:
    """Whether all guards hold."""
    for guard in guards:
        if ":" in guard:
            if not (functions or {})[guard](keeper, removed):
                return False
            continue
        name, _, bound = guard.partition(">=")
        if value(name, keeper, removed) < float(bound or 1):
            return False
    return True


def longer(keeper: str, removed: str) -> bool:
    """A function of a caller's own: what stays is no shorter."""
    return len(keeper) >= len(removed)
