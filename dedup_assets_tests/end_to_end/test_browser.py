"""The real webserver and daemon, a run launched over GraphQL, and the pages a person opens, in Chromium."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_assets as da

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1400",
    # Timers run ahead of the clock until the page has nothing left to wait for, 40 virtual seconds at most.
    "--virtual-time-budget=40000",
]

LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""

STATUS = """
query Status($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } ... on PythonError { message } }
}"""


def write_shard(folder: Path, name: str, first: int, rows: int) -> Path:
    """A shard of random vectors in which every fifth record nearly repeats the one before."""
    rng = np.random.default_rng(first)
    vectors = rng.standard_normal((rows, 16)).astype(np.float32)
    vectors[4::5] = vectors[3::5] + 0.01 * rng.standard_normal(vectors[4::5].shape).astype(np.float32)
    table = pa.table(
        {
            "id": [f"r{first + i}" for i in range(rows)],
            "text": [f"text number {first + i}" for i in range(rows)],
            "vector": list(vectors),
        }
    )
    path = folder / f"{name}.parquet"
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of the UI on a workspace with two curated shards and a third that is only registered."""
    folder = tmp_path_factory.mktemp("browser")
    workspace = folder / "ws"
    shards = [write_shard(folder, f"week-{n}", 1000 * n, 50) for n in (1, 2)]
    da.curate(*shards, workspace=workspace, embedding_column="vector")
    da.register(write_shard(folder, "week-3", 3000, 50), workspace=workspace)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "ui.log").open("wb")
    command = [sys.executable, "-c", "from dedup_assets.cli import run; run()", "ui"]
    server = subprocess.Popen(
        [*command, "--workspace", str(workspace), "--port", str(port)],
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(lambda: server.poll() is None and _answers(address), 120, lambda: (folder / "ui.log").read_text())
        yield address, workspace
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)
        log.close()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/server_info", timeout=5):
            return True
    except OSError:
        return False


def _wait_for(condition, seconds: float, describe=lambda: "") -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s\n{describe()}"
        time.sleep(0.5)


def graphql(address: str, query: str, variables: dict) -> dict:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]


def page(url: str, *wanted: str) -> str:
    """The page's content once its scripts have run; loaded again if a slow machine cut it short."""
    assert CHROMIUM, "these tests need Chromium: apt-get install chromium"
    content = ""
    for _ in range(3):
        with tempfile.TemporaryDirectory() as profile:
            command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", url]
            content = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        if all(text in content for text in wanted):
            break
    return content


def test_a_backfill_from_the_webserver_curates_a_registered_shard(served: tuple[str, Path]) -> None:
    address, workspace = served
    selection = [{"path": [asset]} for asset in ASSETS]
    launched = graphql(address, LAUNCH, {"params": {"assetSelection": selection, "partitionNames": ["week-3"]}})[
        "launchPartitionBackfill"
    ]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def finished() -> bool:
        status = graphql(address, STATUS, {"id": launched["backfillId"]})["partitionBackfillOrError"]["status"]
        assert "FAIL" not in status, status
        return status == "COMPLETED_SUCCESS"

    _wait_for(finished, 200)
    curation = da.open_curation(workspace)
    assert curation.summary["shards"] == 3
    assert curation.summary["rows_in"] == 150
    assert curation.summary["removed_semantic"] == 30


def test_the_lineage_page_shows_the_seven_assets_in_their_order(served: tuple[str, Path]) -> None:
    address, _ = served
    shown = page(f"{address}/locations/dedup_assets/asset-groups/deduplication/lineage", "raw_shards", "duplicate_ids")
    for asset in ("raw_shards", "embeddings", "kmeans_centroids", "cluster_partitions", "duplicate_ids"):
        assert asset in shown
    # Dagster shortens the two longest names in the middle.
    assert "_similarities" in shown
    assert "_dataset" in shown


def test_a_partition_page_shows_what_became_of_its_rows(served: tuple[str, Path]) -> None:
    address, workspace = served
    url = f"{address}/assets/deduplicated_dataset?view=partitions&partition=week-2"
    shown = page(url, "removed_semantic", "duplicates_file")
    assert "Materialized" in shown
    for name, value in (("rows", "50"), ("kept", "40"), ("removed_semantic", "10"), ("quarantined", "0")):
        assert name in shown
        assert f">{value}<" in shown
    assert str(workspace / "output" / "duplicates" / "week-2.parquet") in shown


ASSETS = (
    "raw_shards",
    "embeddings",
    "kmeans_centroids",
    "cluster_partitions",
    "pairwise_similarities",
    "duplicate_ids",
    "deduplicated_dataset",
)
