"""A named range index of pandas is a column that is written as a start and a step, in the metadata alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from dedup_assets.ingest.formats.batches import Batch, ShardContent

_KEY = b"pandas"


def with_range_index(content: ShardContent) -> ShardContent:
    """The content with its named range index as a column of int64 behind the others. One without a name is no data."""
    index = _range_index(content.schema)
    if index is None:
        return content
    name, start, step = index["name"], index["start"], index["step"]
    schema = content.schema.append(pa.field(name, pa.int64())).with_metadata(_as_column(content.schema, index))

    def batches() -> Iterator[Batch]:
        for batch in content.batches:
            values = pa.array(start + step * np.asarray(batch.rows, dtype=np.int64))
            yield replace(batch, table=pa.Table.from_arrays([*batch.table.columns, values], schema=schema))

    return replace(content, schema=schema, batches=batches())


def _range_index(schema: pa.Schema) -> dict[str, Any] | None:
    try:
        indexes = json.loads((schema.metadata or {})[_KEY])["index_columns"]
        found = next(index for index in indexes if isinstance(index, dict) and index["kind"] == "range")
        fits = isinstance(found["name"], str) and found["name"] not in schema.names
        return found if fits and isinstance(found["start"], int) and isinstance(found["step"], int) else None
    except (KeyError, ValueError, TypeError, StopIteration):
        return None


def _as_column(schema: pa.Schema, index: dict[str, Any]) -> dict[bytes, bytes]:
    """The metadata with the index as a column, as pandas writes other indexes."""
    told = json.loads(schema.metadata[_KEY])
    name = index["name"]
    told["index_columns"] = [name if other == index else other for other in told["index_columns"]]
    column = {"name": name, "field_name": name, "pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    told["columns"] = [*told.get("columns", ()), column]
    return {**schema.metadata, _KEY: json.dumps(told).encode()}
