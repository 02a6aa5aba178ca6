"""A record that waited in quarantine for its id comes in when nobody holds that id any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dedup_assets as da
from dedup_assets.corpus.freed_ids import readmit_freed
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import curate, kept_ids, make_table, removals, write_shards

AXES = np.eye(6)


def shards(folder: Path) -> list[Path]:
    tables = [
        make_table(["x", "h"], ["held by the first", "first"], AXES[[0, 1]]),
        make_table(["x", "a"], ["waits for x", "second"], AXES[[2, 3]]),
        make_table(["b", "c"], ["third", "waits for x"], AXES[[4, 2]]),
    ]
    return write_shards(folder, tables)


@pytest.mark.parametrize("way", ["vanished", "changed"])
def test_a_record_whose_id_is_free_again_is_decided_as_if_its_shard_had_come_last(tmp_path: Path, way: str) -> None:
    paths = shards(tmp_path / "in")
    first = curate(paths, tmp_path / "ws", threshold=0.9)
    assert first.summary["quarantined"] == 1 and kept_ids(first) == {"x", "h", "a", "b", "c"}
    if way == "vanished":
        result = da.retract("s00", workspace=tmp_path / "ws", reason="vanished")
        fresh = curate([paths[2], paths[1]], tmp_path / "fresh", threshold=0.9)
    else:
        write_shards(tmp_path / "in", [make_table(["h"], ["first"], AXES[[1]])])
        result = curate(paths, tmp_path / "ws")
        fresh = curate([paths[2], paths[0], paths[1]], tmp_path / "fresh", threshold=0.9)
    assert result.summary["quarantined"] == 0
    assert kept_ids(result) == kept_ids(fresh) and removals(result) == removals(fresh)
    assert "x" in {row["id"] for row in result.removed.to_arrow().to_pylist()}, "its text came with c"
    assert readmit_freed(Workspace.open(tmp_path / "ws")) == []
    assert all(check.passed for check in da.audit(workspace=tmp_path / "ws"))


def test_an_id_that_was_taken_down_frees_nobody(tmp_path: Path) -> None:
    paths = shards(tmp_path / "in")
    curate(paths, tmp_path / "ws", threshold=0.9)
    for names in (["id:x"], ["s00"]):
        result = da.retract(*names, workspace=tmp_path / "ws")
        assert "x" not in kept_ids(result) and result.summary["quarantined"] >= 1
    assert "x" not in kept_ids(curate(paths[1:], tmp_path / "ws"))
