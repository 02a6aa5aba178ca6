"""Small files that grow are refused or read within bounds of memory and time; see `dedup_assets_tests.bombs`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dedup_assets.ingest.formats import jsonl
from dedup_assets.ingest.formats.decoded_sizes import pieces, row_bytes
from dedup_assets.ingest.source_files import SourceFile
from dedup_assets_tests import bombs

TEXTS = ["a" * 5, None, "bbb", ""]


@pytest.mark.parametrize("bomb", [*bombs.READ, *bombs.REFUSED], ids=lambda bomb: bomb.__name__)
def test_a_small_file_takes_little_memory_and_time(bomb: Callable[[Path], None], tmp_path: Path) -> None:
    found = bombs.set_off(bomb, tmp_path)
    assert "died" not in found, found["died"]
    if bomb in bombs.READ:
        assert found.get("records") == bombs.READ[bomb], found
    else:
        assert re.search(bombs.REFUSED[bomb], str(found.get("refused"))), found
    assert int(str(found["peak"])) < bombs.MOST_MEMORY


@pytest.mark.parametrize(
    ("array", "sizes"),
    [
        (pa.array(TEXTS), [5, 0, 3, 0]),
        (pa.array(TEXTS, pa.large_string()), [5, 0, 3, 0]),
        (pa.array(TEXTS, pa.string_view()), [5, 0, 3, 0]),
        (pa.array([*TEXTS[:3], TEXTS[0]]).dictionary_encode(), [5, 5, 3, 5]),
        (pa.RunEndEncodedArray.from_arrays(pa.array([2, 3, 4]), pa.array(["x" * 10, None, "yy"])), [10, 10, 0, 2]),
    ],
    ids=["string", "large_string", "string_view", "dictionary", "runs"],
)
def test_the_decoded_bytes_of_strings(array: pa.Array, sizes: list[int]) -> None:
    assert (row_bytes(array) == np.array(sizes) + 4).all()
    assert (row_bytes(array.slice(1, 2)) == np.array(sizes[1:3]) + 4).all()


def test_the_decoded_bytes_of_nested_values() -> None:
    views = pa.ListViewArray.from_arrays(pa.array([0, 0, 1]), pa.array([2, 2, 1]), pa.array([1, 2], pa.int64()))
    assert row_bytes(views).tolist() == [20, 20, 12]
    assert row_bytes(pa.array([[1, 2], None, []], pa.list_(pa.int64()))).tolist() == [20, 4, 4]
    assert row_bytes(pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))).tolist() == [8, 8]
    assert row_bytes(pa.array([{"a": "xx", "b": 1}, {"a": "y", "b": 2}])).tolist() == [14, 13]
    assert row_bytes(pa.array([[("k", "vv")], []], pa.map_(pa.string(), pa.string()))).tolist() == [19, 8]
    assert row_bytes(pa.nulls(2)).tolist() == [1, 1]


def test_pieces_hold_all_rows_and_no_more_bytes_than_asked() -> None:
    texts = ["x" * n for n in np.random.default_rng(0).integers(0, 300, 500)]
    batch = pa.record_batch({"id": pa.array(range(500)), "text": pa.array(texts).dictionary_encode()})
    cut = list(pieces(batch, 1_000))
    assert pa.Table.from_batches([part for part, _ in cut]).equals(pa.Table.from_batches([batch]))
    assert all(size <= 1_000 for _, size in cut) and len(cut) > 50
    assert all(size == sum(row_bytes(column).sum() for column in part.columns) for part, size in cut)


@pytest.mark.parametrize("bytes_of_a_piece", [1, 40, 200, 2**16])
def test_the_columns_of_json_do_not_depend_on_the_pieces(
    bytes_of_a_piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        ['{"id":"a","text":"x","n":1,"m":null,"d":"2020-01-01","s":{"p":1}}'] * 20
        + ['{"id":"b","text":"y","n":1.5,"m":[1],"s":{"q":"z"},"big":9007199254740993}']
        + ['{"id":"c","text":"z","mixed":1,"s":{"p":2.5}}', "no json", '{"id":"d","text":7,"mixed":"one","big":1.5}']
        + ['{"id":"e","text":"w","late":[[],[{"k":null}]]}'] * 20
    )
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    monkeypatch.setattr(jsonl, "_LEARNING_BYTES", bytes_of_a_piece)
    content = jsonl.read(SourceFile("a", str(path), "jsonl", None), ["text"], "id")
    assert content.schema == pa.schema(
        {
            "id": pa.string(),
            "text": pa.string(),
            "n": pa.float64(),
            "m": pa.list_(pa.int64()),
            "d": pa.string(),
            "s": pa.struct({"p": pa.float64(), "q": pa.string()}),
            "big": pa.string(),
            "mixed": pa.string(),
            "late": pa.list_(pa.list_(pa.struct({"k": pa.null()}))),
        }
    )
    batches = list(content.batches)
    table = pa.concat_tables([batch.table for batch in batches])
    assert table.num_rows == 42 and [item.row for batch in batches for item in batch.rejected] == [22, 23]
    assert pc.unique(table["big"].drop_null()).to_pylist() == ["9007199254740993"]
    assert table["mixed"].drop_null().to_pylist() == ["1"]
