"""JSON: one object per line, one array of objects, or objects that span several lines.

Row number = line number from 0 for one object per line, where blank lines are counted but are not rows; otherwise the
number of the object from 0.

There are two passes over the file: the first determines one schema for the whole file, the second reads with it. Both
parse blocks of whole rows with Arrow and fall back to Python, row by row, for a block that Arrow refuses.

Rows and values that need special treatment:

- A line, or an element of the array, that is not a JSON object in valid UTF-8 is rejected.
- A string that looks like a date stays a string.
- In a text column that holds strings, or a text field inside a struct, a row with another value is rejected. A column
  of conversations (`chats`) keeps its type, or becomes JSON text if the conversations have no common type.
- Any other column whose values have no common type becomes a string column of JSON text, in all rows; the id
  column does so too, except that its strings stay as they are. Integers beyond 64 bits count as such values
  because no column type holds them exactly.
- If a name is repeated in one object, its last value counts.
- A row that nests more than 256 deep is rejected.

For any file, memory stays at a small multiple of a block: columns are discovered in pieces of 64 KiB, and larger pieces
are read with the columns known so far.

A single parser for everything (msgspec 0.22, orjson 3.13) was measured as an alternative, both passes on 64 MB. It took
0.6 to 0.9 times the CPU time for texts of 1,000 characters and 0.6 to 0.75 times with vectors of 384 numbers. For texts
of 80 characters it took 2.3 to 2.8 times as long, because most of the work is in Python objects (1.3 times with the
garbage collector off, but a library must not turn it off in its caller's process). As such objects, a block of small
rows takes 12 to 24 times its bytes, and the fields of nested objects lose their order. msgspec refuses NaN and 1e400,
which are accepted here, so `json` would still be needed. orjson reads integers beyond 64 bits as doubles.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from dedup_assets.errors import ShardError
from dedup_assets.ingest.chats import ROLES, as_json, is_chat, may_be_chat, may_be_messages
from dedup_assets.ingest.formats.batches import (
    BLOCK_BYTES,
    MOST_COLUMNS,
    Batch,
    Rejected,
    ShardContent,
    refuse_many_columns,
    render_unparsed,
)
from dedup_assets.ingest.formats.json_blocks import JsonBlock, json_blocks
from dedup_assets.ingest.formats.json_documents import depth
from dedup_assets.ingest.formats.json_types import (
    EXACT_IN_DOUBLE,
    MOST_FIELDS,
    common_type,
    leaves,
    may_be_rounded,
    nests_deeper,
    nests_wider,
    storable,
    type_at,
    type_of,
    value_at,
    with_type_at,
    without_times,
    without_value_at,
)
from dedup_assets.ingest.source_files import SourceFile, reading

_DEEPEST_ROW = 256  # beyond it Python's parser may fail, depending on the depth of its caller's stack
_LEARNING_BYTES = 2**16  # of a piece with unknown columns: rows times columns stay at a few millions
_MOST_CELLS = 2**24  # rows times columns of a piece with known columns
_MANY_CELLS, _CELLS_A_BYTE = 2**28, 16  # rows times columns of a file: beyond both, nearly all cells are empty


def read(source: SourceFile, text_columns: Sequence[str], id_column: str) -> ShardContent:
    """Open a JSON file; see the module docstring. Raises `ShardError`."""
    plan = _Plan(frozenset(text_columns), id_column)
    with reading(source):
        for block in json_blocks(source):
            plan.observe(block)
            refuse_many_columns(source, plan.columns)
            if plan.is_mostly_empty:
                raise ShardError(
                    f"{source.uri!r} (shard {source.key}) has {plan.columns} columns and {plan.rows} rows in "
                    f"{plan.bytes} bytes: nearly all cells would be empty. Expected objects of about the same keys. "
                    "Put those that differ under one name, and run again."
                )
    schema, encoded = plan.schema()
    batches = _batches(source, schema, encoded, plan)
    return ShardContent(schema, encoded - {id_column}, plan.has_rows, batches)


def _batches(source: SourceFile, schema: pa.Schema, encoded: frozenset[str], plan: _Plan) -> Iterator[Batch]:
    rows_of_piece = max(1, _MOST_CELLS // max(1, leaves(schema)))
    texts = list(_texts(schema, plan))
    with reading(source):
        for block in (piece for whole in json_blocks(source) for piece in _pieces(whole, rows_of_piece)):
            table = None if encoded else _parse_with_arrow(block, schema)
            if table is not None:
                yield Batch(table, block.rows)
                continue
            objects, rows, rejected = _parse_with_python(block, texts)
            columns = [_column(objects, column, column.name in encoded, plan) for column in schema]
            table = pa.Table.from_arrays(columns, schema=schema)
            yield Batch(table, np.array(rows, dtype=np.int64), rejected)


def _texts(schema: pa.Schema, plan: _Plan) -> Iterator[Sequence[str]]:
    """Paths at which the objects of a file must hold strings."""
    for column in schema:
        if column.name in plan.text_columns and column.type == pa.string() and not is_chat(column):
            yield (column.name,)
        for text, path in plan.inside.get(column.name, ()):
            if text not in schema.names and type_at(column.type, path) == pa.string():
                yield (column.name, *path)


def _pieces(block: JsonBlock, most_rows: int) -> Iterator[JsonBlock]:
    first = 0
    while first < len(block.rows):
        piece = block.part(first, len(block.data), most_rows)
        first += len(piece.rows)
        yield piece


def _parse_with_arrow(block: JsonBlock, schema: pa.Schema | None) -> pa.Table | None:
    """The rows of a block, or None if Python must parse them one by one."""
    if not block.plain:
        return None
    if not len(block.rows):
        return None if schema is None else schema.empty_table()
    try:
        block.data.decode("utf-8")  # Arrow's JSON parser does not check
        table = pj.read_json(
            pa.BufferReader(block.data),
            read_options=pj.ReadOptions(block_size=len(block.data) + 1, use_threads=False),
            parse_options=pj.ParseOptions(
                explicit_schema=schema,
                newlines_in_values=block.over_lines,
                unexpected_field_behavior="infer" if schema is None else "error",
            ),
        )
    except (UnicodeDecodeError, pa.ArrowException):
        return None
    # Fewer or more rows than lines: objects over several lines, or several on one.
    if table.num_rows != len(block.rows) or any(nests_deeper(kind, _DEEPEST_ROW - 1) for kind in table.schema.types):
        return None
    return table


def _parse_with_python(
    block: JsonBlock, texts: Sequence[Sequence[str]] = ()
) -> tuple[list[dict[str, Any]], list[int], list[Rejected]]:
    """The objects of a block with their row numbers, and the rejected rows: those that are not objects or hold another
    value than a string at a path in `texts`."""
    objects: list[dict[str, Any]] = []
    rows: list[int] = []
    rejected: list[Rejected] = []
    for row, start, end in zip(block.rows.tolist(), block.starts.tolist(), block.ends.tolist(), strict=True):
        line = block.data[start:end]
        kind, detail, value = "", "", None
        try:
            text = line.decode("utf-8")
            if line.count(b"{") + line.count(b"[") > _DEEPEST_ROW and depth(line) > _DEEPEST_ROW:
                raise ValueError(f"nested more than {_DEEPEST_ROW} deep")
            value = json.loads(text)
            if not isinstance(value, dict):
                kind, detail = "not a JSON object", f" but {_json_type(value)}"
            else:
                if "\\ud" in text or "\\uD" in text:
                    json.dumps(value, ensure_ascii=False).encode("utf-8")
                if wrong := [found for path in texts if not isinstance(found := value_at(value, path), str | None)]:
                    kind, detail = "text is not a string", f" ({_json_type(wrong[0])})"
        except UnicodeDecodeError as error:
            kind, detail = "invalid UTF-8", f" at byte {error.start} of the line"
        except UnicodeEncodeError:
            kind, detail = "invalid Unicode", ": half of a surrogate pair"
        except RecursionError:
            kind, detail = "invalid JSON", ": nested too deeply"
        except json.JSONDecodeError as error:
            kind, detail = "invalid JSON", f": {error.msg} at character {error.pos}"
        except ValueError as error:  # a number with thousands of digits, or nested as above
            kind, detail = "invalid JSON", f": {error}"
        if kind:
            rejected.append(Rejected(row, kind, kind + detail, render_unparsed(line)))
        else:
            objects.append(value)  # type: ignore[arg-type]
            rows.append(row)
    return objects, rows, rejected


# ----------------------------------------------------------------------------------------- schema


@dataclass
class _Plan:
    """Finds one type for each column from all blocks of a file."""

    text_columns: frozenset[str]
    id_column: str
    types: dict[str, pa.DataType | None] = field(default_factory=dict)  # None: no common type
    not_text: dict[str, pa.DataType] = field(default_factory=dict)  # other types found in text columns
    chats: dict[str, pa.DataType | None] = field(default_factory=dict)  # types of lists of messages in text columns
    set_aside: dict[str, pa.DataType] = field(default_factory=dict)  # other types found in text fields of structs
    inside: dict[str, list[tuple[str, list[str]]]] = field(default_factory=dict)  # (text field, path) by column
    have_roles: set[str] = field(default_factory=set)  # text columns in which a message names its speaker
    names: dict[str, None] = field(default_factory=dict)  # in order of first appearance
    large_integers: set[str] = field(default_factory=set)
    has_rows: bool = False
    rows: int = 0
    bytes: int = 0
    piece_bytes: int = _LEARNING_BYTES

    @property
    def columns(self) -> int:
        """Number of columns found."""
        return len(self.names)

    def __post_init__(self) -> None:
        for text in self.text_columns:
            names = text.split(".")
            for at in range(1, len(names)):
                self.inside.setdefault(".".join(names[:at]), []).append((text, names[at:]))

    def observe(self, block: JsonBlock) -> None:
        """Add the types of a block's rows, in pieces that grow as long as no new columns are found."""
        first = 0
        while first < len(block.rows) and self.columns <= MOST_COLUMNS and not self.is_mostly_empty:
            known = self._known()
            if known is not None:
                piece = block.part(first, self.piece_bytes, max(1, _MOST_CELLS // leaves(known)))
                if self._observe_table(_parse_with_arrow(piece, known)):
                    first += self._count(piece)
                    self.piece_bytes = min(2 * self.piece_bytes, BLOCK_BYTES)
                    continue
            piece = block.part(first, _LEARNING_BYTES, len(block.rows))
            first += self._count(piece)
            self.piece_bytes = _LEARNING_BYTES
            if not self._observe_table(_parse_with_arrow(piece, None)):
                self._observe_objects(_parse_with_python(piece)[0])

    @property
    def is_mostly_empty(self) -> bool:
        """Whether a table would have far more cells than the file has bytes."""
        return self.rows * self.columns > max(_MANY_CELLS, _CELLS_A_BYTE * self.bytes)

    def _count(self, piece: JsonBlock) -> int:
        self.rows, self.bytes = self.rows + len(piece.rows), self.bytes + len(piece.data)
        return len(piece.rows)

    def _known(self) -> pa.Schema | None:
        """A schema of all types found, None if Arrow has none for a column."""
        known = {name: kind for name, kind in self.types.items() if kind != pa.null() or name not in self.chats}
        if not known or self.not_text or not self.chats.keys().isdisjoint(known):
            return None
        seen = {**known, **self.chats}
        fields = [(name, kind) for name, kind in seen.items() if kind is not None]
        return pa.schema(fields) if len(fields) == len(seen) else None

    def _observe_table(self, table: pa.Table | None) -> bool:
        """Add the types of a parsed piece; returns False if they are not reliable."""
        if table is None or any(may_be_rounded(column) for column in table.columns):
            return False
        self.has_rows |= table.num_rows > 0
        for name, column in zip(table.column_names, table.columns, strict=True):
            self._add(name, column.type)
            if pa.types.is_integer(column.type):
                bounds = pc.min_max(column).as_py()
                if max(abs(bounds["min"] or 0), abs(bounds["max"] or 0)) > EXACT_IN_DOUBLE:
                    self.large_integers.add(name)
        return True

    def _observe_objects(self, objects: list[dict[str, Any]]) -> None:
        self.has_rows |= len(objects) > 0
        by_name: dict[str, list[Any]] = {}
        for value in objects:
            for name, item in value.items():
                by_name.setdefault(name, []).append(item)
        for name, values in by_name.items():
            if name in self.text_columns:
                others = [value for value in values if value is not None and not isinstance(value, str)]
                if len(others) < len(values):
                    self._add(name, pa.string() if any(isinstance(v, str) for v in values) else pa.null())
                lists = [value for value in others if may_be_messages(value)]
                if lists:
                    self.names.setdefault(name)
                    self._merge(self.chats, name, type_of(lists))
                    if any(not ROLES.isdisjoint(message) for messages in lists for message in messages):
                        self.have_roles.add(name)
                values = [value for value in others if not may_be_messages(value)]
                if not values:
                    continue
            for text, path in self.inside.get(name, ()):
                found = [value_at(value, path) for value in values]
                wrong = [not isinstance(value, str | None) and not may_be_messages(value) for value in found]
                if any(wrong):
                    self._set_aside(text, type_of(list(itertools.compress(found, wrong))))
                    pairs = zip(values, wrong, strict=True)
                    values = [without_value_at(value, path) if is_wrong else value for value, is_wrong in pairs]
            self._add(name, type_of(values))
            if any(isinstance(value, int) and abs(value) > EXACT_IN_DOUBLE for value in values):
                self.large_integers.add(name)

    def _add(self, name: str, seen: pa.DataType | None) -> None:
        self.names.setdefault(name)
        seen = None if seen is None else without_times(seen)
        for text, path in self.inside.get(name, ()):
            leaf = None if seen is None else type_at(seen, path)
            if leaf not in (None, pa.string(), pa.null()) and not may_be_chat(leaf):
                self._set_aside(text, leaf)
                seen = with_type_at(seen, path, pa.null())
        if name not in self.text_columns or (seen is not None and (pa.types.is_string(seen) or pa.types.is_null(seen))):
            self._merge(self.types, name, seen)
        elif seen is not None and may_be_chat(seen):
            self._merge(self.chats, name, seen)
            if pa.types.is_struct(seen.value_type) and not ROLES.isdisjoint(part.name for part in seen.value_type):
                self.have_roles.add(name)
        else:
            known = self.not_text.get(name, pa.null())
            self.not_text[name] = (None if seen is None else common_type(known, seen)) or pa.string()

    def _set_aside(self, text: str, leaf: pa.DataType | None) -> None:
        known = self.set_aside.get(text, pa.null())
        self.set_aside[text] = (None if leaf is None else common_type(known, leaf)) or pa.string()

    def _merge(self, types: dict[str, pa.DataType | None], name: str, seen: pa.DataType | None) -> None:
        seen = None if seen is None else without_times(seen)
        known = types.get(name, pa.null())
        common = None if known is None or seen is None else common_type(known, seen)
        # A type with too many fields would only keep growing.
        types[name] = None if common is not None and nests_wider(common, MOST_FIELDS) else common

    def schema(self) -> tuple[pa.Schema, frozenset[str]]:
        """The schema of the file and the columns that become JSON text."""
        fields: dict[str, pa.DataType | pa.Field] = {}
        encoded = set()
        for name in self.names:
            known = self.types.get(name, pa.null())
            if name in self.text_columns:
                # A column without any string is not a text column; the caller reports that.
                alone = known is None or pa.types.is_null(known)
                chat = self.chats.get(name)
                if alone and chat is not None and name not in self.not_text and storable(chat):
                    fields[name] = chat
                    continue
                if alone and name in self.have_roles:
                    encoded.add(name)
                    fields[name] = as_json(name)
                    continue
                alone &= name not in self.chats  # lists and other types: all values but strings are rejected
                fields[name] = self.not_text[name] if alone and name in self.not_text else pa.string()
                continue
            for text, path in self.inside.get(name, ()):
                if known is not None and text in self.set_aside:
                    # Without any string the caller reports it. If a column has that name, the field is not the text.
                    alone = type_at(known, path) == pa.null()
                    of_all = with_type_at(known, path, self.set_aside[text]) if alone else known
                    known = None if text in self.names and not alone else of_all
            rounded = known is not None and pa.types.is_floating(known) and name in self.large_integers
            if known is None or rounded or not storable(known):
                encoded.add(name)
                known = pa.string()
            fields[name] = known
        of = [kind if isinstance(kind, pa.Field) else pa.field(name, kind) for name, kind in fields.items()]
        return pa.schema(of), frozenset(encoded)


# ---------------------------------------------------------------------------------------- columns


def _column(objects: list[dict[str, Any]], column: pa.Field, encoded: bool, plan: _Plan) -> pa.Array:
    values = [value.get(column.name) for value in objects]
    if encoded:
        keep_strings = column.name == plan.id_column
        values = [
            value
            if value is None or (keep_strings and isinstance(value, str))
            else json.dumps(value, ensure_ascii=False)
            for value in values
        ]
    try:
        return pa.array(values, type=column.type)
    except (pa.ArrowException, OverflowError):
        return pa.array([_as_type(value, column.type) for value in values], type=column.type)


def _as_type(value: Any, wanted: pa.DataType) -> Any:
    """Integers as floats if the column holds floats: Arrow refuses integers that a float cannot hold exactly."""
    if value is None:
        return None
    if pa.types.is_floating(wanted):
        return float(value)
    if pa.types.is_list(wanted):
        return [_as_type(item, wanted.value_type) for item in value]
    if pa.types.is_struct(wanted):
        return {item.name: _as_type(value.get(item.name), item.type) for item in wanted.fields}
    return value


def _json_type(value: Any) -> str:
    return "null" if value is None else type(value).__name__
