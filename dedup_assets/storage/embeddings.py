"""The LanceDB table of embeddings: one row per distinct text, written shard by shard.

The rows of a group of shards are added in one transaction, so a crash leaves all of them or none. Predicates contain
only validated shard keys and hexadecimal hashes.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from dedup_assets.compute.hashes import HashIndex, empty_hashes
from dedup_assets.compute.text import hash_to_hex
from dedup_assets.errors import WorkspaceError
from dedup_assets.forks import require_own_threads
from dedup_assets.later import lancedb
from dedup_assets.storage.publish import storage_errors
from dedup_assets.storage.shard_keys import validate_shard_key

TABLE = "embeddings"

# A predicate with 2,000 hashes is about 70 KB of SQL and is answered in some 20 ms.
_HASHES_PER_PREDICATE = 2_000

ROWS_PER_BATCH = 8_192
"""Rows of a part of a scan or an addition: 12 MB of float32 at 384 dimensions."""

HASHES = 1 << 128
"""Number of possible hashes."""

KEPT_VERSIONS = timedelta(hours=1)
"""How long superseded versions of the table are kept: a reader uses the version it started with for minutes."""


class EmbeddingTable:
    """Vectors of distinct texts: columns `id, shard, text_hash, vector`.

    `id` and `shard` are those of the first record with the text; `vector` has unit norm.
    """

    def __init__(self, folder: Path, dimension: int, dtype: str) -> None:
        self.dimension = dimension
        self.dtype = np.dtype(dtype)
        self._known: int | None = None  # version up to which the caller of `known` has all texts
        self._schema = pa.schema(
            [
                ("id", pa.string()),
                ("shard", pa.string()),
                ("text_hash", pa.string()),
                ("vector", pa.list_(pa.from_numpy_dtype(self.dtype), dimension)),
            ]
        )
        require_own_threads()
        self._folder = folder
        database = lancedb.connect(folder)
        try:
            with storage_errors(folder):
                self._table = database.create_table(TABLE, schema=self._schema, exist_ok=True)
        except ValueError:  # a table with another schema exists; the difference is reported below
            self._table = database.open_table(TABLE)
        found = self._table.schema.field("vector").type
        if found != self._schema.field("vector").type:
            raise WorkspaceError(
                f"Table {TABLE} in {folder} holds vectors of type {found}, these settings give "
                f"{self._schema.field('vector').type}: vectors of two kinds cannot be compared. Use the "
                "settings the workspace was made with, or curate into a new workspace."
            )

    def __len__(self) -> int:
        return self._table.count_rows()

    def hashes(self) -> np.ndarray:
        """Hashes (n, 2) of all texts that have a vector."""
        return _hex_to_hashes(self._table.search().select(["text_hash"]).to_arrow().column("text_hash"))

    def known(self) -> HashIndex:
        """Hashes of all texts that have a vector, each with its row number in this result."""
        hashes = self.hashes()
        self._known = self._table.version
        return HashIndex(hashes, np.arange(len(hashes)))

    def add(self, parts: Iterable[pa.Table], *, unknown: bool = False) -> None:
        """Add texts that have no vector yet, in one transaction. A text that has one keeps it.

        Only one process at a time may call this: if two add the same text at once, the table stores both. It also
        compares with the version that was opened, which may be hours old.

        Parameters
        ----------
        parts : iterable of Table
            Columns `id, shard, text_hash, vector`; at most one part is in memory.
        unknown : bool
            Promises that no text occurs twice, and that none was in `known` or was added here since. Unless another
            process wrote to the table, they are appended without a comparison with the stored texts.
        """
        parts = (part for part in parts if part.num_rows)
        first = next(parts, None)
        if first is None:
            return
        batches = (batch for part in itertools.chain([first], parts) for batch in part.to_batches())
        rows = pa.RecordBatchReader.from_batches(self._schema, batches)
        self._table.checkout_latest()
        with storage_errors(self._folder):
            if unknown and self._table.version == self._known:
                self._table.add(rows)
                self._known = self._table.version
            else:
                self._table.merge_insert("text_hash").when_not_matched_insert_all().execute(rows)

    def rows(self, ids: Sequence[str], shards: Sequence[str], hashes: np.ndarray, vectors: np.ndarray) -> pa.Table:
        """Arrange columns as a part for `add`: hashes (n, 2) uint64, vectors (n, dimension)."""
        flat = pa.array(np.ascontiguousarray(vectors, dtype=self.dtype).ravel())
        return pa.table(
            [
                pa.array(ids, pa.string()),
                pa.array(shards, pa.string()),
                pa.array(hash_to_hex(hashes), pa.string()),
                pa.FixedSizeListArray.from_arrays(flat, self.dimension),
            ],
            schema=self._schema,
        )

    def vectors(self, shard: str, hashes: np.ndarray) -> np.ndarray:
        """Stored vectors of the given texts, shape (n, dimension), in the order of `hashes`.

        Most texts of a shard were embedded with it; those that another shard embedded first are looked
        up by hash. Raises WorkspaceError if a text has no vector.
        """
        result = np.empty((len(hashes), self.dimension), dtype=self.dtype)
        if not len(hashes):
            return result
        missing = self._fill(result, hashes, np.arange(len(hashes)), f"shard = '{validate_shard_key(shard)}'")
        left = self._fill_by_hash(result, hashes, missing)
        if len(left):
            raise WorkspaceError(
                f"{len(left)} texts of shard {shard} have no vector in table {TABLE}: materialise the "
                "asset `embeddings` of this shard again."
            )
        return result

    def find_vectors(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stored vectors (n, dimension) of some texts of any shards, and which have one: bool (n,).

        For a few texts of many shards. Where most are of one shard, `vectors` reads less.
        """
        result = np.zeros((len(hashes), self.dimension), dtype=self.dtype)
        found = np.ones(len(hashes), dtype=bool)
        found[self._fill_by_hash(result, hashes, np.arange(len(hashes)))] = False
        return result, found

    def scan(
        self, first: int = 0, stop: int = HASHES, shards: Sequence[str] | None = None
    ) -> Iterator[tuple[np.ndarray, pa.ChunkedArray, np.ndarray]]:
        """Hashes (n, 2), shards (n,) and vectors (n, dimension) of stored texts, in parts that fit in memory.

        Those whose hash, as a number of 128 bits, lies in ``first`` to ``stop`` (exclusive): hashes are practically
        random, so any such window is a fair sample of all texts. With `shards`, only texts that first came with one of
        them.
        """
        conditions = []
        if (first, stop) != (0, HASHES):
            conditions.append(f"text_hash >= '{first:032x}' AND text_hash < '{_bound(stop)}'")
        if shards is not None:
            conditions.append(f"shard IN ({', '.join(repr(validate_shard_key(shard)) for shard in shards)})")
        query = self._table.search()
        if conditions:
            query = query.where(" AND ".join(conditions))
        for batch in query.select(["text_hash", "shard", "vector"]).to_batches(batch_size=ROWS_PER_BATCH):
            if batch.num_rows:
                table = pa.Table.from_batches([batch])
                vectors = _vectors_of(table.column("vector"), self.dimension)
                yield _hex_to_hashes(table.column("text_hash")), table.column("shard"), vectors

    def first_vectors(self, shard: str, count: int) -> np.ndarray:
        """Up to `count` stored vectors that came with a shard, shape (n, dimension)."""
        query = self._table.search().where(f"shard = '{validate_shard_key(shard)}'").limit(count)
        column = query.select(["vector"]).to_arrow().column("vector")
        if not len(column):
            return np.empty((0, self.dimension), dtype=self.dtype)
        return _vectors_of(column, self.dimension)

    def _fill_by_hash(self, result: np.ndarray, hashes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Fill the wanted rows of `result`, whatever shards their texts came with; returns those not found."""
        left = [np.empty(0, np.int64)]
        for start in range(0, len(wanted), _HASHES_PER_PREDICATE):
            part = wanted[start : start + _HASHES_PER_PREDICATE]
            left.append(self._fill(result, hashes, part, f"text_hash IN ({_listed(hashes[part])})"))
        return np.concatenate(left)

    def _fill(self, result: np.ndarray, hashes: np.ndarray, wanted: np.ndarray, predicate: str) -> np.ndarray:
        """Fill the wanted rows of `result` from the rows under a predicate; returns those not found."""
        answer = self._table.search().where(predicate).select(["text_hash", "vector"]).to_arrow()
        index = HashIndex(_hex_to_hashes(answer.column("text_hash")), np.arange(answer.num_rows))
        found = index.find(hashes[wanted])
        have = found >= 0
        if have.any():
            vectors = _vectors_of(answer.column("vector"), self.dimension)
            result[wanted[have]] = vectors[found[have]]
        return wanted[~have]

    def sample(self, count: int, seed: int) -> np.ndarray:
        """Up to `count` vectors drawn without replacement, in a fixed order for a seed and a corpus.

        The draw is over texts sorted by hash, so the order in which shards were written does not matter.
        """
        column = self._table.search().select(["text_hash"]).with_row_id(True).to_arrow()
        hashes = _hex_to_hashes(column.column("text_hash"))
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        if len(order) > count:
            order = np.sort(np.random.default_rng(seed).choice(len(order), count, replace=False))
            order = np.lexsort((hashes[:, 1], hashes[:, 0]))[order]
        row_ids = column.column("_rowid").to_numpy()[order]
        if not len(row_ids):
            return np.empty((0, self.dimension), dtype=self.dtype)
        answer = self._table.take_row_ids([int(r) for r in row_ids]).select(["text_hash", "vector"]).to_arrow()
        place = HashIndex(_hex_to_hashes(answer.column("text_hash")), np.arange(answer.num_rows))
        return _vectors_of(answer.column("vector"), self.dimension)[place.find(hashes[order])]

    def nearest(self, vector: np.ndarray, count: int) -> list[dict[str, object]]:
        """The texts nearest a vector by cosine: `id, shard, text_hash, _distance` (1 - cosine)."""
        query = self._table.search(vector.astype(np.float32)).limit(count).distance_type("cosine")  # type: ignore[attr-defined]
        return query.select(["id", "shard", "text_hash", "_distance"]).to_arrow().to_pylist()

    def remove(self, hashes: np.ndarray) -> int:
        """Remove the vectors of some texts; returns how many there were. It is idempotent."""
        before = len(self)
        for start in range(0, len(hashes), _HASHES_PER_PREDICATE):
            self._table.delete(f"text_hash IN ({_listed(hashes[start : start + _HASHES_PER_PREDICATE])})")
        return before - len(self)

    def versions(self) -> int:
        """Versions of the table that are on disk."""
        return len(self._table.list_versions())

    def rewrite(self) -> None:
        """Rewrite the table and drop every earlier version, so that nothing of removed rows remains. No other process
        may use the table meanwhile."""
        self._table.checkout_latest()
        batches = self._table.search().select(self._schema.names).to_batches(ROWS_PER_BATCH)
        rows = pa.RecordBatchReader.from_batches(self._schema, (batch.cast(self._schema) for batch in batches))
        with storage_errors(self._folder):
            self._table = lancedb.connect(self._folder).create_table(TABLE, rows, schema=self._schema, mode="overwrite")
            self._optimize(timedelta(0), delete_unverified=True)

    def compact(self, keep: timedelta = KEPT_VERSIONS) -> None:
        """Merge small fragments, and drop superseded versions older than `keep`."""
        self._optimize(keep)

    def _optimize(self, keep: timedelta, *, delete_unverified: bool = False) -> None:
        with warnings.catch_warnings():  # readers of earlier versions would fail: the caller holds the exclusive lock
            warnings.simplefilter("ignore", UserWarning)
            self._table.optimize(cleanup_older_than=keep, delete_unverified=delete_unverified)


def _listed(hashes: np.ndarray) -> str:
    return ", ".join(f"'{text_hash}'" for text_hash in hash_to_hex(hashes))


def _bound(number: int) -> str:
    """Text that sorts after all hashes below a number, and before none of them."""
    return f"{number:032x}" if number < HASHES else "g"


def _hex_to_hashes(column: pa.ChunkedArray) -> np.ndarray:
    if not len(column):
        return empty_hashes()
    digits = "".join(column.to_pylist())
    return np.frombuffer(bytes.fromhex(digits), dtype=">u8").reshape(-1, 2).astype(np.uint64)


def _vectors_of(column: pa.ChunkedArray, dimension: int) -> np.ndarray:
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(parts).reshape(-1, dimension)
