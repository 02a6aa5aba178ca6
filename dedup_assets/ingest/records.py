"""Reads one shard file into validated records, and quarantines the other rows with reasons.

Uses files and columns, no similarities. Each row becomes either a record or a quarantined row with a reason.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.errors import ShardError
from dedup_assets.ingest import columns
from dedup_assets.ingest.formats.batches import render_row, render_rows
from dedup_assets.ingest.readers import Batch, Rejected, ShardContent, read_shard
from dedup_assets.ingest.record_spec import IngestSpec, check_columns
from dedup_assets.ingest.source_files import SourceFile, stored_bytes
from dedup_assets.ingest.vector_file import VectorFile
from dedup_assets.storage.raw_table import RawShard, raw_table_writer, take_rows
from dedup_assets.storage.struct_columns import column_field, column_of, find_column

__all__ = ["IngestReport", "IngestSpec", "ingest_shard", "read_texts"]


_COMPRESSION = "zstd"
_MANY_REJECTED = 200_000
_QUARANTINE_ROWS = 4_096  # of at most some 10 kB a column: well inside 32-bit offsets
_QUARANTINE_COLUMNS = pa.schema([("row", pa.int64()), ("reason", pa.string()), ("record", pa.string())])


@dataclass(frozen=True)
class IngestReport:
    """The result of reading one shard: rows == records + sum of quarantined.

    `quarantined` counts by kind of reason. `dimension` is None without embeddings or without a valid one.
    `bytes` is the size of the file as it is stored. `text_column_types` are the Arrow types of the text
    columns, empty if the file has none. `schema` is the input's Arrow schema as text.
    """

    rows: int
    records: int
    quarantined: dict[str, int]
    dimension: int | None
    bytes: int
    text_column_types: tuple[str, ...]
    schema: str


def ingest_shard(
    source: SourceFile, destination: Path, spec: IngestSpec, look: Callable[[], None] = lambda: None
) -> IngestReport:
    """Read, validate and identify the rows of one shard.

    Parameters
    ----------
    source : SourceFile
    destination : Path
        An existing, empty folder. The caller publishes it.
    spec : IngestSpec
    look : callable
        Called before each batch; an exception that it raises stops the reading.

    Returns
    -------
    IngestReport
        And in `destination` the files of a `RawShard`, the same bytes for the same input.

    Raises
    ------
    ShardError
        The file cannot be read, or its columns do not fit the spec.
    """
    content = read_shard(source, spec.text_columns, spec.id_column, spec.order_column, spec.csv_types)
    raw = RawShard(destination)
    vectors = VectorFile(raw.vectors, spec.embedding_dtype)
    shard = _Shard(source, spec, content, vectors)
    with raw_table_writer(raw.table, content.schema) as writer:
        for batch in content.batches:
            look()
            if batch.table.num_rows:
                writer.write_table(batch.table, row_group_size=batch.table.num_rows)
            shard.add(batch)
            if len(shard.quarantine) > _MANY_REJECTED:  # the end may be far, and they are in memory
                shard.refuse_mostly_quarantined()
    shard.refuse_all_wrong_dimension()
    shard.quarantine_repeated_ids(raw.table)
    shard.refuse_mostly_quarantined()
    shard.write(raw)
    report = IngestReport(
        rows=shard.rows,
        records=shard.number_of_records,
        quarantined=dict(sorted(Counter(item.kind for item in shard.quarantine).items())),
        dimension=shard.dimension if spec.embedding_column else None,
        bytes=stored_bytes(source),
        text_column_types=shard.text_types(),
        schema=content.schema.to_string(show_schema_metadata=False, show_field_metadata=False),
    )
    quarantined_rows = {item.row for item in shard.quarantine}
    if report.rows != report.records + len(quarantined_rows) or len(quarantined_rows) != len(shard.quarantine):
        raise AssertionError(f"{source.uri!r}: rows were lost or counted twice: {report}")
    return report


def read_texts(raw: RawShard, spec: IngestSpec, positions: np.ndarray | None = None) -> list[str]:
    """The joined, normalised texts at `positions` of an ingested shard.

    Parameters
    ----------
    raw : RawShard
    positions : ndarray of int64, or None
        Indices into the table, in any order and with repetitions; None: all rows.

    Returns
    -------
    list of str
        One text a position; "" where the text is null or the shard has no text column.
    """
    with pq.ParquetFile(raw.table) as file:
        names = [name for name in spec.text_columns if find_column(file.schema_arrow, name)]
        if positions is None:
            positions = np.arange(file.metadata.num_rows)
        if len(names) < len(spec.text_columns) or not names:
            return [""] * len(positions)
        texts = np.full(len(positions), "", dtype=object)
        for indices, table in take_rows(file, np.asarray(positions, dtype=np.int64), names):
            joined = columns.join_texts(columns.text_table(table, names)[0], names)
            texts[indices] = columns.normalised_texts(joined, spec.unicode_form)
    return texts.tolist()


# ------------------------------------------------------------------------------------- validation


@dataclass
class _Shard:
    """Collects the records and the quarantined rows of one shard, batch by batch."""

    source: SourceFile
    spec: IngestSpec
    content: ShardContent
    vectors: VectorFile  # beside the records; written only with an embedding column
    rows: int = 0
    parsed: int = 0
    embeddings: int = 0  # rows whose embedding is not null
    wrong_dimension: list[str] = field(default_factory=list)
    quarantine: list[Rejected] = field(default_factory=list)
    records: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        spec, schema = self.spec, self.content.schema
        self.dimension = spec.dimension
        check_columns(self.source, spec, self.content)
        self.text_columns: Sequence[str] = [name for name in spec.text_columns if find_column(schema, name)]
        self.has_ids = find_column(schema, spec.id_column) is not None

    def add(self, batch: Batch) -> None:
        """Validate the rows of a batch; the first thing wrong with a row is its reason."""
        self.rows += len(batch.rows) + len(batch.rejected)
        self.quarantine += batch.rejected
        table = batch.table
        positions = np.arange(self.parsed, self.parsed + table.num_rows, dtype=np.int64)
        self.parsed += table.num_rows
        if not table.num_rows:
            return
        spec = self.spec
        reasons = columns.no_reasons(table.num_rows)
        if self.text_columns:
            text_table, reasons = columns.text_table(table, self.text_columns)
            others = columns.text_reasons(text_table, self.text_columns, spec.keep_empty)
            reasons = np.where(reasons == "", others, reasons)
        unit = None
        if spec.embedding_column:
            unit, vector_reasons = self._vectors(column_of(table, spec.embedding_column), reasons == "")
            reasons = np.where(reasons == "", vector_reasons, reasons)
        ids = self._ids(table, batch.rows)
        id_reasons = columns.id_reasons(ids)
        reasons = np.where(reasons == "", id_reasons, reasons)
        good = reasons == ""
        bad = np.flatnonzero(~good)
        for index, record in zip(bad.tolist(), render_rows(table, bad), strict=True):
            reason = reasons[index]
            self.quarantine.append(Rejected(int(batch.rows[index]), columns.reason_kind(reason), reason, record))
        if not good.any():
            return
        stays = pa.array(good)
        if self.text_columns:
            joined = columns.join_texts(text_table, self.text_columns).filter(stays)
            texts = columns.identify_texts(joined, spec.unicode_form)
        else:
            assert unit is not None  # check_columns lets no file without both pass
            texts = columns.identify_vectors(unit[good])
        fields = {
            "row": pa.array(batch.rows[good]),
            "position": pa.array(positions[good]),
            "id": ids.filter(stays),
            "text_hash": columns.hashes_to_binary(texts.hashes),
            "characters": pa.array(texts.characters),
        }
        if spec.order_column:
            fields["order_value"] = columns.decoded(column_of(table, spec.order_column).filter(stays))
        self.records.append(pa.table(fields))
        if unit is not None:
            self.vectors.append(unit[good])

    def text_types(self) -> tuple[str, ...]:
        fields = (column_field(self.content.schema, name) for name in self.text_columns)
        return tuple(str(field.type) for field in fields if field is not None)

    @property
    def _where(self) -> str:
        return f"{self.source.uri!r} (shard {self.source.key})"

    def _vectors(self, column: pa.ChunkedArray, eligible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            vectors = columns.read_vectors(column, eligible, self.dimension, self.spec.embedding_dtype)
        except TypeError as error:
            raise ShardError(
                f"{self._where}: embedding column {self.spec.embedding_column!r} holds {error}. "
                "Expected lists of numbers, or strings with JSON arrays. Change --embedding-column."
            ) from error
        self.dimension = vectors.dimension
        self.embeddings += int((vectors.reasons != "embedding is null").sum())
        self.wrong_dimension += [
            reason
            for reason in vectors.reasons[vectors.reasons != ""]
            if columns.reason_kind(reason) == "embedding has another dimension"
        ]
        return vectors.unit, vectors.reasons

    def _ids(self, table: pa.Table, rows: np.ndarray) -> pa.ChunkedArray:
        if not self.has_ids:
            numbers = pa.array(rows).cast(pa.string())
            return pa.chunked_array([pc.binary_join_element_wise(self.source.key, numbers, ":")])
        try:
            return columns.id_strings(column_of(table, self.spec.id_column))
        except (pa.ArrowException, TypeError) as error:
            kind = column_of(table, self.spec.id_column).type
            raise ShardError(
                f"{self._where}: id column {self.spec.id_column!r} holds {kind}, "
                f"which cannot be written as strings ({error}). Name another column with --id-column."
            ) from error

    def refuse_all_wrong_dimension(self) -> None:
        """A shard of which no embedding fits is a wrong file or a wrong setting, not a set of bad rows."""
        if self.wrong_dimension and len(self.wrong_dimension) == self.embeddings:
            raise ShardError(
                f"{self._where}, column {self.spec.embedding_column!r}: every "
                f"{self.wrong_dimension[0]}. Use embeddings of the model that the workspace was made with, "
                "or another workspace."
            )

    def refuse_mostly_quarantined(self) -> None:
        """A shard of which next to nothing can be read is another kind of file, not a corpus with bad rows."""
        if len(self.quarantine) <= self.spec.max_quarantined * self.rows:
            return
        counts = Counter(item.kind for item in self.quarantine).most_common()
        kinds = ", ".join(f"{kind} ({count})" for kind, count in counts[:5])
        first = min((item for item in self.quarantine if item.kind == counts[0][0]), key=lambda item: item.row)
        raise ShardError(
            f"{self._where}: {len(self.quarantine)} of {self.rows} rows cannot be records: {kinds}. Row {first.row}, "
            f"for instance: {first.reason}. Expected at most {self.spec.max_quarantined:g} "
            "of the rows in quarantine. Look at the file and at the names of the columns, or allow more with "
            "--max-quarantined."
        )

    # ------------------------------------------------------------------------------------- writing

    @property
    def number_of_records(self) -> int:
        return sum(part.num_rows for part in self.records)

    def quarantine_repeated_ids(self, table_path: Path) -> None:
        """Keep the first record of each id; the later ones go to quarantine, or the shard is refused."""
        if not self.has_ids or not self.number_of_records:
            return
        records = pa.concat_tables(self.records)
        codes = pc.dictionary_encode(records.column("id")).combine_chunks().indices.to_numpy()
        _, firsts, which = np.unique(codes, return_index=True, return_inverse=True)
        repeated = np.ones(len(codes), dtype=bool)
        repeated[firsts] = False
        if not repeated.any():
            return
        rows = records.column("row").to_numpy()
        later = np.flatnonzero(repeated)
        first_of = firsts[which[later]]
        if self.spec.duplicate_ids == "refuse":
            raise ShardError(
                f"{self._where}: the id "
                f"{records.column('id')[int(later[0])].as_py()!r} occurs in rows {rows[first_of[0]]} and "
                f"{rows[later[0]]}; {len(later)} rows repeat an id. Expected ids that occur once. Repair the "
                'file, or set duplicate_ids = "quarantine" to keep the first of each.'
            )
        positions = records.column("position").to_numpy()[later]
        with pq.ParquetFile(table_path) as file:
            for indices, table in take_rows(file, positions):
                for place, index in enumerate(indices):
                    reason = f"duplicate id: row {rows[first_of[index]]} has it already"
                    row = int(rows[later[index]])
                    self.quarantine.append(Rejected(row, "duplicate id", reason, render_row(table, place)))
        bounds = np.cumsum([0, *(part.num_rows for part in self.records)])
        keep = [~repeated[low:high] for low, high in itertools.pairwise(bounds)]
        self.records = [part.filter(pa.array(mask)) for part, mask in zip(self.records, keep, strict=True)]
        if self.spec.embedding_column:
            self.vectors.keep(~repeated)

    def write(self, raw: RawShard) -> None:
        self.quarantine.sort(key=lambda item: item.row)
        records = pa.concat_tables([self._no_records(), *self.records])
        pq.write_table(records, raw.records, compression=_COMPRESSION)
        with pq.ParquetWriter(raw.quarantine, _QUARANTINE_COLUMNS, compression=_COMPRESSION) as writer:
            for first in range(0, len(self.quarantine), _QUARANTINE_ROWS):
                part = self.quarantine[first : first + _QUARANTINE_ROWS]
                rows = [{"row": item.row, "reason": item.reason, "record": item.record} for item in part]
                writer.write_table(pa.Table.from_pylist(rows, schema=_QUARANTINE_COLUMNS))
        if self.spec.embedding_column:
            self.vectors.finish(self.dimension or 0)

    def _no_records(self) -> pa.Table:
        fields = [
            ("row", pa.int64()),
            ("position", pa.int64()),
            ("id", pa.string()),
            ("text_hash", pa.binary(columns.TEXT_HASH_BYTES)),
            ("characters", pa.int32()),
        ]
        if self.spec.order_column:
            field = column_field(self.content.schema, self.spec.order_column)
            kind = None if field is None else field.type
            if kind is not None and pa.types.is_dictionary(kind):
                kind = kind.value_type
            fields.append(("order_value", kind if kind is not None else pa.null()))
        return pa.schema(fields).empty_table()
