"""Reading a shard batch by batch, whatever its format: the one entry to `formats`."""

from __future__ import annotations

from collections.abc import Sequence

from dedup_assets.errors import ShardError
from dedup_assets.ingest.formats import arrow, csv, jsonl, parquet, txt
from dedup_assets.ingest.formats.batches import Batch, Rejected, ShardContent, empty_content
from dedup_assets.ingest.formats.signatures import HEAD_BYTES, columnar_format, foreign, markup
from dedup_assets.ingest.hive import with_partition
from dedup_assets.ingest.source_files import SourceFile, open_raw, open_source, reading

__all__ = ["Batch", "Rejected", "ShardContent", "read_shard"]

_LINES_OF_TEXT = ("csv", "tsv", "txt")  # formats in which a line may be XML


def read_shard(
    source: SourceFile,
    text_columns: Sequence[str] = (),
    id_column: str = "id",
    order_column: str | None = None,
    csv_types: str = "inferred",
) -> ShardContent:
    """Open a shard: its schema, and its rows in batches of some 16 MiB.

    The format follows from the first bytes of the file if they identify it, otherwise from the name.

    Parameters
    ----------
    source : SourceFile
    text_columns, id_column
        Columns to be read as strings where the format has no types of its own (CSV, TSV), or where single rows may
        disagree with the others (JSON).
    order_column
        A column that is read as numbers if possible, where the format has no types.
    csv_types : {"inferred", "text"}
        Whether other columns of a CSV or TSV file may become numbers or booleans too.

    Returns
    -------
    ShardContent
        An empty file is a shard without columns and rows. Columns in the names of folders follow the file's own.
        Numbering of rows and the treatment of odd values are described in each module of `formats`.

    Raises
    ------
    ShardError
        The file is truncated, corrupt or not what its ending says; also while the batches are read.
    """
    return with_partition(_content(source, text_columns, id_column, order_column, csv_types), source.partition)


def _content(
    source: SourceFile, text_columns: Sequence[str], id_column: str, order_column: str | None, csv_types: str
) -> ShardContent:
    """What the file itself holds."""
    with reading(source):
        with open_raw(source) as raw:
            stored = raw.read(HEAD_BYTES)
        if not stored:
            return empty_content()
        found = columnar_format(stored)
        if found == "parquet":
            return parquet.read(source)
        if found == "arrow":
            return arrow.read(source)
        with open_source(source) as stream:
            head = stream.read(HEAD_BYTES)
    described = f"{source.uri!r} (shard {source.key})"
    inside = columnar_format(head)
    if inside is not None:
        raise ShardError(f"{described} holds a file of {inside} that is compressed as a whole. Decompress it.")
    what = foreign(head) or (markup(head) if source.format not in _LINES_OF_TEXT else None)
    if what is not None:
        raise ShardError(f"{described} {what}, and run again.")
    if source.format in ("parquet", "arrow"):
        raise ShardError(
            f"{described} cannot be read as {source.format}: its first bytes are {head[:8]!r}. The file is truncated, "
            "corrupt or not what its ending says. Replace it and run again."
        )
    if source.format == "jsonl":
        return jsonl.read(source, text_columns, id_column)
    if source.format == "txt":
        return txt.read(source)
    return csv.read(source, text_columns, id_column, order_column, csv_types == "inferred")
