"""Which texts go into one batch, and in what shape: decided by token counts alone.

Knows neither texts nor models. Two ways: packed, where texts lie end to end in a matrix of fixed height; and
padded, where each is filled up to one of few lengths, for models that packing does not fit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# A text longer than the height of packed batches gets a batch of its own, of this many rows or a multiple.
LONG_STEP = 128


@dataclass(frozen=True)
class Run:
    """`count` texts of `length` tokens each, end to end from row `start`."""

    start: int
    count: int
    length: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.count * self.length)


@dataclass(frozen=True)
class PackedBatch:
    """Texts that lie end to end.

    Attributes
    ----------
    texts : int64 array (n,)
        Their numbers, in the order in which they lie.
    runs : list of Run
        Where they lie; texts of one length are in one run.
    height : int
        Rows of the matrix, a function of the length of any of them; what `runs` leave over is empty.
    """

    texts: npt.NDArray[np.int64]
    runs: list[Run]
    height: int


def packed_batches(counts: npt.NDArray[np.integer], height: int, most: int | None = None) -> Iterator[PackedBatch]:
    """Lay texts of so many tokens (at least 1 each) into batches of `height` rows, of at most `most` texts.

    The longest that fits goes in next, so that long texts leave no gaps that the short ones could not fill:
    of 2,000 docstrings all batches but the last were full to 99.9 %.
    """
    waiting: dict[int, list[int]] = {}
    for text in np.argsort(counts, kind="stable").tolist():
        waiting.setdefault(int(counts[text]), []).append(text)
    lengths = list(waiting)  # rising
    while lengths:
        longest = lengths[-1]
        if longest > height:
            text = waiting[longest].pop()
            rows = -(-longest // LONG_STEP) * LONG_STEP
            if not waiting[longest]:
                lengths.pop()
            yield PackedBatch(np.array([text]), [Run(0, 1, longest)], rows)
            continue
        texts: list[int] = []
        runs: list[Run] = []
        filled, left = 0, most or height
        while left and (fitting := bisect_right(lengths, height - filled)):
            length = lengths[fitting - 1]
            same = waiting[length]
            count = min(len(same), (height - filled) // length, left)
            texts += same[-count:]
            del same[-count:]
            if not same:
                del lengths[fitting - 1]
            runs.append(Run(filled, count, length))
            filled, left = filled + count * length, left - count
        yield PackedBatch(np.array(texts), runs, height)


def length_ladder(max_length: int) -> npt.NDArray[np.int64]:
    """Padded lengths in use, rising, the last one is `max_length`.

    Steps of 8 up to 64, then of an eighth to a quarter of the length: on average 10 % of the positions are
    padding, and there are few enough classes that half-filled last batches do not matter.
    """
    steps = [*range(8, 64, 8), *range(64, 128, 16), *range(128, 256, 32)]
    length = 256
    while length < max_length:
        steps += range(length, 2 * length, length // 4)
        length *= 2
    return np.array([s for s in steps if s < max_length] + [max_length], dtype=np.int64)


def ladder_steps(counts: npt.NDArray[np.integer], ladder: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each text's place on the ladder: the smallest length with room for one padded position.

    The full window needs none; it is a class of its own, one past the ladder's end.
    """
    return np.minimum(np.searchsorted(ladder, counts + 1), len(ladder))


def ladder_length(step: int, ladder: npt.NDArray[np.int64]) -> int:
    """Padded length of a class that `ladder_steps` gave."""
    return int(ladder[min(step, len(ladder) - 1)])


def padded_batches(
    counts: npt.NDArray[np.integer], ladder: npt.NDArray[np.int64], positions: int, most: int | None = None
) -> Iterator[tuple[npt.NDArray[np.int64], int, int]]:
    """Text numbers, padded length and row count of each batch; the two last depend on the length alone.

    A batch has `positions` positions or fewer, at least one row, and at most `most` texts.
    """
    order = np.argsort(-counts, kind="stable")  # long first: no long batch is left over at the end
    step = ladder_steps(counts[order], ladder)
    for s in np.unique(step)[::-1]:
        members = order[step == s]
        length = ladder_length(s, ladder)
        height = max(1, positions // length)
        taken = min(height, most or height)
        for start in range(0, len(members), taken):
            yield members[start : start + taken], length, height
