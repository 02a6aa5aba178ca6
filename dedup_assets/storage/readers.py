"""Reading a shard batch by batch, whatever its format: the one entry to `formats`."""

from __future__ import annotations

from collections.abc import Sequence

from dedup_assets.storage.formats import csv, jsonl, parquet
from dedup_assets.storage.formats.batches import Batch, Rejected, ShardContent
from dedup_assets.storage.source_files import SourceFile

__all__ = ["Batch", "Rejected", "ShardContent", "read_shard"]


def read_shard(source: SourceFile, text_columns: Sequence[str] = (), id_column: str = "id") -> ShardContent:
    """Open a shard: its schema, and its rows in batches of some 16 MiB.

    Parameters
    ----------
    source : SourceFile
    text_columns, id_column
        Columns to be read as strings where the format has no types of its own (CSV), or where single rows may
        disagree with the others (JSON).

    Returns
    -------
    ShardContent
        An empty file is a shard without columns and rows. Numbering of rows and the treatment of odd values
        are described in each module of `formats`.

    Raises
    ------
    ShardError
        The file is truncated, corrupt or not what its ending says; also while the batches are read.
    """
    if source.format == "parquet":
        return parquet.read(source)
    if source.format == "jsonl":
        return jsonl.read(source, text_columns, id_column)
    return csv.read(source, text_columns, id_column)
