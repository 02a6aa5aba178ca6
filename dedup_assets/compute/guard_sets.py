"""The features of a text that guards compare: its numbers, words, runs of three words and runs of five characters.

Each feature is a set of hashes. First a text is normalized to NFKC and case-folded, and decimal digits of any script
become 0 to 9. A *word* is a run of letters, digits, marks and underscores; in scripts that are written without spaces
each character is a word. A text of fewer than three words, or of fewer than five characters, has one run: the whole
text. An empty text has none. Hashes have 64 bits; the probability of a collision within a pair of texts is about 1e-13.

A *number* is a run of digits, with single joiners between digits (``. , : / ' -`` and no-break or thin spaces):

- Thousands separators are removed: ``1,000``, ``1'000`` and ``1 000`` (no-break space) are 1000. So are those of
  ``1.000.000`` and ``1.000,5``; ``1.000`` alone is a decimal number, 1. An ordinary space ends a number.
- Any other single point or comma is a decimal separator: ``1,5`` and ``1.50`` are 1.5. Leading zeros are ignored.
- Other joined digits are one number as written: dates, times, versions, ranges. ``2024-01-02`` is not ``2024-02-01``,
  and not the numbers 2024, 1 and 2.
- A minus sign belongs to a number if no word character precedes it: ``-5`` and ``(-5)``, but 19 in ``covid-19``.
- Letters end a number: ``5kg`` has 5, ``1e5`` has 1 and 5. Number words, and characters that are not decimal digits,
  are not numbers.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

NUMBERS, WORDS, WORD_RUNS, CHARACTER_RUNS = "numbers", "words", "word runs", "character runs"

RUN_WORDS, RUN_CHARACTERS = 3, 5

# Classes of characters; digits are word characters too.
_OTHER, _SPACE, _WORD, _ALONE, _DIGIT, _UNSEEN = 0, 1, 2, 3, 4, 255

_UNSPACED = (
    *("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO"),
    *("THAI ", "LAO ", "KHMER ", "MYANMAR "),
)
"""Unicode name prefixes of the characters of scripts that put no space between words."""

_NARROW_SPACES = re.compile("[\u00a0\u2009\u202f]")
_JOINED = "\x1f"
"""Replaces a no-break or thin space, which NFKC would turn into an ordinary space."""

_JOINERS = {
    **{mark: mark for mark in ".,:/'-"},
    **{"\u2019": "'", _JOINED: "'", "\u066c": ",", "\u066b": ".", "\u2044": "/"},
    **dict.fromkeys("\u2010\u2013\u2212", "-"),
}
_MINUS = np.array([ord("-"), ord("\u2212")], np.uint32)

_classes = np.full(0x110000, _UNSEEN, np.uint8)
_plain = np.arange(0x110000, dtype=np.uint32)
"""Class of each character seen so far, and its replacement: the character itself, or its decimal digit as 0 to 9."""
_is_joiner = np.zeros(0x110000, bool)
_is_joiner[[ord(mark) for mark in _JOINERS]] = True


@dataclass(frozen=True)
class Sets:
    """A set of hashes for each of some texts, in the order in which they appear there.

    Attributes
    ----------
    offsets : (n + 1,) int64
    values : (m,) uint64
    """

    offsets: np.ndarray
    values: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Number of hashes of each text: int64 (n,)."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Sets:
        """The sets of the texts at some indexes (k,)."""
        sizes = self.sizes[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        at = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - self.offsets[rows], sizes)
        return Sets(offsets, self.values[at])

    @classmethod
    def joined(cls, parts: Sequence[Sets]) -> Sets:
        """Several, concatenated."""
        sizes = np.concatenate([np.empty(0, np.int64), *(part.sizes for part in parts)])
        values = np.concatenate([np.empty(0, np.uint64), *(part.values for part in parts)])
        return cls(np.concatenate([[0], np.cumsum(sizes)]), values)

    def overlap(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Number of hashes that the texts of each pair (p,) share: int64 (p,). Fast if equal indexes in `one` are
        adjacent."""
        return _overlap(self.offsets, self.values, one, other)


