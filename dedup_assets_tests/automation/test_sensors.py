"""The sensor and the schedule on an instance: what they request, and what a corpus looks like after it was run."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.automation.schedules import weekly_recuration_schedule
from dedup_assets.automation.sensors import arriving_shards_sensor
from dedup_assets.definitions import definitions_for
from dedup_assets.names import Names
from dedup_assets.resources.workspace import WorkspaceResource, serving
from dedup_assets.storage.ledger import VANISHED
from dedup_assets.storage.liveness import holding_run
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.materialising import partition_set, run_config
from dedup_assets_tests.automation.watched import INTERVAL, Watched
from dedup_assets_tests.end_to_end import children

KEYS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


class Daemon:
    """What Dagster's daemon does with a sensor: ticks, partitions, runs without a run key that was there before."""

    def __init__(self, watched: Watched, instance: dg.DagsterInstance) -> None:
        self.watched = watched
        self.instance = instance
        self.cursor: str | None = None
        self.sensor = arriving_shards_sensor(Names.of(watched.space.root), INTERVAL)
        self.resource = WorkspaceResource(path=str(watched.space.root))

    def tick(self) -> dg.SensorResult:
        """One tick; `watched.now` is the time of it."""
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={Names.of(self.watched.space.root).workspace: self.resource},
        ) as context:
            result = self.sensor.evaluate_tick(context)
        for request in result.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        self.cursor = result.cursor or self.cursor
        return result

    def job(self, request: dg.RunRequest) -> dg.JobDefinition:
        return definitions_for(self.watched.space.root).resolve_job_def(request.job_name)

    def run(self, request: dg.RunRequest, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        """Run a request in this process, on the workspace of the test."""
        with serving(self.watched.space.root):
            return self.job(request).execute_in_process(
                instance=self.instance,
                tags={**request.tags, "dagster/run_key": request.run_key},
                run_config=run_config(self.watched.space.root),
                raise_on_error=raise_on_error,
            )


def spans(result: dg.SensorResult) -> list[tuple[str | None, str, str]]:
    return [(r.job_name, r.tags[KEYS[0]], r.tags[KEYS[1]]) for r in result.run_requests or ()]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


@pytest.fixture
def daemon(watched: Watched) -> Iterator[Daemon]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Daemon(watched, instance)


def test_what_arrives_is_registered_run_and_then_left_alone(watched: Watched, daemon: Daemon) -> None:
    assert "0 shard files watched" in str(daemon.tick().skip_message)
    for n, name in enumerate(("b1", "b2", "b3")):
        watched.write(name, 10 * n)
    arrived = daemon.tick()
    assert spans(arrived) == [("curate_new_shards", "b1", "b3")]
    assert daemon.instance.get_dynamic_partitions(partition_set(watched.space.root)) == ["b1", "b2", "b3"]
    (request,) = arrived.run_requests
    daemon.run(request)
    assert daemon.tick().run_requests == []

    watched.write("a-late-one", 0)  # sorts before the others, and repeats one of them
    late = daemon.tick()
    assert spans(late) == [("curate_new_shards", "a-late-one", "a-late-one")]
    before = {path: path.read_bytes() for path in (watched.space.output / "deduplicated").iterdir()}
    daemon.run(late.run_requests[0])
    assert all(path.read_bytes() == content for path, content in before.items())
    admissions = Workspace.open(watched.space.root).ledger.live_admissions()
    assert [a.shard for a in admissions] == ["b1", "b2", "b3", "a-late-one"]


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_nothing_is_requested_while_a_run_has_the_shard(
    watched: Watched, daemon: Daemon, status: dg.DagsterRunStatus
) -> None:
    for n, name in enumerate("abc"):
        watched.write(name, 10 * n)
    (request,) = daemon.tick().run_requests
    run = daemon.instance.create_run_for_job(daemon.job(request), tags=request.tags, status=status)
    daemon.cursor = None  # whatever the sensor remembers
    assert daemon.tick().run_requests == []
    watched.write("d", 40)
    assert spans(daemon.tick()) == [("curate_new_shards", "d", "d")]
    daemon.instance.report_run_canceled(run)
    assert spans(daemon.tick()) == [("curate_new_shards", "a", "d")]


def test_a_lost_cursor_repeats_the_run_key_so_that_dagster_runs_nothing_twice(watched: Watched, daemon: Daemon) -> None:
    watched.write("a", 0)
    watched.write("b", 10)
    keys = []
    for _ in range(2):
        daemon.cursor = None
        keys += [request.run_key for request in daemon.tick().run_requests]
    assert len(keys) == 2 and len(set(keys)) == 1


def test_one_bad_shard_does_not_keep_the_others_out(watched: Watched, daemon: Daemon) -> None:
    watched.write("a", 0)
    watched.write("c", 20)
    bad = watched.folder / "b.parquet"
    bad.write_bytes(b"no parquet")
    watched.age(bad, 1000)
    first = daemon.tick()
    assert spans(first) == [("curate_new_shards", "a", "c")]
    assert not daemon.run(first.run_requests[0], raise_on_error=False).success
    second = daemon.tick()
    assert spans(second) == [("curate_new_shards", "a", "a"), ("curate_new_shards", "c", "c")]
    for request in second.run_requests:
        assert daemon.run(request).success
    third = daemon.tick()
    assert third.run_requests == [] and "b is not tried again until its file changes" in str(third.skip_message)
    assert da.open_curation(watched.space.root).summary["shards"] == 2


def test_a_run_that_failed_for_one_shard_is_followed_by_one_for_the_rest_and_no_more(
    watched: Watched, daemon: Daemon
) -> None:
    """Also where nothing is watched, as after a backfill from the UI."""
    for name, first in (("a", 0), ("b", 100), ("c", 200), ("d", 300)):
        watched.write(name, first)
    (watched.folder / "c.parquet").write_bytes(b"PAR1 no more")
    space = Workspace.create_or_open(watched.space.root, {"sources": []})
    da.register(watched.folder, workspace=space.root)
    daemon.instance.add_dynamic_partitions(partition_set(watched.space.root), ["a", "b", "stranger", "c", "d"])
    request = dg.RunRequest(run_key="by hand", job_name="curate_new_shards", tags=dict(zip(KEYS, "ad", strict=True)))
    # Dagster fails a range with a stranger as a whole: here the range is cut in two.
    first = daemon.run(request.with_replaced_attrs(tags=dict(zip(KEYS, "ab", strict=True))))
    assert first.success
    failed = daemon.run(request.with_replaced_attrs(tags=dict(zip(KEYS, "cd", strict=True))), raise_on_error=False)
    assert not failed.success and set(space.ledger.failures()) == {"c"}
    green = daemon.instance.get_materialized_partitions(dg.AssetKey("raw_shards"))
    assert green == {"a", "b", "d"}
    result = daemon.tick()
    assert spans(result) == [("curate_new_shards", "d", "d")]
    (follower,) = result.run_requests or ()
    assert follower.run_key == f"rest of {failed.run_id} from d"
    assert daemon.run(follower).success
    assert set(space.ledger.completions("deduplicated_dataset")) == {"a", "b", "d"}
    assert spans(daemon.tick()) == []


def test_a_vanished_shard_is_retracted_and_what_it_had_removed_comes_back(watched: Watched, daemon: Daemon) -> None:
    path = watched.write("a", 0)
    shutil.copy2(path, watched.folder / "copy-of-a.parquet")
    watched.write("b", 10)
    ids = watched.folder / "copy-of-a.parquet"
    rename_ids(ids)
    watched.age(ids, 1000)
    daemon.run(daemon.tick().run_requests[0])
    assert da.open_curation(watched.space.root).summary["removed_exact"] == 6
    path.unlink()
    assert daemon.tick().run_requests == []
    result = daemon.tick()
    assert spans(result) == [("redecide", "a", "a")]
    (retraction,) = watched.space.ledger.retractions()
    assert (retraction.shard, retraction.reason) == ("a", VANISHED)
    again = daemon.tick()  # the run did not come to anything: another one, twice at most
    assert again.run_requests[0].run_key != result.run_requests[0].run_key
    daemon.run(result.run_requests[0])
    summary = da.open_curation(watched.space.root).summary
    assert (summary["shards"], summary["kept"], summary["removed_exact"]) == (2, 12, 0)
    assert daemon.tick().run_requests == []


def rename_ids(path: Path) -> None:
    table = pq.read_table(path)
    ids = pa.array([f"copy-{name}" for name in table["id"].to_pylist()])
    pq.write_table(table.set_column(0, "id", ids), path)


def test_a_decision_that_never_comes_is_asked_for_three_times(watched: Watched, daemon: Daemon) -> None:
    for n, name in enumerate("ab"):
        watched.write(name, 10 * n)
    daemon.run(daemon.tick().run_requests[0])
    (watched.folder / "a.parquet").unlink()
    keys = [request.run_key for _ in range(6) for request in daemon.tick().run_requests]
    assert keys == ["retraction 1.1", "retraction 1.2", "retraction 1.3"]
    assert "3 runs did not decide again" in str(daemon.tick().skip_message)


def test_a_changed_shard_takes_the_place_of_its_old_content(watched: Watched, daemon: Daemon) -> None:
    watched.write("a", 0)
    watched.write("b", 10)
    daemon.run(daemon.tick().run_requests[0])
    watched.write("a", 100)
    daemon.run(daemon.tick().run_requests[0])
    kept = set(da.open_curation(watched.space.root).kept.to_pandas()["id"])
    assert kept == {f"r{n}" for n in (*range(10, 16), *range(100, 106))}
    assert daemon.tick().run_requests == []


def test_what_dagster_shows_of_the_other_shards_follows_a_new_generation(watched: Watched, daemon: Daemon) -> None:
    path = watched.write("a", 0)
    copy = watched.folder / "copy-of-a.parquet"
    shutil.copy2(path, copy)
    rename_ids(copy)
    watched.age(copy, 1000)
    daemon.run(daemon.tick().run_requests[0])

    def shown(stage: str) -> tuple[str, object]:
        (record,) = daemon.instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey(stage), asset_partitions=["copy-of-a"]), limit=1
        ).records
        return record.run_id, record.asset_materialization.metadata["kept"].value

    assert shown("deduplicated_dataset")[1] == 0
    watched.write("a", 100)
    (request,) = daemon.tick().run_requests
    assert request.tags[KEYS[0]] == request.tags[KEYS[1]] == "a"
    run = daemon.run(request)
    for stage in ("duplicate_ids", "deduplicated_dataset"):
        assert shown(stage) == (run.run_id, 6)


