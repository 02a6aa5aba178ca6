"""What Dagster sees: seven assets, one partitions definition, the jobs, row counts, errors that say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from dedup_assets.assets import SHARD_ASSETS
from dedup_assets.assets.raw_shards import raw_shards
from dedup_assets.assets.stage import STAGES
from dedup_assets.definitions import defs
from dedup_assets.errors import ShardError, WorkspaceError
from dedup_assets.ingest.sources import discover
from dedup_assets.names import DEFAULT_WORKSPACE, Names
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.settings import Settings
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import assert_same_tree, corpus, curate, tree, write_shards
from dedup_assets_tests.assets.materialising import add_partitions, materialise

KEYS = ["s00", "s01", "s02"]
ROWS = {"s00": 12, "s01": 0, "s02": 20}

ASSETS = {
    "raw_shards": (["source_files"], {"parquet"}),
    "embeddings": (["raw_shards"], {"torch", "lancedb"}),
    "kmeans_centroids": (["embeddings"], {"torch", "cuml"}),
    "cluster_partitions": (["kmeans_centroids"], {"numpy", "dask"}),
    "pairwise_similarities": (["cluster_partitions"], {"torch", "dask", "parquet"}),
    "duplicate_ids": (["pairwise_similarities", "decision_rules"], {"numba", "parquet"}),
    "deduplicated_dataset": (["duplicate_ids", "output_folder"], {"parquet"}),
}
JOBS = {
    "audit_recall": set(),
    "maintain_store": set(),
    "curate_new_shards": set(ASSETS),
    "recurate_corpus": set(ASSETS) - {"raw_shards", "embeddings"},
    "redecide": {"duplicate_ids", "deduplicated_dataset"},
}


def test_the_definitions_load_without_a_gpu_and_without_gpu_packages() -> None:
    program = (
        "import sys; from dedup_assets.definitions import defs; dg = __import__('dagster'); "
        "dg.Definitions.validate_loadable(defs); "
        "print(sorted({'cuml', 'cupy', 'dask_cuda', 'lancedb', 'transformers'} & set(sys.modules)))"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_graph_is_a_chain_of_seven_shard_assets_and_what_they_rest_on() -> None:
    graph = defs.resolve_asset_graph()
    found = {}
    sources = {key.to_user_string() for key in graph.external_asset_keys}
    assert (
        sources
        == {"source_files", "decision_rules", "output_folder"}
        == {k.to_user_string() for k in graph.observable_asset_keys}
    )
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
        assert node.partitions_def.name == Names.of(DEFAULT_WORKSPACE).partitions
        assert node.group_name == "deduplication"
        assert node.backfill_policy == dg.BackfillPolicy.single_run()
        assert node.description
        assert node.owners == ["team:corpus"]
        source = node.metadata["dagster/code_references"].code_references[0]
        assert Path(source.file_path).name == f"{key.to_user_string()}.py" and source.line_number > 1
        for parent in node.parent_keys:
            if graph.get(parent).partitions_def is not None:
                assert isinstance(graph.get_partition_mapping(key, parent), dg.IdentityPartitionMapping)
        parents = sorted((parent.to_user_string() for parent in node.parent_keys), key=lambda name: name in sources)
        found[key.to_user_string()] = (parents, set(node.kinds))
    assert found == ASSETS
    assert tuple(ASSETS) == STAGES


def test_the_jobs_are_named_for_what_people_do_and_run_in_process() -> None:
    jobs = {job.name: job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    selected = {
        name: {key.to_user_string() for key in job.asset_layer.selected_asset_keys} for name, job in jobs.items()
    }
    assert selected == JOBS
    assert {job.executor_def.name for job in jobs.values()} == {"in_process"}


# -- materialising -----------------------------------------------------------------------------------


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    """A workspace with three registered shards, the second of them empty."""
    tables = corpus("clustered", (ROWS["s00"], 0, ROWS["s02"]), seed=30)
    files = discover([str(path) for path in write_shards(tmp_path / "in", tables)])
    workspace = Workspace.create_or_open(tmp_path / "ws", {"embedding_column": "vector", "threshold": 0.9})
    workspace.ledger.register([(file.key, file.uri, file.format, file.compression) for file in files])
    return workspace


def row_counts(instance: dg.DagsterInstance, asset: str) -> dict[str, int]:
    """`dagster/partition_row_count` of the latest materialisation of each partition."""
    records = instance.fetch_materializations(dg.AssetKey(asset), limit=100).records
    return {
        record.partition_key: record.asset_materialization.metadata["dagster/partition_row_count"].value
        for record in reversed(records)
    }


def test_each_asset_takes_one_shard_or_a_range_and_reports_rows_for_each(
    instance: dg.DagsterInstance, space: Workspace, tmp_path: Path
) -> None:
    add_partitions(instance, space, KEYS)
    for asset in SHARD_ASSETS:
        materialise([asset], instance, space, KEYS[:1])
        assert row_counts(instance, asset.name) == {"s00": ROWS["s00"]}
    for asset in SHARD_ASSETS:
        materialise([asset], instance, space, KEYS)
        assert row_counts(instance, asset.name) == ROWS
    # The same result as through the Python interface.
    result = curate(sorted((tmp_path / "in").iterdir()), tmp_path / "other", threshold=0.9)
    assert_same_tree(tree(space.output), tree(result.output))

    metadata = instance.get_latest_materialization_event(dg.AssetKey("deduplicated_dataset")).asset_materialization
    found = {name: value.value for name, value in metadata.metadata.items()}
    assert found["rows"] == found["kept"] + found["removed_exact"] + found["removed_semantic"] + found["quarantined"]
    assert Path(found["deduplicated_file"]).is_file()
    assert found["settings_fingerprint"] == space.settings.fingerprint()


def test_materialising_again_repeats_no_work_and_reports_the_same(
    instance: dg.DagsterInstance, space: Workspace
) -> None:
    add_partitions(instance, space, KEYS)
    materialise(SHARD_ASSETS, instance, space, KEYS)
    before = {stage: space.ledger.completions(stage) for stage in STAGES}
    materialise(SHARD_ASSETS, instance, space, KEYS)
    assert {stage: space.ledger.completions(stage) for stage in STAGES} == before
    assert all(row_counts(instance, stage) == ROWS for stage in STAGES)


def test_a_partition_without_a_source_is_an_error_that_says_how_to_register_it(
    instance: dg.DagsterInstance, space: Workspace
) -> None:
    add_partitions(instance, space, ["nobody"])
    with pytest.raises(ShardError, match=r"'nobody' is a partition but no source is registered.*`dedup-assets reg"):
        materialise([raw_shards], instance, space, ["nobody"])


@pytest.mark.parametrize("position", range(1, len(STAGES)))
def test_a_missing_upstream_shard_is_an_error_that_names_the_asset_and_the_shard(
    instance: dg.DagsterInstance, space: Workspace, position: int
) -> None:
    add_partitions(instance, space, KEYS)
    wanted = rf"{STAGES[position]}: {STAGES[position - 1]} is not finished for s00: materialise {STAGES[position - 1]}"
    with pytest.raises(WorkspaceError, match=wanted):
        materialise([SHARD_ASSETS[position]], instance, space, KEYS[:1])


def test_a_folder_that_is_no_workspace_is_an_error_that_says_how_to_make_one(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    nobodys = Workspace(tmp_path / "nothing", Settings())
    add_partitions(instance, nobodys, KEYS)
    with pytest.raises(WorkspaceError, match=r"nothing is not a workspace.*`dedup-assets curate SOURCE"):
        materialise([raw_shards], instance, nobodys, KEYS[:1])
    assert not (tmp_path / "nothing").exists()


# -- the cluster -------------------------------------------------------------------------------------


def listening() -> set[tuple[str, int]]:
    """Address and port of every TCP socket that this process and its children listen on."""
    here = psutil.Process()
    family = [here, *here.children(recursive=True)]
    open_ones = [found for process in family for found in process.net_connections("tcp")]
    return {(found.laddr.ip, found.laddr.port) for found in open_ones if found.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_local_cluster_is_reachable_from_this_machine_alone_and_ends_with_the_run(workers: int) -> None:
    before = listening()
    cluster = DaskCluster()
    cluster.adopt(Settings(device="cpu", workers=workers))
    try:
        assert [result for _, result in cluster.map(pow, [(2, 5)])] == [32]
        opened = listening() - before
        assert opened and {address for address, _ in opened} <= {"127.0.0.1", "::1"}
        assert 8787 not in {port for _, port in opened}
    finally:
        cluster.close()
    assert listening() <= before
