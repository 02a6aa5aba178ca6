"""A range backfill over the real webserver: a failure in its middle, a cheap retry, each partition's own metadata."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import dedup_assets as da
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.end_to_end.served import Served, served_ui, shorten_queue
from dedup_assets_tests.end_to_end.test_arrival import shard

SHARDS = [f"part-{n}" for n in range(6)]

MATERIALIZATIONS = """
query Materializations($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) {
    ... on AssetNode {
      assetMaterializations(limit: 100) {
        partition runId metadataEntries { label ... on IntMetadataEntry { intValue } }
      }
    }
  }
}"""


def materializations(ui: Served, asset: str) -> dict[str, tuple[str, dict[str, int]]]:
    """The run and the numbers of the latest materialisation of each partition."""
    node = ui.graphql(MATERIALIZATIONS, asset={"path": [asset]})["assetNodeOrError"]
    found = {}
    for event in reversed(node["assetMaterializations"]):
        numbers = {e["label"]: e["intValue"] for e in event["metadataEntries"] if e.get("intValue") is not None}
        found[event["partition"]] = (event["runId"], numbers)
    return found


def test_a_backfill_that_failed_in_its_middle_is_finished_by_a_second_one(tmp_path: Path) -> None:
    folder, workspace = tmp_path / "in", tmp_path / "ws"
    folder.mkdir()
    for n, name in enumerate(SHARDS):
        shard(folder, name, list(range(100 * n, 100 * n + 10 + n)))
    rows = [json.loads(line) for line in (folder / "part-3.jsonl").read_text().splitlines()]
    (folder / "part-3.jsonl").unlink()
    bad = folder / "part-3.parquet"
    bad.write_bytes(b"PAR1, and then the copy broke off")
    da.register(folder, workspace=workspace, embedding_column="vector")
    shorten_queue(workspace)
    ledger = Workspace.open(workspace).ledger
    others = {name for name in SHARDS if name != "part-3"}

    with served_ui(workspace, tmp_path) as ui:
        first = ui.backfill(STAGES, SHARDS)
        # The others are green where they were finished. The status of the backfill changes only every half minute.
        ui.wait_for(lambda: "part-3" in ledger.failures() and set(materializations(ui, "raw_shards")) == others, 120)
        assert "part-3.parquet" in ledger.failures()["part-3"][1]
        read = ledger.completions("raw_shards")
        assert set(read) == others

        # A run for the rest follows without a hand.
        ui.wait_for(lambda: set(ledger.completions(STAGES[-1])) == others, 120)
        ui.wait_for(lambda: set(materializations(ui, STAGES[-1])) == others, 30)
        assert set(ledger.failures()) == {"part-3"}
        ui.wait_for(lambda: ui.backfill_status(first) == "COMPLETED_FAILED", 120)

        pq.write_table(pa.Table.from_pylist(rows), bad)
        second = ui.backfill(STAGES, SHARDS)
        ui.wait_for(lambda: ui.backfill_status(second) == "COMPLETED_SUCCESS", 120)
        # What the first run read was not read again.
        assert {name: done for name, done in ledger.completions("raw_shards").items() if name in read} == read
        for stage in STAGES:
            found = materializations(ui, stage)
            assert set(found) == set(SHARDS)
            assert len({run for run, _ in found.values()}) == 1, "one run for the whole range"
            assert [found[name][1]["dagster/partition_row_count"] for name in SHARDS] == [10, 11, 12, 13, 14, 15]
        assert [materializations(ui, STAGES[-1])[name][1]["kept"] for name in SHARDS] == [10, 11, 12, 13, 14, 15]
    assert da.open_curation(workspace).summary["kept"] == 75
