"""Maintenance changes no result and no later one, frees what is not needed, and may be killed anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets import api
from dedup_assets.corpus import maintenance
from dedup_assets.corpus.maintenance import maintain, prune
from dedup_assets.corpus.retraction import retract_shards
from dedup_assets.definitions import definitions_for
from dedup_assets.embedded import embedded_dagster
from dedup_assets.encoder.settled import open_table
from dedup_assets.errors import WorkspaceError
from dedup_assets.resources.workspace import serving
from dedup_assets.storage.ledger import VANISHED
from dedup_assets.storage.locks import Lock
from dedup_assets.storage.publish import temporary_beside
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import (
    assert_same_tree,
    corpus,
    curate,
    kept_ids,
    removals,
    results,
    tree,
    write_shards,
)
from dedup_assets_tests.assets.materialising import run_config
from dedup_assets_tests.checks.examined import examine, failed
from dedup_assets_tests.cli.commands import Call, call

__all__ = ["call"]

NOW = timedelta(0)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    # The first shard is small: the codebook is outgrown, and there are retired cells.
    return write_shards(tmp_path / "in", corpus("clustered", (10, 60, 80, 40), seed=60))


def grown(paths: list[Path], root: Path, **options: object) -> Workspace:
    """Curated shard by shard, under several codebooks."""
    for path in paths:
        curate([path], root, threshold=0.9, **options)
    return Workspace.open(root)


def names(root: Path) -> set[str]:
    """Everything on disk but the database of Dagster, the locks, and the table's own files."""
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return {name for name in found if name.split("/")[0] not in ("dagster", "locks", "lancedb")}


def decided(root: Path) -> tuple[set[str], dict[str, tuple[str, float, str]]]:
    """Who stays, and why the others went: all but the names of groups, which count admissions."""
    curation = da.open_curation(root)
    return kept_ids(curation), removals(curation)


@pytest.mark.parametrize("dense_limit", [256, 1])
def test_maintenance_changes_nothing_that_is_published_or_comes_after(
    paths: list[Path], tmp_path: Path, dense_limit: int
) -> None:
    tended = grown(paths[:3], tmp_path / "ws", dense_limit=dense_limit)
    shutil.copytree(tmp_path / "ws", tmp_path / "plain", symlinks=True)
    before = tree(tended.output)
    freed = maintain(tended, NOW)
    # Where cells are dense, their matches are implied by the cells of retired centroids, which therefore stay.
    assert ("cells" in freed.counts) == (dense_limit == 256)
    assert freed.total > 0 and not freed.waits
    assert_same_tree(tree(tended.output), before)
    assert failed(examine(tended)) == set()
    again = maintain(tended, NOW)
    assert set(again.counts) <= {"versions of the table of embeddings"}, "what is left is not needed either"
    # What comes after reads the old shards' cells, matches, vectors and texts.
    outputs = []
    for root in (tended.root, tmp_path / "plain"):
        curate(paths[3:], root, threshold=0.9, dense_limit=dense_limit)
        steps = [results(root / "output")]
        da.rethreshold(0.93, workspace=root)
        steps.append(results(root / "output"))
        api.retract("s01", workspace=root)
        steps.append(results(root / "output"))
        outputs.append(steps)
    for found, wanted in zip(*outputs, strict=True):
        assert_same_tree(found, wanted)


def test_a_shard_that_is_read_but_not_admitted_loses_nothing(paths: list[Path], tmp_path: Path) -> None:
    space = grown(paths[:2], tmp_path / "ws")
    done = space.ledger.completions("raw_shards")["s01"]
    # As if a run had been killed that had read s02 and embedded its texts: those of s01, which goes.
    shutil.copytree(space.raw("s01", done.input_version).folder, space.raw("s02", "f" * 32).folder)
    space.ledger.register([("s02", str(paths[2]), "parquet", None)])
    space.ledger.complete("raw_shards", [("s02", "f" * 32, done.stats, 0.0)], "")
    retract_shards(space, ["s01"], VANISHED)
    with embedded_dagster(space) as dagster:
        dagster.redecide(["s01"])  # as `retract` does, which would finish s02 too
    vectors = len(open_table(space))
    assert not maintain(space, NOW).waits
    assert space.raw("s02", "f" * 32).folder.is_dir()
    assert len(open_table(space)) == vectors


