"""Values go through the whole pipeline as what they are: ids, types that Arrow or Parquet has gaps for, extensions."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.errors import DedupError

U = [uuid.UUID(int=i * 2**64 + 0x4142) for i in range(3)]
VECTORS = pa.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], pa.list_(pa.float32()))


def shard(ids: Any, **columns: Any) -> pa.Table:
    return pa.table({"id": ids, "text": ["one", "two", "three"], "v": VECTORS, **columns})


def curate(tmp_path: Path, **tables: pa.Table) -> da.Curation:
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        try:
            pq.write_table(table, folder / f"{name}.parquet")
        except (pa.ArrowException, NotImplementedError):
            with ipc.new_file(str(folder / f"{name}.arrow"), table.schema) as file:
                file.write_table(table)
    return da.curate(folder, workspace=tmp_path / "ws", embedding_column="v", check=False, threshold=0.9)


def ids(result: da.Curation, tmp_path: Path) -> set[str]:
    """The ids of all records, as decisions know them."""
    found: set[str] = set()
    for path in (tmp_path / "ws" / "raw").glob("*/records.parquet"):
        found.update(pq.read_table(path).column("id").to_pylist())
    return found


ID_TYPES = {
    "uuid": (pa.array([u.bytes for u in U], pa.uuid()), [str(u) for u in U]),
    "fixed16": (pa.array([u.bytes for u in U], pa.binary(16)), [str(u) for u in U]),
    "printable16": (pa.array([b"abcdefghijklmno" + bytes([97 + i]) for i in range(3)], pa.binary(16)), None),
    "fixed4": (
        pa.array([b"\x00\x01\x02\x03", b"abcd", b"\xff\xff\xff\xff"], pa.binary(4)),
        ["00010203", "61626364", "ffffffff"],
    ),
    "integers": (pa.array([1, 2, 2**62]), ["1", "2", str(2**62)]),
    "dictionary": (pa.array(["a", "b", "c"]).dictionary_encode(), ["a", "b", "c"]),
    "views": (pa.array(["a", "b", "c"], pa.string_view()), ["a", "b", "c"]),
    "decimals": (
        pa.array([decimal.Decimal("1.10"), decimal.Decimal("2.00"), decimal.Decimal("3.50")]),
        ["1.10", "2.00", "3.50"],
    ),
    "dates": (pa.array([datetime.date(2020, 1, d) for d in (1, 2, 3)]), [f"2020-01-0{d}" for d in (1, 2, 3)]),
}


@pytest.mark.parametrize("kind", ID_TYPES)
def test_an_id_of_any_type_has_one_text_whatever_its_bytes(tmp_path: Path, kind: str) -> None:
    column, expected = ID_TYPES[kind]
    result = curate(tmp_path, a=shard(column))
    assert not result.failures and result.summary["kept"] == 3
    assert ids(result, tmp_path) == set(expected or [str(uuid.UUID(bytes=value.as_py())) for value in column])
    (kept,) = [field for field in result.kept.schema if field.name == "id"]
    assert kept.type == (pa.string() if kind == "views" else column.type)


@pytest.mark.parametrize("column", [pa.array([b"a", b"b", b"c"]), pa.array([[1], [2], [3]]), pa.array([{"x": 1}] * 3)])
def test_an_id_that_has_no_text_refuses_its_shard_alone(tmp_path: Path, column: pa.Array) -> None:
    result = curate(tmp_path, a=shard(column), b=shard(["x", "y", "z"]))
    assert list(result.failures) == ["a"] and "cannot be written as strings" in result.failures["a"]
    assert result.summary["shards"] == 1


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (["a", "", ""], "id is empty"),
        (["a", "  ", "\t"], "id is empty"),
        ([1.0, float("nan"), float("nan")], "id is not a number (NaN)"),
        (["a", "NaN", "nan"], "id is not a number (NaN)"),
        (["a", None, None], "id is null"),
    ],
)
def test_rows_without_an_id_are_not_duplicates_of_one_another(tmp_path: Path, column: list[Any], reason: str) -> None:
    result = curate(tmp_path, a=shard(column))
    assert result.summary["quarantined_by_reason"] == {reason: 2} and result.summary["kept"] == 1


def test_rows_of_csv_without_an_id_or_with_a_comma_too_much(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text,v\n,a,"[1, 0]",\n,b,"[0, 1]",\nx,c,"[0, 1]",\n')
    result = da.curate(tmp_path / "a.csv", workspace=tmp_path / "ws", embedding_column="v")
    assert result.summary["quarantined_by_reason"] == {"id is empty": 2} and result.summary["kept"] == 1


SV = pa.string_view()
TYPES: dict[str, tuple[pa.Array, pa.DataType | None]] = {
    "string_view": (pa.array(["a", None, "c"], SV), pa.string()),
    "binary_view": (pa.array([b"a", None, b"c"], pa.binary_view()), pa.binary()),
    "list of views": (pa.array([["a"], None, ["c", "d"]], pa.list_(SV)), pa.list_(pa.string())),
    "large list of views": (pa.array([["a"], None, []], pa.large_list(SV)), pa.large_list(pa.string())),
    "list view of views": (pa.array([["a"], None, []], pa.list_view(SV)), pa.list_(pa.string())),
    "struct of views": (
        pa.array([{"x": "a"}, None, {"x": None}], pa.struct([("x", SV)])),
        pa.struct([("x", pa.string())]),
    ),
    "map of views": (pa.array([[("k", "a")], None, []], pa.map_(SV, SV)), pa.map_(pa.string(), pa.string())),
    "deep views": (
        pa.array([[{"x": [[("k", "a")]]}], None, []], pa.list_(pa.struct([("x", pa.list_(pa.map_(pa.string(), SV)))]))),
        pa.list_(pa.struct([("x", pa.list_(pa.map_(pa.string(), pa.string())))])),
    ),
    "list view": (pa.array([[1], None, []], pa.list_view(pa.int64())), None),
    "run ends": (pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]), pa.string()),
    "dictionary of views": (pa.DictionaryArray.from_arrays(pa.array([0, None, 0]), pa.array(["a"], SV)), pa.string()),
    "dictionary of lists": (
        pa.DictionaryArray.from_arrays(pa.array([0, None, 0]), pa.array([["a"]])),
        pa.list_(pa.string()),
    ),
    "half": (pa.array([1, None, 3], pa.float16()), None),
    "duration": (pa.array([1, None, 3], pa.duration("us")), None),
    "decimal256": (pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("2.5")], pa.decimal256(50, 2)), None),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", None, "1"])), None),
    "bool8": (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, None, 1], pa.int8())), None),
    "opaque": (pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "a", "b"), pa.array([b"0", None, b"1"])), None),
    "uuid": (pa.array([u.bytes for u in U], pa.uuid()), None),
    "tensor": (
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [2, 3], permutation=[1, 0]),
            pa.array([[1.0] * 6, None, [2.0] * 6], pa.list_(pa.float32(), 6)),
        ),
        None,
    ),
    "null": (pa.nulls(3), None),
}


def test_every_type_is_carried_as_it_is_or_as_the_nearest_plain_one(tmp_path: Path) -> None:
    names = {kind: f"s{number:02d}" for number, kind in enumerate(TYPES)}
    tables = {names[kind]: shard([f"{kind}{i}" for i in range(3)], x=column) for kind, (column, _) in TYPES.items()}
    result = curate(tmp_path, **tables)
    assert not result.failures and result.summary["removed_exact"] == 3 * (len(TYPES) - 1)
    # Copies go, so only the first shard keeps rows: what is published of the others is read from quarantine-free raw.
    for kind, (column, plain) in TYPES.items():
        raw = next((tmp_path / "ws" / "raw").glob(f"{names[kind]}@*")) / "table.parquet"
        stored = pq.read_table(raw).column("x")
        assert stored.type == (plain or column.type), kind
        assert storage(stored).to_pylist() == storage(pa.chunked_array([column])).to_pylist(), kind
        published = pq.read_schema(result.output / "deduplicated" / f"{names[kind]}.parquet").field("x").type
        assert published == stored.type, kind


def test_published_rows_hold_what_came_in(tmp_path: Path) -> None:
    for number, (kind, (column, _)) in enumerate(TYPES.items()):
        table = shard([f"{kind}{i}" for i in range(3)], x=column)
        folder = tmp_path / str(number)
        folder.mkdir()
        if number % 4 == 0 or "view" in kind:  # a sample: each is a run of its own
            result = curate(folder, a=table)
            found = result.kept.to_arrow().column("x")
            assert storage(found).to_pylist() == storage(pa.chunked_array([column])).to_pylist(), kind


def storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(column.type, pa.BaseExtensionType):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    return column


@pytest.mark.parametrize(
    "column",
    [
        pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])]),
        pa.array([pa.MonthDayNano([1, 2, 3])] * 3),
        pa.array([{}, None, {}], pa.struct([])),
        pa.array([[], [], []], pa.list_(pa.int64(), 0)),
        pa.array([[["a"]], [], []], pa.list_(pa.list_view(SV))),
    ],
)
def test_a_type_that_cannot_be_stored_refuses_its_shard_by_name_when_it_is_read(
    tmp_path: Path, column: pa.Array
) -> None:
    result = curate(tmp_path, a=shard(["1", "2", "3"], odd=column), b=shard(["x", "y", "z"]))
    assert (
        list(result.failures) == ["a"] and "column 'odd'" in result.failures["a"] and "\n" not in result.failures["a"]
    )
    assert result.summary["shards"] == 1


@pytest.mark.parametrize("permutation", [None, [1, 0]])
def test_tensors_are_embeddings_in_the_order_in_which_they_are_stored(tmp_path: Path, permutation: Any) -> None:
    kind = pa.fixed_shape_tensor(pa.float32(), [1, 3], permutation=permutation)
    tensors = pa.ExtensionArray.from_storage(kind, VECTORS.cast(pa.list_(pa.float32(), 3)))
    table = shard(["1", "2", "3"]).drop_columns(["v"]).append_column("v", tensors)
    if permutation is None:
        assert curate(tmp_path, a=table).summary["kept"] == 3
    else:
        result = curate(tmp_path, a=table, b=shard(["x", "y", "z"]))
        assert "permutation" in result.failures["a"] and result.summary["kept"] == 3


def test_json_extension_is_text(tmp_path: Path) -> None:
    texts = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', '{"a": 1}', '{"a": 2}']))
    table = shard(["1", "2", "3"]).drop_columns(["text"]).append_column("text", texts)
    result = curate(tmp_path, a=table)
    assert (result.summary["removed_exact"], result.summary["kept"]) == (1, 2)


def test_a_named_range_index_of_pandas_is_the_column_that_it_says(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["one", "two", "three"], "v": VECTORS.to_pylist()})
    frame.index = pd.RangeIndex(10, 16, 2, name="id")
    (tmp_path / "in").mkdir()
    frame.to_parquet(tmp_path / "in" / "a.parquet")
    result = curate(tmp_path)
    assert ids(result, tmp_path) == {"10", "12", "14"}
    assert result.kept.to_arrow().column("id").to_pylist() == [10, 12, 14]
    assert pd.read_parquet(result.output / "deduplicated" / "a.parquet").index.tolist() == [10, 12, 14]


def test_ids_that_start_again_in_every_shard_are_named_in_the_summary(tmp_path: Path) -> None:
    tables = {
        name: pa.table({"id": [1, 2, 3], "text": [f"{name}{i}" for i in range(3)], "v": VECTORS}) for name in ("a", "b")
    }
    result = curate(tmp_path, **tables)
    ((reason, count),) = result.summary["quarantined_by_reason"].items()
    assert count == 3 and "id" in reason


def test_what_json_writes_as_numbers_stays_what_it_is(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": f"t{i}", "v": [1.0, float(i)], "n": n} for i, n in enumerate([1, 2**53 + 1, 1.5])]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = da.curate(tmp_path / "a.jsonl", workspace=tmp_path / "ws", embedding_column="v", threshold=0.999)
    kept = result.kept.to_arrow()
    assert [json.loads(str(value)) for value in kept.column("n").to_pylist()] == [
        row["n"] for row in rows if row["id"] in kept.column("id").to_pylist()
    ]
    assert np.isfinite(result.duplicate_ratio)


def test_a_shard_that_fails_is_an_error_of_the_call(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(shard(pa.array([b"a", b"b", b"c"])), tmp_path / "in" / "a.parquet")
    with pytest.raises(DedupError, match="bytes are no text"):
        da.curate(tmp_path / "in", workspace=tmp_path / "ws", embedding_column="v")
