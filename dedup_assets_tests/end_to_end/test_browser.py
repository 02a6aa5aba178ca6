"""The real webserver and daemon, a run launched over GraphQL, and the pages a person opens, in Chromium."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.end_to_end.served import Served, served_ui

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
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The UI on a workspace with two curated shards and a third that is only registered."""
    folder = tmp_path_factory.mktemp("browser")
    workspace = folder / "ws"
    shards = [write_shard(folder, f"week-{n}", 1000 * n, 50) for n in (1, 2)]
    da.curate(*shards, workspace=workspace, embedding_column="vector")
    da.register(write_shard(folder, "week-3", 3000, 50), workspace=workspace)
    with served_ui(workspace, folder) as ui:
        yield ui


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


def test_a_backfill_from_the_webserver_curates_a_registered_shard(served: Served) -> None:
    backfill = served.backfill(STAGES, ["week-3"])

    def finished() -> bool:
        status = served.backfill_status(backfill)
        assert "FAIL" not in status, status
        return status == "COMPLETED_SUCCESS"

    served.wait_for(finished, 200)
    curation = da.open_curation(served.workspace)
    assert curation.summary["shards"] == 3
    assert curation.summary["rows_in"] == 150
    assert curation.summary["removed_semantic"] == 30


def test_the_lineage_page_shows_the_seven_assets_in_their_order(served: Served) -> None:
    shown = page(
        f"{served.address}/locations/dedup_assets/asset-groups/deduplication/lineage", "raw_shards", "duplicate_ids"
    )
    for asset in ("raw_shards", "embeddings", "kmeans_centroids", "cluster_partitions", "duplicate_ids"):
        assert asset in shown
    # Dagster shortens the two longest names in the middle.
    assert "_similarities" in shown
    assert "_dataset" in shown


def test_a_partition_page_shows_what_became_of_its_rows(served: Served) -> None:
    url = f"{served.address}/assets/deduplicated_dataset?view=partitions&partition=week-2"
    shown = page(url, "removed_semantic", "duplicates_file")
    assert "Materialized" in shown
    for name, value in (("rows", "50"), ("kept", "40"), ("removed_semantic", "10"), ("quarantined", "0")):
        assert name in shown
        assert f">{value}<" in shown
    assert str((served.workspace / "output/current").resolve() / "duplicates/week-2.parquet") in shown


def test_the_checks_page_shows_the_measured_recall(served: Served) -> None:
    url = f"{served.address}/assets/pairwise_similarities?view=checks&checkDetail=recall_is_one"
    shown = page(url, "missed_matches", "Passed")
    assert "recall_is_one" in shown
    assert "Passed" in shown and "Failed" not in shown
    for name in ("measured_recall", "missed_matches", "sampled_records", "compared_with_texts"):
        assert name in shown
    assert "0 of " in shown and " matches missed" in shown


def test_the_curve_and_the_groups_are_in_the_metadata_of_a_partition(served: Served) -> None:
    shown = page(f"{served.address}/assets/duplicate_ids?view=partitions&partition=week-2", "basis_latest_shards")
    for name in ("basis_latest_shards", "dagster/column_schema", "largest_groups", "removed_by_threshold"):
        assert name in shown, name


def test_a_re_curation_from_the_webserver_puts_a_new_generation_beside_the_old_one(served: Served) -> None:
    current = served.workspace / "output/current"
    before = current.resolve()
    old = {path: path.read_bytes() for path in before.rglob("*.parquet")}
    embedded = Workspace.open(served.workspace).ledger.completions("embeddings")
    run = served.launch("recurate_corpus", "week-1", "week-2")

    def finished() -> bool:
        status = served.run_status(run)
        assert status not in ("FAILURE", "CANCELED")
        return status == "SUCCESS"

    served.wait_for(finished, 200)
    assert current.resolve() != before
    assert {path: path.read_bytes() for path in before.rglob("*.parquet")} == old
    changes = pq.read_table(served.workspace / "output/changes" / f"{current.resolve().name}.parquet")
    assert changes.num_rows, "in the order of a rebuild some of the near-copies come before what they repeat"
    assert set(changes["why"].to_pylist()) == {"rebuild"}
    assert Workspace.open(served.workspace).ledger.completions("embeddings") == embedded, "nothing is embedded again"


STALE = """
query Stale($assets: [AssetKeyInput!], $shard: String) {
  assetNodes(assetKeys: $assets) {
    assetKey { path }
    staleStatus(partition: $shard)
    staleCauses(partition: $shard) { category reason dependency { path } }
  }
}"""


def stale(served: Served, shard: str) -> dict[str, list[tuple[str, list[str]]]]:
    """By asset that is not fresh, what the webserver says of it."""
    nodes = served.graphql(STALE, assets=[{"path": [stage]} for stage in STAGES], shard=shard)["assetNodes"]
    return {
        node["assetKey"]["path"][-1]: [
            (cause["category"], (cause["dependency"] or {}).get("path")) for cause in node["staleCauses"]
        ]
        for node in nodes
        if node["staleStatus"] != "FRESH"
    }


def test_the_webserver_names_what_a_curation_would_do(served: Served) -> None:
    da.curate(workspace=served.workspace, progress=False)
    assert [stale(served, f"week-{n}") for n in (1, 2, 3)] == [{}, {}, {}]
    write_shard(served.workspace.parent, "week-2", 7000, 50)
    assert da.sync(workspace=served.workspace).changed == ["week-2"]
    # The changed file, and with other content a new generation of decisions for all.
    rules = {"duplicate_ids": [("DATA", None)]}
    assert stale(served, "week-2") == {"raw_shards": [("DATA", None)], **rules}
    assert stale(served, "week-1") == stale(served, "week-3") == rules
    files = [served.workspace.parent / f"week-{n}.parquet" for n in (1, 2, 3)]
    da.curate(*files, workspace=served.workspace, progress=False)
    assert [stale(served, f"week-{n}") for n in (1, 2, 3)] == [{}, {}, {}]