def test_a_shard_that_is_registered_otherwise_keeps_its_key(watched: Watched, daemon: Daemon) -> None:
    path = watched.write("deep/a", 0)
    da.register(path, workspace=watched.space.root)  # as `a`; by its folder it would be deep_a-...
    watched.write("b", 10)
    assert spans(daemon.tick()) == [("curate_new_shards", "a", "b")]
    assert daemon.instance.get_dynamic_partitions(partition_set(watched.space.root)) == ["a", "b"]


# -- killed runs -------------------------------------------------------------------------------------


def test_a_killed_run_is_ended_and_its_shards_are_requested_again(watched: Watched, tmp_path: Path) -> None:
    path = watched.write("a", 0)
    child = children.start(children.curate_until, [path], watched.space.root, tmp_path / "log", "embeddings")
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    instance = dg.DagsterInstance.from_config(str(watched.space.dagster_home))
    (run,) = instance.get_runs()
    assert run.status is dg.DagsterRunStatus.STARTED
    daemon = Daemon(watched, instance)
    assert spans(daemon.tick()) == [("curate_new_shards", "a", "a")]
    assert instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE
    (failure,) = [e for e in instance.all_logs(run.run_id) if e.dagster_event and e.dagster_event.is_failure]
    assert "Its process is gone" in failure.message


