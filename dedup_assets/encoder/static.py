"""Static encoders: a text's vector is the mean of its tokens' vectors, which lie in a table.

Tokenising is four fifths of the work, so each distinct word is tokenised once and kept with the sum of its rows; where
a tokenizer does not work inside words (`separable`), whole texts are tokenised. Sums are made in fixed point: they have
the same bits whichever way and in whatever batch a text comes.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_assets.compute.word_sums import split_words, sum_tokens, sum_window, unit_rows
from dedup_assets.encoder.encoder import EncodedTexts
from dedup_assets.encoder.separable import splitting_of
from dedup_assets.errors import ModelError

# Characters of the texts that are worked on at a time: it bounds the words that are met at once.
CHUNK_CHARACTERS = 1 << 20
# Words that are kept with their rows; then they are forgotten and begun anew.
WORD_BYTES = 256 << 20
# Rows of the table that are looked at at a time.
_SLAB = 1 << 16
# Bits of the largest number in fixed point, and tokens of a part: their products are whole numbers of an int32, and of
# a float64, which takes texts of eight million tokens.
_NARROW, _NARROW_TOKENS = 23, 255
_WIDE, _WIDE_TOKENS = 30, 1 << 20
_TOKENS_AT_ONCE = 1 << 16
_ALL = 1 << 30


@dataclass(frozen=True)
class TokenTable:
    """The vectors of a model's tokens.

    Attributes
    ----------
    vectors : array (r, d) of floating point or int8
    rows : int64 array (t,) or None
        Which of the vectors each token has; None: its own.
    weights : float array (t,) or None
        By which the vector of each token is multiplied.
    dropped : int or None
        Token that adds nothing to a text's vector.
    unknown : int or None
        Token that stands for what the model does not know.
    """

    vectors: npt.NDArray[Any]
    rows: npt.NDArray[np.int64] | None
    weights: npt.NDArray[Any] | None
    dropped: int | None
    unknown: int | None

    def __len__(self) -> int:
        return len(self.vectors) if self.rows is None else len(self.rows)

    def of(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.floating[Any]]:
        """Vectors (n, d) of tokens, weighted; float32, or float64 where there are weights."""
        vectors = self.vectors[tokens if self.rows is None else self.rows[tokens]]
        if self.weights is not None:
            vectors = vectors.astype(np.float64) * self.weights[tokens].astype(np.float64)[:, None]
        elif vectors.dtype != np.float64:
            vectors = vectors.astype(np.float32)
        if self.dropped is not None:
            vectors[tokens == self.dropped] = 0.0
        return vectors


class FixedPoint:
    """In which whole numbers a table's vectors are added: of 32 bits where every row keeps at least 10 of them.

    Attributes
    ----------
    scale : float
        Power of two by which vectors are multiplied before they are rounded.
    dtype : dtype
        int32, or float64 with whole numbers.
    part : int
        Tokens whose sum fits `dtype`.

    Raises ModelError for a table without a finite number other than 0.
    """

    def __init__(self, table: TokenTable) -> None:
        largest, least = 0.0, math.inf
        for start in range(0, len(table), _SLAB):
            vectors = table.of(np.arange(start, min(start + _SLAB, len(table))))
            if not np.isfinite(vectors).all():
                raise ModelError("the table has vectors that are not finite. Expected weights as published")
            norms = np.linalg.norm(vectors, axis=1)
            largest = max(largest, float(np.abs(vectors).max(initial=0.0)))
            least = min(least, float(norms[norms > 0].min(initial=math.inf)))
        if largest == 0.0:
            raise ModelError("the table has no vector other than 0. Expected weights as published")
        exponent = math.frexp(largest)[1]  # largest <= 2 ** exponent
        narrow = math.ldexp(least, _NARROW - exponent) >= math.sqrt(table.vectors.shape[1]) * 2**9
        self.dtype = np.dtype(np.int32 if narrow else np.float64)
        self.part = _NARROW_TOKENS if narrow else _WIDE_TOKENS
        self.scale = math.ldexp(1.0, (_NARROW if narrow else _WIDE) - exponent)


class _Parts:
    """Parts of texts (words; tokens) with the sums of their rows, as `sum_window` takes them."""

    def __init__(self, table: TokenTable, fixed: FixedPoint) -> None:
        self._table, self._fixed = table, fixed
        self.size = 0
        self.rows = np.empty((0, table.vectors.shape[1]), fixed.dtype)
        self.counts = np.empty(0, np.int32)
        self.unknown = np.empty(0, np.int32)
        self.starts = np.zeros(1, np.int64)  # of the tokens of each part
        self.tokens = np.empty(0, np.int32)

    def add(self, tokens: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> None:
        """Append parts of so many tokens. What others hold of the arrays stays as it is."""
        count = len(lengths)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        rows = np.empty((count, self.rows.shape[1]), self.rows.dtype)
        first = 0
        while first < count:  # few tokens at a time: each brings a row of floating point
            last = max(first + 1, int(np.searchsorted(starts, starts[first] + _TOKENS_AT_ONCE, "right")) - 1)
            distinct, places = np.unique(tokens[starts[first] : starts[last]], return_inverse=True)
            sum_tokens(
                self._table.of(distinct.astype(np.int64)),
                self._fixed.scale,
                starts[first : last + 1] - starts[first],
                places,
                rows[first:last],
            )
            first = last
        strange = np.zeros(count, np.int32)
        if self._table.unknown is not None:
            found = np.concatenate([np.zeros(1, np.int64), np.cumsum(tokens == self._table.unknown)])
            strange = (found[starts[1:]] - found[starts[:-1]]).astype(np.int32)
        end = self.size + count
        self.rows = _appended(self.rows, self.size, rows)
        self.counts = _appended(self.counts, self.size, lengths.astype(np.int32))
        self.unknown = _appended(self.unknown, self.size, strange)
        self.tokens = _appended(self.tokens, int(self.starts[self.size]), tokens)
        self.starts = _appended(self.starts, self.size + 1, starts[1:] + self.starts[self.size])
        self.size = end


def _appended(array: npt.NDArray[Any], size: int, more: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`array` with `more` behind its first `size` rows; in twice the room where there is too little."""
    if size + len(more) > len(array):
        room = np.empty((max(size + len(more), 2 * size), *array.shape[1:]), array.dtype)
        room[:size] = array[:size]
        array = room
    array[size : size + len(more)] = more
    return array


