"""Columns in the names of folders, as Hive writes them: `year=2018/lang=en/part-0.parquet`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

import pyarrow as pa

from dedup_assets.ingest.formats.batches import Batch, ShardContent

Partition = tuple[tuple[str, int | str | None], ...]
"""Columns of one file in the order of its folders: (name, value), with None for null."""

_NULL = "__HIVE_DEFAULT_PARTITION__"
_LEAST, _LARGEST = -(2**31), 2**31 - 1


def typed_partitions(names: Sequence[str]) -> list[Partition]:
    """The columns that the folders of the files of one source stand for.

    A column holds integers (int32) where every value in the source is one, and strings otherwise, as pyarrow infers
    it. Values are percent-decoded.
    """
    raw = [dict(_pairs(name)) for name in names]
    columns = {key for pairs in raw for key in pairs}
    integers = {key for key in columns if all(_is_int32(pairs[key]) for pairs in raw if key in pairs)}

    def value(key: str, text: str | None) -> int | str | None:
        return int(text) if text is not None and key in integers else text

    return [tuple((key, value(key, text)) for key, text in pairs.items()) for pairs in raw]


def _pairs(name: str) -> Iterator[tuple[str, str | None]]:
    for folder in name.replace(os.sep, "/").split("/")[:-1]:
        key, equals, value = folder.partition("=")
        if key and equals:
            yield unquote(key), None if value == _NULL else unquote(value)


def _is_int32(text: str | None) -> bool:
    if text is None:
        return True
    try:
        return str(int(text)) == text.lstrip("0").rjust(1, "0") and _LEAST <= int(text) <= _LARGEST
    except ValueError:
        return False


def with_partition(content: ShardContent, partition: Partition) -> ShardContent:
    """The content with the columns of its folders behind its own. A column that the file has itself is the file's."""
    new = [(key, value) for key, value in partition if key not in content.schema.names]
    if not new or not content.schema.names:
        return content
    fields = [pa.field(key, pa.int32() if isinstance(value, int) else pa.string()) for key, value in new]
    schema = pa.schema([*content.schema, *fields], metadata=content.schema.metadata)

    def batches() -> Iterator[Batch]:
        for batch in content.batches:
            added = [
                pa.repeat(pa.scalar(v, f.type), batch.table.num_rows) for (_, v), f in zip(new, fields, strict=True)
            ]
            table = pa.Table.from_arrays([*batch.table.columns, *added], schema=schema)
            yield Batch(table, batch.rows, batch.rejected)

    return ShardContent(schema, content.json_encoded, content.has_rows, batches())