def test_a_run_under_way_is_not_taken_for_dead(watched: Watched, daemon: Daemon) -> None:
    watched.write("a", 0)
    (request,) = daemon.tick().run_requests
    run = daemon.instance.create_run_for_job(
        daemon.job(request),
        tags=request.tags,
        status=dg.DagsterRunStatus.STARTED,
    )
    with holding_run(watched.space.root, run.run_id):
        assert daemon.tick().run_requests == []
    assert daemon.instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.STARTED


# -- reasons -----------------------------------------------------------------------------------------


def test_without_a_workspace_the_tick_says_how_to_make_one(tmp_path: Path, daemon: Daemon) -> None:
    daemon.resource = WorkspaceResource(path=str(tmp_path / "nothing"))
    result = daemon.tick()
    assert result.run_requests == [] and "is not a workspace" in str(result.skip_message)
    assert not (tmp_path / "nothing").exists()


def test_without_sources_the_tick_says_how_to_name_some(tmp_path: Path, daemon: Daemon) -> None:
    Workspace.create_or_open(tmp_path / "other", {})
    daemon.resource = WorkspaceResource(path=str(tmp_path / "other"))
    assert "`dedup-assets watch SOURCE..." in str(daemon.tick().skip_message)


def test_a_broken_settings_file_is_a_reason_and_no_traceback(watched: Watched, daemon: Daemon) -> None:
    (watched.space.root / "curation.toml").write_text("watch_seconds = 0\n")
    assert "watch_seconds = 0: expected 1 or more" in str(daemon.tick().skip_message)


