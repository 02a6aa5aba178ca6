"""Sums of token vectors by words: splits texts at white space, adds up the rows of their words, normalises the sums.

Rows hold whole numbers (vectors in fixed point), so that a sum has the same bits in any order and grouping of its
terms: by words, by tokens or in parts.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LETTER, SEPARATOR, ALONE = 0, 1, 2
"""Kinds of a byte of a text: part of a word, white space between words, or a separate word."""

SEPARATORS = b" \t\n\r"
"""The characters that all supported tokenizers treat as white space."""


def byte_kinds(alone: bytes = b"") -> np.ndarray:
    """Kind (256,) uint8 of each byte of UTF-8; `alone` holds the ASCII characters that are separate words."""
    kinds = np.full(256, LETTER, np.uint8)
    kinds[list(SEPARATORS)] = SEPARATOR
    kinds[list(alone)] = ALONE
    return kinds


@njit(cache=True, nogil=True)
def _split(data, offsets, kinds, out, ends, words):
    """Copy `data` without separators to `out`; ends of words in it to `ends`, words before each text to `words`."""
    filled = 0
    count = 0
    for text in range(offsets.shape[0] - 1):
        words[text] = count
        inside = False
        for at in range(offsets[text], offsets[text + 1]):
            kind = kinds[data[at]]
            if kind != LETTER and inside:
                ends[count] = filled
                count += 1
                inside = False
            if kind == SEPARATOR:
                continue
            out[filled] = data[at]
            filled += 1
            inside = kind == LETTER
            if kind == ALONE:
                ends[count] = filled
                count += 1
        if inside:
            ends[count] = filled
            count += 1
    words[offsets.shape[0] - 1] = count
    return filled


def split_words(data: np.ndarray, offsets: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split n texts into words.

    Parameters
    ----------
    data : uint8 array
        UTF-8 of the texts.
    offsets : int64 array (n + 1,)
        Start and end of each text.
    kinds : uint8 array (256,)
        See `byte_kinds`.

    Returns
    -------
    letters : uint8 array
        UTF-8 of the words, end to end.
    bounds : int64 array (w + 1,)
        Start and end of each of the w words in it.
    starts : int64 array (n + 1,)
        Which words belong to each text.
    """
    size = int(offsets[-1] - offsets[0])
    letters = np.empty(size, np.uint8)
    ends = np.empty(size, np.int64)
    starts = np.empty(len(offsets), np.int64)
    filled = _split(data, offsets, kinds, letters, ends, starts)
    return letters[:filled], np.concatenate([np.zeros(1, np.int64), ends[: starts[-1]]]), starts


@njit(cache=True, nogil=True)
def sum_tokens(vectors, scale, starts, places, rows):
    """Sums of token vectors in fixed point: ``rows[i] = sum(rint(vectors[places[k]] * scale))`` over the tokens k from
    ``starts[i]`` to ``starts[i + 1]``.

    `vectors` (t, d) float32 or float64, `scale` a power of two, `rows` (p, d) int32 or float64.
    """
    total = np.empty(vectors.shape[1], np.float64)
    for i in range(starts.shape[0] - 1):
        total[:] = 0.0
        for k in range(starts[i], starts[i + 1]):
            token = places[k]
            for j in range(vectors.shape[1]):
                total[j] += np.rint(np.float64(vectors[token, j]) * scale)
        for j in range(vectors.shape[1]):
            rows[i, j] = total[j]


@njit(cache=True, nogil=True)
def sum_window(rows, counts, unknown, starts, indices, window, sums, tokens, strange, cut, left):
    """Add up the rows of each text's parts while their tokens fit `window`.

    Parameters
    ----------
    rows : int32 or float64 array (p, d)
        Sums of the token vectors of each part.
    counts, unknown : int32 arrays (p,)
        Tokens of each part, and the number of them unknown to the model.
    starts : int64 array (n + 1,)
        Which of `indices` belong to each text.
    indices : int64 array
        The parts of the texts, in their order.
    window : int
        Largest number of tokens of a text.
    sums : float64 array (n, d)
    tokens, strange : int32 arrays (n,)
        Number of tokens added, and of unknown ones among them.
    cut : int64 array (n,)
        The first part that did not fit; -1 where all did.
    left : int32 array (n,)
        Number of tokens of that part that fit.
    """
    for i in range(starts.shape[0] - 1):
        read = 0
        odd = 0
        cut[i] = -1
        left[i] = 0
        for j in range(rows.shape[1]):
            sums[i, j] = 0.0
        for k in range(starts[i], starts[i + 1]):
            part = indices[k]
            if read + counts[part] > window:
                cut[i] = part
                left[i] = window - read
                break
            read += counts[part]
            odd += unknown[part]
            for j in range(rows.shape[1]):
                sums[i, j] += rows[part, j]
        tokens[i] = read
        strange[i] = odd


@njit(cache=True, nogil=True)
def unit_rows(sums, out):
    """Rows of `sums` (n, d) float64 as float32 of unit norm; a row of zeros stays zero."""
    for i in range(sums.shape[0]):
        square = 0.0
        for j in range(sums.shape[1]):
            square += sums[i, j] * sums[i, j]
        norm = np.sqrt(square)
        for j in range(sums.shape[1]):
            out[i, j] = np.float32(sums[i, j] / norm) if norm > 0.0 else np.float32(0.0)