@dataclass(frozen=True)
class _Laid:
    """Texts as parts: which of them (starts, indices) in which store. It may grow meanwhile, and these stay."""

    parts: _Parts
    starts: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]


class StaticEncoder:
    """A text encoder by a table of token vectors; its vectors do not depend on batches, order, threads or words met
    before. Safe to call from several threads.

    Parameters
    ----------
    table : TokenTable
    tokenizer : tokenizers.Tokenizer
        Taken over: padding and truncation are switched off.
    max_length : int or None
        Tokens that are read of a text; None: all.
    head : int or None
        Characters that are read of a text; None: all.

    Attributes
    ----------
    dimension : int
    max_length : int or None
    by_words : bool
        Whether the tokenizer works inside words, so that each distinct word is tokenised once.
    device, precision, pooling : str
        "cpu", "float32", "mean".

    Raises
    ------
    ModelError
        The table does not fit the tokenizer, or is none of finite numbers.
    """

    device, precision, pooling, batch_size = "cpu", "float32", "mean", None

    def __init__(
        self, table: TokenTable, tokenizer: Any, *, max_length: int | None = None, head: int | None = None
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if highest >= len(table):
            raise ModelError(
                f"the tokenizer knows the token {highest}, and the table has vectors for {len(table)}. Expected the "
                "files of one model"
            )
        self.dimension = int(table.vectors.shape[1])
        self.max_length = max_length
        self._kinds = splitting_of(tokenizer)
        self.by_words = self._kinds is not None
        self._head = head
        self._window = max_length if max_length is not None else _ALL
        self._tokenizer = tokenizer
        self._table = table
        self._fixed = FixedPoint(table)
        self._lock = threading.Lock()
        self._words: dict[str, int] = {}
        self._spans = np.empty(0, np.int64)  # parts of the word that begins with a part
        self._parts = self._no_parts()

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Vectors of n `texts`; those of texts without a known token are zero, and their unknown share is 1."""
        n = len(texts)
        result = EncodedTexts(
            np.zeros((n, self.dimension), np.float32),
            np.zeros(n, np.bool_),
            np.zeros(n, np.int32),
            np.zeros(n, np.float32),
        )
        cores = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(cores, thread_name_prefix="static") as pool:
            working: list[Future[None]] = []
            # A few are split ahead, so that memory is bounded.
            coming: list[tuple[slice, Future[Any]]] = []
            for part in _chunks(texts, self._head):
                coming.append((part, pool.submit(self._prepared, texts[part])))
                if len(coming) > cores:
                    working.append(self._submit(pool, coming.pop(0), result))
                while len(working) > 2 * cores:
                    working.pop(0).result()
            for each in coming:
                working.append(self._submit(pool, each, result))
            for done in working:
                done.result()
        if self._head is not None:
            result.truncated[:] |= np.fromiter((len(t) > self._head for t in texts), np.bool_, n)
        return result

    def unknown_shares(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Share (n,) of the tokens of each text that the model does not know."""
        return self.encode(texts).unknown

    def _submit(
        self, pool: ThreadPoolExecutor, prepared: tuple[slice, Future[Any]], result: EncodedTexts
    ) -> Future[None]:
        part, future = prepared
        laid = self._laid_by_words(*future.result()) if self.by_words else self._laid_by_tokens(future.result())
        return pool.submit(self._finish, laid, part, result)

    def _prepared(self, texts: Sequence[str]) -> Any:
        heads = [text[: self._head] for text in texts] if self._head is not None else list(texts)
        if self._kinds is None:
            return heads
        array = pa.array(heads, pa.large_string())
        _, offsets, data = array.buffers()
        places = np.frombuffer(offsets, np.int64)[: len(heads) + 1]
        letters, bounds, starts = split_words(
            np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8), places, self._kinds
        )
        words = pa.LargeStringArray.from_buffers(len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(letters))
        coded = words.dictionary_encode()
        return coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64), starts

    def _laid_by_words(self, words: list[str], indices: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> _Laid:
        with self._lock:
            known = self._words
            new = [word for word in words if word not in known]
            if new and self._parts.size and (self._parts.size + len(new)) * self._parts.rows[0].nbytes > WORD_BYTES:
                known = self._words = {}
                self._parts, self._spans, new = self._no_parts(), np.empty(0, np.int64), words
            if new:
                self._learn(new)
            places = np.fromiter((known[word] for word in words), np.int64, len(words))
            spans, parts = self._spans[places], self._parts
        if (spans > 1).any():
            # A word of very many tokens stands as several parts, one after the other.
            span = spans[indices]
            ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(span)])
            within = np.arange(ends[-1]) - np.repeat(ends[:-1], span)
            return _Laid(parts, ends[starts], np.repeat(places[indices], span) + within)
        return _Laid(parts, starts, places[indices])

    def _learn(self, words: list[str]) -> None:
        tokens, lengths = self._read(words)
        first = self._parts.size
        most = self._fixed.part
        spans = np.maximum(1, -(-lengths // most))
        begins = first + np.cumsum(spans) - spans
        split = np.full(int(spans.sum()), most, np.int64)
        split[begins - first + spans - 1] = lengths - (spans - 1) * most
        self._parts.add(tokens, split)
        self._spans = _appended(self._spans, first, np.repeat(spans, spans))
        self._words.update(zip(words, begins.tolist(), strict=True))

    def _laid_by_tokens(self, heads: list[str]) -> _Laid:
        tokens, lengths = self._read(heads)
        distinct, places = np.unique(tokens, return_inverse=True)
        parts = self._no_parts()
        parts.add(distinct.astype(np.int32), np.ones(len(distinct), np.int64))
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return _Laid(parts, starts, places.astype(np.int64))

    def _read(self, texts: list[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Token ids of texts, end to end, and how many each has."""
        found = [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return np.fromiter(chain.from_iterable(found), np.int32, int(lengths.sum())), lengths

    def _no_parts(self) -> _Parts:
        return _Parts(self._table, self._fixed)

    def _finish(self, laid: _Laid, part: slice, result: EncodedTexts) -> None:
        n = len(laid.starts) - 1
        sums = np.empty((n, self.dimension))
        tokens, strange, left = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
        cut = np.empty(n, np.int64)
        parts = laid.parts
        stored = parts.rows, parts.counts, parts.unknown
        sum_window(*stored, laid.starts, laid.indices, self._window, sums, tokens, strange, cut, left)
        for text in np.flatnonzero(cut >= 0):
            first = int(parts.starts[cut[text]])
            rest = parts.tokens[first : first + left[text]].astype(np.int64)
            sums[text] += np.rint(self._table.of(rest).astype(np.float64) * self._fixed.scale).sum(axis=0)
            tokens[text] += len(rest)
            if self._table.unknown is not None:
                strange[text] += int((rest == self._table.unknown).sum())
        unit_rows(sums, result.vectors[part])
        result.tokens[part] = tokens
        result.truncated[part] = cut >= 0
        # Tokens whose vectors add up to nothing say as little as none.
        nothing = (tokens == 0) | ~sums.any(axis=1)
        result.unknown[part] = np.where(nothing, 1.0, strange / np.maximum(tokens, 1))


def _chunks(texts: Sequence[str], head: int | None) -> Iterator[slice]:
    """Consecutive texts of `CHUNK_CHARACTERS` characters or less, at least one."""
    start, size = 0, 0
    for at, text in enumerate(texts):
        length = len(text) if head is None else min(len(text), head)
        if size and size + length > CHUNK_CHARACTERS:
            yield slice(start, at)
            start, size = at, 0
        size += length
    if start < len(texts):
        yield slice(start, len(texts))