def test_the_settings_of_the_workspace_are_those_of_sensor_and_schedule(tmp_path: Path) -> None:
    program = (
        "from dedup_assets.definitions import defs; s = defs.resolve_sensor_def('arriving_shards'); "
        "w = defs.resolve_schedule_def('weekly_recuration'); "
        "print(s.minimum_interval_seconds, s.default_status.name, w.cron_schedule, w.default_status.name)"
    )

    def loaded(workspace: Path) -> str:
        environment = {"DEDUP_ASSETS_WORKSPACE": str(workspace), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    Workspace.create_or_open(tmp_path / "ws", {"watch_seconds": 7, "recurate_cron": "5 4 * * 1"})
    assert loaded(tmp_path / "ws") == "7 RUNNING 5 4 * * 1 RUNNING"
    (tmp_path / "ws" / "curation.toml").write_text("= broken")
    for unreadable in ("ws", "nothing"):
        assert loaded(tmp_path / unreadable) == "30 RUNNING 0 3 * * 0 STOPPED"


def test_a_deleted_partition_comes_back_and_the_tick_says_what_takes_a_shard_back(
    watched: Watched, daemon: Daemon
) -> None:
    for n, name in enumerate("ab"):
        watched.write(name, 10 * n)
    daemon.run(daemon.tick().run_requests[0])
    daemon.instance.delete_dynamic_partition(partition_set(watched.space.root), "a")
    result = daemon.tick()
    assert "1 partitions were deleted and are added again" in str(result.skip_message) and ": a. " in str(
        result.skip_message
    )
    assert daemon.instance.get_dynamic_partitions(partition_set(watched.space.root)) == ["b", "a"]
    assert "deleted" not in str(daemon.tick().skip_message)


# -- re-curation -------------------------------------------------------------------------------------


def test_the_schedule_asks_for_one_run_that_decides_everything_anew(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "instance").mkdir()
    daemon = Daemon(watched, dg.DagsterInstance.local_temp(str(tmp_path / "instance")))
    schedule = weekly_recuration_schedule(Names.of(watched.space.root), "")

    def fire() -> list[dg.RunRequest] | str:
        resources = {Names.of(watched.space.root).workspace: daemon.resource}
        with dg.build_schedule_context(instance=daemon.instance, resources=resources) as context:
            tick = schedule.evaluate_tick(context)
        return list(tick.run_requests or []) or str(tick.skip_message)

    assert "Nothing is curated yet" in fire()
    for n, name in enumerate(("b", "a")):
        watched.write(name, 10 * n)
        daemon.run(daemon.tick().run_requests[0])
    space = watched.space
    before, embedded = space.ledger.generation(), space.ledger.completions("embeddings")
    (request,) = fire()
    assert [request.tags[name] for name in KEYS] == ["b", "a"]
    result = daemon.run(dg.RunRequest(job_name="recurate_corpus", run_key="recurate", tags=request.tags))
    assert result.success
    after = space.ledger.generation()
    assert after.number == before.number + 1 and after.rebuilt == 2
    assert space.ledger.completions("embeddings") == embedded
    assert (space.output / "current").resolve().name == f"{after.number:04d}"
