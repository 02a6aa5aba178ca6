"""Published tables, read when asked, in the form the reader likes: Arrow, pandas, polars or DuckDB."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from dedup_assets.display_text import visible
from dedup_assets.errors import DedupError, MissingPackageError, WorkspaceError, reason
from dedup_assets.later import dataset as ds
from dedup_assets.lookups.reprs import ROWS, as_html, as_text
from dedup_assets.storage.raw_table import empty_table


class LazyTable:
    """Parquet files as one table. Nothing is read before rows are asked for, and then only what holds them.

    It has a length, can be iterated (rows are dicts), indexed (`table[0]`, `table["id"]`, `table[["id", "text"]]`)
    and sliced (`table[10:20]`, a table again). It speaks the Arrow C stream interface: `polars.DataFrame(table)`,
    `pyarrow.table(table)` and DuckDB read it directly.

    Examples
    --------
    >>> import dedup_assets as da
    >>> kept = da.open_curation("ws").kept
    >>> kept.head(3)
    >>> [row["id"] for row in kept[:10]]
    >>> kept["id"].to_pylist()
    """

    def __init__(self, dataset: ds.Dataset, rows: range | None = None, note: Callable[[], str] = lambda: "") -> None:
        self.dataset = dataset
        self._rows = rows
        self._note = note

    @classmethod
    def of_folder(
        cls,
        folder: Path,
        empty: pa.Schema | None = None,
        only: Sequence[str] | None = None,
        note: Callable[[], str] = lambda: "",
    ) -> LazyTable:
        """All `*.parquet` files of a folder, by name; `empty` is the schema where there is none, `only` the columns,
        `note` tells what is said beside it where it is shown.

        A column absent from a shard reads as null there; one whose type differs among shards reads in the
        type that holds all of them, such as float for int and float, or else as text.
        """
        files = sorted(str(path) for path in folder.glob("*.parquet"))
        if not files:
            return cls(ds.dataset((empty or pa.schema([])).empty_table()), note=note)
        schema = merged_schema([pq.read_schema(file) for file in files], str(folder))
        if only is not None:
            schema = pa.schema([schema.field(name) for name in only])
        return cls(ds.dataset(files, schema=schema, format="parquet"), note=note)

    # ------------------------------------------------------------------------------------ shape

    @property
    def schema(self) -> pa.Schema:
        """Column names and types."""
        return self.dataset.schema

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    column_names = columns

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return len(self), len(self.columns)

    def __len__(self) -> int:
        return len(self._range)

    # ------------------------------------------------------------------------------------- rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for table in self._parts(self._range):
            yield from table.to_pylist()

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice | list[str]) -> LazyTable: ...
    @overload
    def __getitem__(self, key: str) -> pa.ChunkedArray: ...
    def __getitem__(self, key: int | slice | str | list[str]) -> dict[str, Any] | LazyTable | pa.ChunkedArray:
        if isinstance(key, str):
            return self.to_arrow([key]).column(0)
        if isinstance(key, slice):
            return LazyTable(self.dataset, self._range[key])
        if isinstance(key, list | tuple) and all(isinstance(name, str) for name in key):
            return self.select(list(key))
        if not hasattr(key, "__index__"):
            raise TypeError(f"a table takes a row number, a slice, a column or a list of columns, not {key!r}")
        try:
            row = self._range[key]  # type: ignore[index]
        except IndexError:
            raise IndexError(f"row {key} of a table of {len(self):,}") from None
        return next(self._parts(range(row, row + 1))).to_pylist()[0]

    def __contains__(self, item: object) -> bool:
        """Whether there is a column of this name, or a row that equals this dict."""
        return item in self.schema.names if isinstance(item, str) else any(row == item for row in self)

    def head(self, rows: int = 10) -> Head:
        """The first rows, read now."""
        return Head(self[:rows].to_arrow())

    def tail(self, rows: int = 10) -> Head:
        """The last rows, read now."""
        return Head(self[max(0, len(self) - rows) :].to_arrow())

    def select(self, columns: Sequence[str]) -> LazyTable:
        """Some of the columns, lazily. Raises WorkspaceError for a column that no shard has."""
        self._refuse_unknown(columns)
        names = [name for name in columns if name in self.schema.names]
        return LazyTable(
            self.dataset.replace_schema(pa.schema([self.schema.field(name) for name in names])), self._rows
        )

    def to_pylist(self) -> list[dict[str, Any]]:
        """All rows as dicts."""
        return self.to_arrow().to_pylist()

    # ------------------------------------------------------------------------------- other forms

    def to_arrow(self, columns: list[str] | None = None) -> pa.Table:
        """Read everything, or some columns, as an Arrow table.

        Where no shard is published nothing says what the columns are: those asked for are empty, of type null.
        Raises WorkspaceError for a column that no shard has.
        """
        if columns is not None and not self.schema.names:
            return pa.schema([(name, pa.null()) for name in columns]).empty_table()
        if columns is not None:
            self._refuse_unknown(columns)
        if self._rows is None:
            return self.dataset.to_table(columns=columns)
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        return pa.concat_tables([empty_table(schema), *self._parts(self._range, columns)])

    def to_pandas(self, columns: list[str] | None = None, **options: Any) -> Any:
        """Read as a pandas data frame, with options of `pyarrow.Table.to_pandas`. Raises MissingPackageError without
        pandas."""
        _imported("pandas", "to_pandas")
        return self.to_arrow(columns).to_pandas(**options)

    def to_polars(self) -> Any:
        """A polars lazy frame over the files. Raises MissingPackageError without polars."""
        polars = _imported("polars", "to_polars")
        if self._rows is None:
            return polars.scan_pyarrow_dataset(self.dataset)
        return polars.from_arrow(self.to_arrow()).lazy()

    def to_duckdb(self) -> Any:
        """A DuckDB relation over the files. Raises MissingPackageError without DuckDB."""
        duckdb = _imported("duckdb", "to_duckdb")
        return duckdb.from_arrow(self.dataset if self._rows is None else self.to_arrow())

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        if self._rows is None:
            return self.dataset.scanner().to_reader().__arrow_c_stream__(requested_schema)
        batches = (batch for table in self._parts(self._range) for batch in table.to_batches())
        return pa.RecordBatchReader.from_batches(self.schema, batches).__arrow_c_stream__(requested_schema)

    # ------------------------------------------------------------------------------------ looks

    def __repr__(self) -> str:
        title = self._title()
        try:
            rows, more = self[:ROWS].to_pylist(), self._more(ROWS)
        except (OSError, DedupError) as problem:  # a debugger or a traceback that shows it must not end in another
            return f"{title}\nits files cannot be read: {visible(reason(problem))}"
        return "\n".join([title, *as_text(self.columns, rows), *more])

    def _repr_html_(self) -> str:
        shown = 2 * ROWS
        try:
            rows, more = self[:shown].to_pylist(), self._more(shown)
        except (OSError, DedupError):
            return f"<pre>{escape(repr(self))}</pre>"
        notes = "".join(f"<p>{note}</p>" for note in more)
        return f"<p>{len(self):,} rows, {len(self.columns)} columns</p>{as_html(self.columns, rows)}{notes}"

    def _title(self) -> str:
        names = " ".join(visible(", ".join(self.columns)).split())
        return f"LazyTable({len(self)} rows: {names if len(names) <= 200 else f'{len(self.columns)} columns'})"

    def _more(self, shown: int) -> list[str]:
        more = [f"… {len(self) - shown:,} more rows"] if len(self) > shown else []
        note = self._note()
        return [*more, note] if note else more

    # ------------------------------------------------------------------------------------ parts

    @property
    def _range(self) -> range:
        return range(self._groups[-1][1] if self._groups else 0) if self._rows is None else self._rows

    @cached_property
    def _groups(self) -> list[tuple[int, int, ds.Fragment]]:
        """First row, row behind the last, and fragment of each row group."""
        groups: list[tuple[int, int, ds.Fragment]] = []
        end = 0
        for fragment in self.dataset.get_fragments():
            if isinstance(fragment, ds.ParquetFileFragment):
                parts = [(fragment.subset(row_group_ids=[group.id]), group.num_rows) for group in fragment.row_groups]
            else:
                parts = [(fragment, fragment.count_rows())]
            for part, rows in parts:
                start, end = end, end + rows
                groups.append((start, end, part))
        return groups

    def _parts(self, rows: range, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Some rows in their order, from one row group after the other; each is read once, if it is needed."""
        forward = rows.step > 0
        for start, end, fragment in self._groups if forward else reversed(self._groups):
            # Those of the rows that lie in the group.
            bounds = (start, end) if forward else (end - 1, start - 1)
            first, last = (len(range(rows.start, bound, rows.step)) for bound in bounds)
            inside = rows[first:last]
            if not inside:
                continue
            table = fragment.to_table(schema=self.schema, columns=columns)
            if inside.step == 1:
                yield table.slice(inside.start - start, len(inside))
            else:
                yield table.take(pa.array([row - start for row in inside]))

    def _refuse_unknown(self, columns: Sequence[str]) -> None:
        known = self.schema.names
        missing = [name for name in columns if name not in known]
        if missing and known:
            raise WorkspaceError(f"No column {', '.join(map(repr, missing))}: the columns are {', '.join(known)}.")


class Head(LazyTable):
    """Rows that were read. Beyond a lazy table it does what an Arrow table does: `.column("id")`, `.filter(...)`."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__(ds.dataset(table))
        self._table = table

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._table, name)


def _imported(package: str, method: str) -> ModuleType:
    """An optional library. Raises MissingPackageError, which names the install."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as problem:
        if problem.name != package:
            raise
        raise MissingPackageError(
            f"{method} needs {package}, which is not installed: pip install {package}. Without it, to_arrow() reads "
            "the same rows.",
            name=package,
        ) from None


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
