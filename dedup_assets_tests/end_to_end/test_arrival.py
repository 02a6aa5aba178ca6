"""A folder that is watched by the real webserver and daemon: nobody runs anything, and the corpus is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import dedup_assets as da
from dedup_assets_tests.end_to_end.served import Served, served_ui, shorten_queue

TICKS = """
query Ticks($sensor: SensorSelector!) {
  sensorOrError(sensorSelector: $sensor) {
    ... on Sensor { sensorState { status ticks(limit: 200) { status skipReason error { message } } } }
  }
}"""


def write(path: Path, ids: list[str], numbers: list[int]) -> None:
    """A shard whose records have the text and the vector of their number: equal numbers are copies."""
    rows = [
        {"id": name, "text": f"text {n}", "vector": np.random.default_rng(n).normal(size=16).round(6).tolist()}
        for name, n in zip(ids, numbers, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shard(folder: Path, name: str, numbers: list[int]) -> list[str]:
    ids = [f"{name}-{n}" for n in numbers]
    write(folder / f"{name}.jsonl", ids, numbers)
    return ids


def kept(ui: Served) -> set[str]:
    """Ids of what is published; none before anything is."""
    curation = da.open_curation(ui.workspace)
    return set(curation.kept.to_pandas()["id"]) if curation.summary["shards"] else set()


def test_a_watched_folder_curates_itself(tmp_path: Path) -> None:
    incoming, workspace = tmp_path / "incoming", tmp_path / "ws"
    incoming.mkdir()
    # Every tick of the daemon, which looks every five seconds.
    da.watch(incoming, workspace=workspace, embedding_column="vector", watch_seconds=1)
    shorten_queue(workspace)
    with served_ui(workspace, tmp_path) as ui:
        first = shard(incoming, "w1", list(range(100, 120)))
        second = shard(incoming, "w2", list(range(200, 220)))
        third = shard(incoming, "w3", list(range(300, 320)))
        ui.wait_for(lambda: kept(ui) == {*first, *second, *third}, 120)
        published = {path: path.read_bytes() for path in (workspace / "output/deduplicated").iterdir()}

        # One that repeats half of the third, and one that is still being written.
        fourth = shard(incoming, "w4", [*range(310, 320), *range(400, 410)])
        growing = incoming / "growing.jsonl"
        growing.write_text('{"id": "growing-0", "text": "half a li')

        def fourth_is_in() -> bool:
            with growing.open("a") as file:
                file.write("n")  # every half second: never still for long
            return len(kept(ui)) == 70

        ui.wait_for(fourth_is_in, 90)
        assert kept(ui) == {*first, *second, *third, *fourth[10:]}
        removed = da.open_curation(workspace).removed.to_pandas()
        assert set(removed["id"]) == set(fourth[:10])
        assert set(removed["keeper_id"]) == set(third[10:]) and set(removed["kind"]) == {"exact"}
        assert all(path.read_bytes() == content for path, content in published.items())

        # The writer finishes, a file gets other content, and one goes: what went for it comes back.
        grown = shard(incoming, "growing", list(range(500, 510)))
        changed = [*first[:10], *[f"w1-{n}" for n in range(600, 610)]]
        write(incoming / "w1.jsonl", changed, [*range(100, 110), *range(600, 610)])
        (incoming / "w3.jsonl").unlink()
        ui.wait_for(lambda: kept(ui) == {*changed, *second, *fourth, *grown}, 120)

        sensor = {
            "repositoryLocationName": "dedup_assets",
            "repositoryName": "__repository__",
            "sensorName": "arriving_shards",
        }
        state = ui.graphql(TICKS, sensor=sensor)["sensorOrError"]["sensorState"]
        assert state["status"] == "RUNNING"
        assert {tick["status"] for tick in state["ticks"]} <= {"SUCCESS", "SKIPPED", "STARTED"}, state["ticks"]
        assert any("growing" in (tick["skipReason"] or "") for tick in state["ticks"])
    summary = da.open_curation(workspace).summary
    assert (summary["shards"], summary["quarantined"]) == (4, 0)
