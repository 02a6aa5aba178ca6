"""Published tables, read when asked, in the form the reader likes: Arrow, pandas or polars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dedup_assets.errors import WorkspaceError


class LazyTable:
    """A folder of Parquet files as one table. Nothing is read before a method asks for rows.

    It speaks the Arrow C stream interface: `polars.DataFrame(table)`, `pyarrow.table(table)` and DuckDB read
    it directly.
    """

    def __init__(self, dataset: ds.Dataset) -> None:
        self.dataset = dataset

    @classmethod
    def of_folder(cls, folder: Path, empty: pa.Schema | None = None) -> LazyTable:
        """All `*.parquet` files of a folder, by name; `empty` is the schema where there is none.

        A column absent from a shard reads as null there; one whose type differs among shards reads in the
        type that holds all of them, such as float for int and float, or else as text.
        """
        files = sorted(str(path) for path in folder.glob("*.parquet"))
        if not files:
            return cls(ds.dataset((empty or pa.schema([])).empty_table()))
        schema = merged_schema([pq.read_schema(file) for file in files], str(folder))
        return cls(ds.dataset(files, schema=schema, format="parquet"))

    @property
    def schema(self) -> pa.Schema:
        """Column names and types."""
        return self.dataset.schema

    def __len__(self) -> int:
        return self.dataset.count_rows()

    def __repr__(self) -> str:
        return f"LazyTable({len(self)} rows: {', '.join(self.schema.names)})"

    def to_arrow(self, columns: list[str] | None = None) -> pa.Table:
        """Read everything, or some columns, as an Arrow table.

        Where no shard is published nothing says what the columns are: those asked for are empty, of type null.
        Raises WorkspaceError for a column that no shard has.
        """
        known = self.schema.names
        missing = [name for name in columns or () if name not in known]
        if columns is not None and missing and not known:
            return pa.schema([(name, pa.null()) for name in columns]).empty_table()
        if missing:
            raise WorkspaceError(f"No column {', '.join(map(repr, missing))}: the columns are {', '.join(known)}.")
        return self.dataset.to_table(columns=columns)

    def to_pandas(self, columns: list[str] | None = None) -> Any:
        """Read as a pandas data frame (pandas must be installed)."""
        return self.to_arrow(columns).to_pandas()

    def to_polars(self) -> Any:
        """A polars lazy frame over the files (polars must be installed)."""
        import polars

        return polars.scan_pyarrow_dataset(self.dataset)

    def head(self, rows: int = 10) -> pa.Table:
        """The first rows as an Arrow table."""
        return self.dataset.head(rows)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.dataset.scanner().to_reader().__arrow_c_stream__(requested_schema)


def merged_schema(schemas: Sequence[pa.Schema], where: str) -> pa.Schema:
    """One schema that reads files of all the given ones. Raises WorkspaceError for a column that has none."""
    types: dict[str, list[pa.DataType]] = {}
    for schema in schemas:
        for item in schema:
            types.setdefault(item.name, []).append(item.type)
    return pa.schema([(name, _common_type(name, found, where)) for name, found in types.items()])


def _common_type(name: str, types: Sequence[pa.DataType], where: str) -> pa.DataType:
    # Dictionaries are a way of storing; what they hold is the type.
    plain = list(dict.fromkeys(t.value_type if pa.types.is_dictionary(t) else t for t in types))
    if len(set(types)) == 1:
        return types[0]
    try:
        return pa.unify_schemas([pa.schema([(name, t)]) for t in plain], promote_options="permissive").field(name).type
    except pa.ArrowException:
        if any(pa.types.is_nested(t) for t in plain):
            listed = ", ".join(map(str, plain))
            raise WorkspaceError(
                f"Column {name!r} has types in {where} that no table can hold together: {listed}. Read the files "
                "one by one, or give the column one type in all shards."
            ) from None
        return pa.string()