def sets_of(texts: Sequence[str], kinds: Sequence[str]) -> dict[str, Sets]:
    """The sets of some kinds (`NUMBERS`, `WORDS`, `WORD_RUNS`, `CHARACTER_RUNS`) of each text."""
    folded = [_folded(text) for text in texts]
    codes = np.frombuffer("".join(folded).encode("utf-32-le"), np.uint32)
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in folded], dtype=np.int64)])
    classes, codes = _looked_up(codes)
    found: dict[str, Sets] = {}
    if WORDS in kinds or WORD_RUNS in kinds:
        words, ends = _words(codes, classes, offsets)
        if WORDS in kinds:
            found[WORDS] = Sets(*_distinct(words, ends))
        if WORD_RUNS in kinds:
            runs, ends = _runs(words, ends, RUN_WORDS)
            found[WORD_RUNS] = Sets(*_distinct(runs, ends))
    if CHARACTER_RUNS in kinds:
        characters, ends = _collapsed(codes, classes, offsets)
        runs, ends = _runs(characters, ends, RUN_CHARACTERS)
        found[CHARACTER_RUNS] = Sets(*_distinct(runs, ends))
    if NUMBERS in kinds:
        found[NUMBERS] = _numbers(codes, classes, offsets)
    return found


def numbers_of(text: str) -> list[str]:
    """The distinct numbers of a text in canonical form, in the order in which they appear."""
    folded = _folded(text)
    classes, codes = _looked_up(np.frombuffer(folded.encode("utf-32-le"), np.uint32))
    starts, ends, minus, _, _ = _number_spans(codes, classes, np.array([0, len(codes)]), _is_joiner, _MINUS)
    spans = zip(starts.tolist(), ends.tolist(), minus.tolist(), strict=True)
    return list(dict.fromkeys(_canonical(codes[start:end], negative) for start, end, negative in spans))


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", _NARROW_SPACES.sub(_JOINED, text)).casefold()
    return unicodedata.normalize("NFKC", text)  # case folding may undo NFKC