def test_what_was_taken_down_goes_with_its_texts_vectors_and_matches(paths: list[Path], tmp_path: Path) -> None:
    space = grown(paths, tmp_path / "ws")
    a = next(a for a in space.ledger.live_admissions() if a.shard == "s02")
    api.retract("s02", workspace=space.root)
    assert space.raw(a.shard, a.fingerprint).folder.is_dir()
    freed = maintain(space, NOW)
    assert not space.raw(a.shard, a.fingerprint).folder.exists()
    assert freed.counts["vectors of texts that are gone"] > 0
    living = {
        text_hash
        for b in space.ledger.live_admissions()
        for text_hash in pq.read_table(space.raw(b.shard, b.fingerprint).records)["text_hash"].to_pylist()
    }
    stored = {high.to_bytes(8) + low.to_bytes(8) for high, low in open_table(space).hashes().tolist()}
    assert stored == living
    assert failed(examine(space)) == set()
    left = curate([path for path in paths if path.stem != "s02"], tmp_path / "other", threshold=0.9)
    assert decided(space.root) == decided(left.workspace)


def test_a_vanished_shard_can_still_be_taken_down_and_can_still_return(paths: list[Path], tmp_path: Path) -> None:
    space = grown(paths, tmp_path / "ws")
    api.retract("s01", "s02", workspace=space.root, reason=VANISHED)
    maintain(space, NOW)
    api.retract("s02", workspace=space.root)
    maintain(space, NOW)
    assert "r0070" in space.ledger.tombstones()
    curate(paths[1:2], space.root, threshold=0.9)
    assert failed(examine(space)) == set()
    wanted = curate([paths[0], paths[3], paths[1]], tmp_path / "other", threshold=0.9)
    assert decided(space.root) == decided(wanted.workspace)


def test_nothing_goes_while_what_was_retracted_is_still_published(paths: list[Path], tmp_path: Path) -> None:
    space = grown(paths[:3], tmp_path / "ws")
    maintain(space, NOW)
    before, vectors = names(space.root), len(open_table(space))
    retract_shards(space, ["s01"], "takedown")
    freed = maintain(space, NOW)
    assert names(space.root) == before and len(open_table(space)) == vectors
    assert "run `dedup-assets curate`" in freed.waits
    assert failed(examine(space)) == set()
    api.retract("s01", workspace=space.root)
    assert not maintain(space, NOW).waits and len(open_table(space)) < vectors


def test_leftovers_of_killed_runs_and_abandoned_fits_go(paths: list[Path], tmp_path: Path) -> None:
    space = grown(paths[:3], tmp_path / "ws")
    maintain(space, NOW)
    before = names(space.root)
    strange = [
        "raw/s00@0123456789abcdef/table.parquet",
        "admitted/000099-s00@0123456789abcdef/record_texts.npy",
        "pairs/000099-s00@0123456789abcdef.parquet",
        "codebooks/0099-01234567.npy",
        "cells/0099-01234567/000001-s00@0123456789abcdef/rows.npy",
        "decisions/0099/records/s00.parquet",
    ]
    for name in strange:
        (space.root / name).parent.mkdir(parents=True, exist_ok=True)
        (space.root / name).write_bytes(b"x" * 1000)
    freed = maintain(space, NOW)
    assert names(space.root) == before
    assert sum(freed.bytes.values()) >= 6000
    assert not (space.root / "cells" / "0099-01234567").exists()


class Killed(BaseException):
    """Ends a maintenance as a power cut would: nothing is cleaned up."""


