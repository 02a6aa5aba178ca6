"""Published tables, read when asked, in the form the reader likes: Arrow, pandas or polars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds


class LazyTable:
    """A folder of Parquet files as one table. Nothing is read before a method asks for rows.

    It speaks the Arrow C stream interface: `polars.from_arrow(table)`, `pyarrow.table(table)` and DuckDB
    read it directly.
    """

    def __init__(self, dataset: ds.Dataset) -> None:
        self.dataset = dataset

    @classmethod
    def of_folder(cls, folder: Path) -> LazyTable:
        """All `*.parquet` files of a folder, by name; columns absent from a shard read as null."""
        files = sorted(str(path) for path in folder.glob("*.parquet"))
        if not files:
            return cls(ds.dataset(pa.table({})))
        schema = pa.unify_schemas(
            [ds.dataset(file, format="parquet").schema for file in files], promote_options="permissive"
        )
        return cls(ds.dataset(files, schema=schema.remove_metadata(), format="parquet"))

    @property
    def schema(self) -> pa.Schema:
        """Column names and types."""
        return self.dataset.schema

    def __len__(self) -> int:
        return self.dataset.count_rows()

    def __repr__(self) -> str:
        return f"LazyTable({len(self)} rows: {', '.join(self.schema.names)})"

    def to_arrow(self, columns: list[str] | None = None) -> pa.Table:
        """Read everything, or some columns, as an Arrow table."""
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
