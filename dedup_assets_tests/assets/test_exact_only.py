"""Without a model only exact copies go; numbers and dates are texts too."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.encoder import settled as encoding
from dedup_assets.errors import DedupError, SettingsError
from dedup_assets_tests.cli.commands import Call, write_jsonl
from dedup_assets_tests.cli.conftest import call  # noqa: F401


def test_exact_copies_go_without_any_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,  # noqa: F811
) -> None:
    monkeypatch.setattr(encoding, "locate_model", lambda name: pytest.fail(f"{name} was looked for"))
    texts = [f"text {i % 300}" for i in range(900)]
    paths = [
        write_jsonl(tmp_path / f"{name}.jsonl", [{"id": f"{name}{i}", "text": text} for i, text in enumerate(texts)])
        for name in "ab"
    ]
    result = da.curate(*paths, workspace=tmp_path / "ws", exact_only=True)
    assert [result.summary[name] for name in ("kept", "removed_exact", "removed_semantic")] == [300, 1500, 0]
    assert set(result.kept["text"].to_pylist()) == set(texts) and len(result.pairs) == 0
    assert all(check.passed for check in da.audit(workspace=tmp_path / "ws"))
    # Appending goes on, deciding again gives the same.
    last = write_jsonl(tmp_path / "c.jsonl", [{"id": "c0", "text": "text 7"}, {"id": "c1", "text": "new"}])
    assert da.curate(last, workspace=tmp_path / "ws").summary["kept"] == 301
    assert da.recurate(workspace=tmp_path / "ws").summary["kept"] == 301
    done = call("search", "text 7", "--workspace", tmp_path / "ws")
    assert done.status == 1 and "without a model" in done.err
    done = call("curate", *paths, "--exact-only", "--json", "--workspace", tmp_path / "other")
    assert done.json()["kept"] == 300
    with pytest.raises(DedupError, match="model is 'none', asked for 'm'"):
        da.curate(workspace=tmp_path / "ws", model="m")
    with pytest.raises(SettingsError, match="exact_only looks at no vectors"):
        da.curate(*paths, workspace=tmp_path / "third", exact_only=True, embedding_column="v")


def test_columns_of_numbers_and_dates_are_text(tmp_path: Path) -> None:
    day = datetime.date(2026, 11, 27)
    table = pa.table(
        {
            "id": [1, 2, 3, 4],
            "number": [7, 7, None, 70],
            "share": [0.5, 0.5, 0.5, 0.25],
            "day": [day, day, day, day],
            "sure": [True, True, True, None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    columns = ["number", "share", "day", "sure"]
    result = da.curate(tmp_path / "a.parquet", workspace=tmp_path / "ws", text_columns=columns, exact_only=True)
    assert result.kept["id"].to_pylist() == [1, 3, 4] and result.removed["keeper_id"].to_pylist() == [1]
    explained = da.open_curation(tmp_path / "ws").kept
    assert explained.schema.field("number").type == pa.int64()
    lists = pa.table({"id": [1], "number": [[1]]})
    pq.write_table(lists, tmp_path / "b.parquet")
    with pytest.raises(DedupError, match="text is not a string: column 'number' holds list"):
        da.curate(tmp_path / "b.parquet", workspace=tmp_path / "other", text_columns=["number"], exact_only=True)