def test_a_maintenance_that_is_killed_anywhere_leaves_a_whole_workspace_and_the_next_ends_it(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = grown(paths[:3], tmp_path / "ws")
    api.retract("s01", workspace=space.root)
    wanted = tree(space.output)
    steps = 0
    for kill_at in range(100):
        copy = Workspace.open(shutil.copytree(space.root, tmp_path / f"copy{kill_at}", symlinks=True))
        steps = 0

        def rmtree(path: Path, *, at: int = kill_at) -> None:
            nonlocal steps
            steps += 1
            if steps > at:
                raise Killed
            shutil.rmtree(path)

        with monkeypatch.context() as patch:
            patch.setattr(maintenance.shutil, "rmtree", rmtree)
            try:
                maintain(copy, NOW)
                break
            except Killed:
                pass
        for folder in (copy.root / part for part in ("raw", "admitted", "cells")):
            assert all(path.name.startswith(".tmp-") or any(path.iterdir()) for path in folder.iterdir())
        assert failed(examine(copy)) == set()
        maintain(copy, NOW)
        assert_same_tree(tree(copy.output), wanted)
        shutil.rmtree(copy.root)
    assert steps > 3, "nothing was removed: the test proves nothing"


def test_maintenance_waits_for_a_stage_that_is_under_way(paths: list[Path], tmp_path: Path) -> None:
    space = grown(paths[:1], tmp_path / "ws")
    done = threading.Event()
    worker = threading.Thread(target=lambda: (maintain(space, NOW), done.set()))
    with space.lock(Lock.MAINTENANCE, shared=True), space.lock(Lock.MAINTENANCE, shared=True):
        worker.start()
        assert not done.wait(0.5)
    assert done.wait(60)
    worker.join()


# -- generations of the past -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "left"), [(0, {"0004"}), (1, {"0003", "0004"}), (9, {"0001", "0002", "0003", "0004"})]
)
def test_pruning_keeps_the_current_generation_the_latest_others_and_the_lists_of_changes(
    paths: list[Path], tmp_path: Path, keep: int, left: set[str]
) -> None:
    space = grown(paths[:2], tmp_path / "ws")
    for threshold in (0.92, 0.94, 0.96):
        da.rethreshold(threshold, workspace=space.root)
    space = Workspace.open(space.root)
    wanted, changes = results(space.output), tree(space.output / "changes")
    freed = prune(space, keep)
    assert {path.name for path in (space.output / "generations").iterdir()} == left
    assert {path.name for path in (space.root / "decisions").iterdir()} == left
    assert_same_tree(results(space.output), wanted)
    assert_same_tree(tree(space.output / "changes"), changes)
    assert freed.counts.get("published generations", 0) == 4 - len(left)
    assert prune(space, keep).counts == {}
    assert failed(examine(space)) == set()
    # Going on from a pruned state: the next generation is compared with the one that is left.
    da.rethreshold(0.92, workspace=space.root)
    assert (space.output / "changes" / "0005.parquet").is_file()


def test_the_commands_report_what_they_freed(paths: list[Path], tmp_path: Path, call: Call) -> None:
    space = grown(paths[:3], tmp_path / "ws")
    da.rethreshold(0.95, workspace=space.root)
    answer = call("maintain", "--json", "--workspace", space.root)
    assert answer.status == 0, answer.err
    found = answer.json()
    assert found["removed"]["cells"]["count"] > 0
    assert found["bytes_freed"] == sum(entry["bytes"] for entry in found["removed"].values()) > 0
    pruned = call("prune", "--workspace", space.root)
    assert pruned.status == 0 and "published generations: 1 removed" in pruned.out
    assert call("prune", "--workspace", space.root).out == "0 bytes freed\n"
    assert call("prune", "--keep", "-1", "--workspace", space.root).status == 2


def test_the_job_in_the_ui_does_the_same(paths: list[Path], tmp_path: Path) -> None:
    space = grown(paths[:3], tmp_path / "ws")
    config = run_config(space.root)
    with serving(space.root):
        result = definitions_for(space.root).resolve_job_def("maintain_store").execute_in_process(run_config=config)
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    assert event.step_output_data.metadata["cells (entries)"].value > 0
    assert event.step_output_data.metadata["bytes_freed"].value > 0
    assert set(maintain(space, NOW).counts) <= {"versions of the table of embeddings"}


def test_a_folder_that_is_no_workspace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="is not a workspace"):
        maintain(Workspace.open(tmp_path))


def test_what_a_killed_prune_left_goes_with_the_next(paths: list[Path], tmp_path: Path) -> None:
    space = Workspace.open(curate(paths, tmp_path / "ws", threshold=0.9).workspace)
    # As a process that was killed after it had renamed the folder, and while it removed it.
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = [temporary_beside(folder) for folder in (space.generation(9), space.output_generation(9))]
    dead = [path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{gone.pid}-")) for path in left]
    for path in dead:
        (path / "records").mkdir(parents=True)
    assert dead != left
    freed = prune(space)
    assert freed.counts == {"temporary leftovers": 2} and not any(path.exists() for path in dead)