def _looked_up(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class and the replacement of each character."""
    classes, plain, unseen = _look_up(codes, _classes, _plain)
    if unseen:
        for code in np.unique(codes[classes == _UNSEEN]).tolist():
            _learn(code)
        classes, plain, _ = _look_up(codes, _classes, _plain)
    return classes, plain


@njit(cache=True, nogil=True)
def _look_up(codes, class_of, plain_of):
    classes, plain = np.empty(codes.shape[0], np.uint8), np.empty(codes.shape[0], np.uint32)
    unseen = False
    for at in range(codes.shape[0]):
        classes[at], plain[at] = class_of[codes[at]], plain_of[codes[at]]
        unseen |= classes[at] == _UNSEEN
    return classes, plain, unseen


def _learn(code: int) -> None:
    """Enter a character in the tables. Concurrent threads write the same entry."""
    character = chr(code)
    category = unicodedata.category(character)
    kind = _OTHER
    if category == "Nd":
        _plain[code] = ord("0") + unicodedata.decimal(character)
        kind = _DIGIT
    elif category[0] in "LMN" or character == "_":
        kind = _ALONE if unicodedata.name(character, "").startswith(_UNSPACED) else _WORD
    elif character.isspace():
        kind = _SPACE
    _classes[code] = kind


# -- numbers -------------------------------------------------------------------------------------------------

_GROUPED = re.compile(r"[1-9]\d{0,2}(?:(?P<mark>[,.'])\d{3})(?P<more>(?:(?P=mark)\d{3})*)(?P<rest>[.,]\d+)?")
_DECIMAL = re.compile(r"(?P<whole>\d+)(?:[.,](?P<part>\d+))?")


def _numbers(codes: np.ndarray, classes: np.ndarray, offsets: np.ndarray) -> Sets:
    starts, ends, minus, hashes, counts = _number_spans(codes, classes, offsets, _is_joiner, _MINUS)
    first, back = _numbered(hashes)
    spans = zip(starts[first].tolist(), ends[first].tolist(), minus[first].tolist(), strict=True)
    known = [_canonical(codes[start:end], negative) for start, end, negative in spans]
    digests = b"".join(hashlib.blake2b(number.encode(), digest_size=8).digest() for number in known)
    return Sets(*_distinct(np.maximum(np.frombuffer(digests, np.uint64), 1)[back], counts))


def _canonical(codes: np.ndarray, negative: bool) -> str:
    """The canonical form of a number, from its characters."""
    token = codes.tobytes().decode("utf-32-le")
    if token.isdigit() and token[0] != "0":
        return f"-{token}" if negative else token
    token = "".join(_JOINERS.get(mark, mark) for mark in token)
    grouped = _GROUPED.fullmatch(token)
    if grouped and grouped["rest"] and grouped["rest"][0] == grouped["mark"]:
        grouped = None
    if grouped and (grouped["mark"] != "." or grouped["more"] or grouped["rest"]):
        token = token[: grouped.start("rest")] if grouped["rest"] else token
        token = token.replace(grouped["mark"], "") + (grouped["rest"] or "")
    decimal = _DECIMAL.fullmatch(token)
    if decimal is None:
        return re.sub(r"(?<!\d)0+(?=\d)", "", token)
    part = (decimal["part"] or "").rstrip("0")
    number = (decimal["whole"].lstrip("0") or "0") + (f".{part}" if part else "")
    return f"-{number}" if negative and number != "0" else number


@njit(cache=True, nogil=True)
def _number_spans(codes, classes, offsets, is_joiner, minus_signs):
    most = codes.shape[0] // 2 + offsets.shape[0]
    starts, ends = np.empty(most, np.int64), np.empty(most, np.int64)
    minus, hashes = np.zeros(most, np.bool_), np.empty(most, np.uint64)
    counts = np.zeros(offsets.shape[0], np.int64)
    found = 0
    for text in range(offsets.shape[0] - 1):
        first, last = offsets[text], offsets[text + 1]
        at = first
        while at < last:
            if classes[at] != _DIGIT:
                at += 1
                continue
            start = at
            value = np.uint64(0)
            while at < last:
                joins = is_joiner[codes[at]] and at + 1 < last and classes[at + 1] == _DIGIT
                if classes[at] != _DIGIT and not joins:
                    break
                value = value * np.uint64(0x9E3779B97F4A7C15) + np.uint64(codes[at])
                at += 1
            signed = start > first and (codes[start - 1] == minus_signs[0] or codes[start - 1] == minus_signs[1])
            if signed and (start - 1 == first or classes[start - 2] < _WORD):
                minus[found] = True
                value = value + np.uint64(1)
            starts[found], ends[found], hashes[found] = start, at, _mixed(value)
            found += 1
        counts[text + 1] = found
    return starts[:found], ends[:found], minus[:found], hashes[:found], counts


# -- words and runs -----------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, inline="always")
def _mixed(value):
    """The last step of splitmix64: every bit of the hash depends on every bit of the value."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value = value ^ (value >> np.uint64(31))
    return value if value else np.uint64(1)


@njit(cache=True, nogil=True)
def _words(codes, classes, offsets):
    """A hash for each word of all texts, and the offsets of the texts."""
    values = np.empty(codes.shape[0], np.uint64)
    ends = np.zeros(offsets.shape[0], np.int64)
    found = 0
    for text in range(offsets.shape[0] - 1):
        at, last = offsets[text], offsets[text + 1]
        while at < last:
            kind = classes[at]
            if kind < _WORD:
                at += 1
                continue
            value = np.uint64(1)
            while at < last and classes[at] >= _WORD and (classes[at] == _ALONE) == (kind == _ALONE):
                value = value * np.uint64(0x9E3779B97F4A7C15) + np.uint64(codes[at])
                at += 1
                if kind == _ALONE:
                    break
            values[found] = _mixed(value)
            found += 1
        ends[text + 1] = found
    return values[:found], ends


@njit(cache=True, nogil=True)
def _collapsed(codes, classes, offsets):
    """The characters of each text, with runs of white space as one space and none at the ends, and the offsets."""
    values = np.empty(codes.shape[0], np.uint32)
    ends = np.zeros(offsets.shape[0], np.int64)
    found = 0
    for text in range(offsets.shape[0] - 1):
        space = False
        for at in range(offsets[text], offsets[text + 1]):
            if classes[at] == _SPACE:
                space = True
                continue
            if space and found > ends[text]:
                values[found] = 32
                found += 1
            space = False
            values[found] = codes[at]
            found += 1
        ends[text + 1] = found
    return values[:found], ends


@njit(cache=True, nogil=True)
def _runs(values, offsets, length):
    """A hash for each run of `length` values (one for the whole text if it has fewer), and the offsets."""
    base = np.uint64(0xD6E8FEB86659FD93)
    out = np.empty(values.shape[0], np.uint64)
    ends = np.zeros(offsets.shape[0], np.int64)
    found = 0
    for text in range(offsets.shape[0] - 1):
        first, last = offsets[text], offsets[text + 1]
        size = min(length, last - first)
        value, highest = np.uint64(0), np.uint64(1)
        for at in range(first, first + size):
            value = value * base + np.uint64(values[at])
            highest *= base
        if size:
            out[found] = _mixed(value + np.uint64(size))
            found += 1
        for at in range(first + size, last):
            value = value * base + np.uint64(values[at]) - np.uint64(values[at - size]) * highest
            out[found] = _mixed(value + np.uint64(size))
            found += 1
        ends[text + 1] = found
    return out[:found], ends


# -- sets ---------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _room(size):
    """Number of slots, a power of two, of a hash table that is at most half full with `size` values."""
    room = 16
    while room < 2 * size:
        room *= 2
    return room


@njit(cache=True, nogil=True, inline="always")
def _slot(table, mask, value):
    """The slot of a value, or the free slot for it. A free slot contains 0, which is never a hash."""
    at = np.int64(value & np.uint64(mask))
    while table[at] != 0 and table[at] != value:
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def _numbered(values):
    """Index of the first occurrence of each distinct value, and for each value the number of its distinct value."""
    room = _room(values.shape[0])
    table, number = np.zeros(room, np.uint64), np.empty(room, np.int64)
    first, back = np.empty(values.shape[0], np.int64), np.empty(values.shape[0], np.int64)
    found = 0
    for at in range(values.shape[0]):
        slot = _slot(table, room - 1, values[at])
        if table[slot] == 0:
            table[slot], number[slot] = values[at], found
            first[found] = at
            found += 1
        back[at] = number[slot]
    return first[:found], back


@njit(cache=True, nogil=True)
def _distinct(values, offsets):
    """Offsets and values with each value of a text once, in the order of first occurrence."""
    out = np.empty(values.shape[0], np.uint64)
    ends = np.zeros(offsets.shape[0], np.int64)
    table = np.empty(_room(_largest(offsets)), np.uint64)
    found = 0
    for text in range(offsets.shape[0] - 1):
        room = _room(offsets[text + 1] - offsets[text])
        table[:room] = 0
        for at in range(offsets[text], offsets[text + 1]):
            slot = _slot(table, room - 1, values[at])
            if table[slot] == 0:
                table[slot] = values[at]
                out[found] = values[at]
                found += 1
        ends[text + 1] = found
    return ends, out[:found].copy()


@njit(cache=True, nogil=True)
def _overlap(offsets, values, one, other):
    shared = np.zeros(one.shape[0], np.int64)
    table = np.empty(_room(_largest(offsets)), np.uint64)
    room = 0
    for pair in range(one.shape[0]):
        text = one[pair]
        if pair == 0 or one[pair - 1] != text:
            room = _room(offsets[text + 1] - offsets[text])
            table[:room] = 0
            for at in range(offsets[text], offsets[text + 1]):
                table[_slot(table, room - 1, values[at])] = values[at]
        count = 0
        for at in range(offsets[other[pair]], offsets[other[pair] + 1]):
            count += table[_slot(table, room - 1, values[at])] != 0
        shared[pair] = count
    return shared


@njit(cache=True, nogil=True)
def _largest(offsets):
    """Size of the largest set."""
    size = 0
    for text in range(offsets.shape[0] - 1):
        size = max(size, offsets[text + 1] - offsets[text])
    return size
