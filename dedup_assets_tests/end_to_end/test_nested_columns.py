"""Ids, orders and conversations inside structs: from the file to what is published, and taken down again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import dedup_assets as da
from dedup_assets_tests.end_to_end.test_purge import SECRET, holding


def row(number: int | None, text: str | None, quality: float) -> dict[str, Any]:
    chat = None if text is None else [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": text}]
    return {"chat": {"messages": chat}, "meta": {"key": number, "note": text, "quality": quality}, "text": "other"}


def test_columns_inside_structs_go_all_the_way(tmp_path: Path) -> None:
    rows = [
        row(1, "Under the bridge.", 0.1),
        row(2, "Under the bridge.", 0.9),
        row(3, SECRET, 0.5),
        row(4, None, 0.5),
        row(None, "Nowhere.", 0.5),
    ]
    source, ws = tmp_path / "a.parquet", tmp_path / "ws"
    pq.write_table(pa.Table.from_pylist(rows), source)
    result = da.curate(
        source,
        workspace=ws,
        text_columns="chat.messages",
        id_column="meta.key",
        keep="column:meta.quality",
        exact_only=True,
        progress=False,
    )
    published = pq.read_table(ws / "output" / "current" / "deduplicated" / "a.parquet")
    assert published.schema == pq.read_schema(source) and published.to_pylist() == rows[1:3]
    (removed,) = pq.read_table(ws / "output" / "current" / "duplicates" / "a.parquet").to_pylist()
    assert (removed["id"], removed["keeper_id"], removed["kind"]) == (1, 2, "exact")
    assert result.explain("4")["reason"] == "text is null"
    assert not [check.name for check in da.audit(workspace=ws) if not check.passed]

    da.retract("3", workspace=ws, progress=False)
    da.purge(workspace=ws)
    assert holding(ws, np.zeros((0, 1)))[0] == set()
    (raw,) = (ws / "raw").rglob("table.parquet")
    left = {"chat": None, "meta": {"key": 3, "note": None, "quality": None}, "text": None}
    assert pq.read_table(raw).to_pylist() == [*rows[:2], left, *rows[3:]]
    assert not {"contents of rows"} & set(da.purge(workspace=ws).counts)
    assert not [check.name for check in da.audit(workspace=ws) if not check.passed]
