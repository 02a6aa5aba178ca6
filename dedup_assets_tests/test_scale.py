"""The cost model grows with the corpus and agrees with what was measured; the schedule loses and doubles no work."""

import importlib
import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PATH = Path(__file__).resolve().parents[1] / "deploy" / "simulate_scale.py"
_spec = importlib.util.spec_from_file_location("simulate_scale", PATH)
assert _spec and _spec.loader
command = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(command)  # puts the folder of its modules on the path
costs, measured, schedule = (
    importlib.import_module(name) for name in ("scale_costs", "scale_measure", "scale_schedule")
)

STATED_FACTOR = 1.5
"""`deploy/scale.md` says that predictions are within this factor of what was measured."""


def test_predictions_are_within_the_stated_factor_of_what_was_measured():
    for line in measured.check():
        assert 1 / STATED_FACTOR < line["ratio"] < STATED_FACTOR, line


def test_the_document_states_that_factor():
    assert f"factor of {STATED_FACTOR}" in (PATH.parent / "scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("plant", costs.PLANTS, ids=lambda plant: plant.name)
@pytest.mark.parametrize("growth", [0.0, 0.2])
def test_every_stage_costs_more_for_more_records(plant, growth):
    sizes = [10**6, 10**7, 10**8, 10**9, 10**10]
    told = [costs.predict(plant, n, growth=growth) for n in sizes]
    for before, after in itertools.pairwise(told):
        assert all(after[stage] >= before[stage] for stage in before)
        assert after["total"] >= 9 * before["total"]


def test_more_machines_never_take_longer():
    by_name = {plant.name: costs.predict(plant, 1e8)["total"] for plant in costs.PLANTS}
    assert by_name["16 cores"] < by_name["2 cores"]
    assert by_name["8 H100, 128 cores"] < by_name["1 H100, 16 cores"]
    assert by_name["8 H100, 128 cores, blocks on the GPU"] < by_name["8 H100, 128 cores"]


def test_bytes_on_disk_are_those_of_the_arrays_that_are_written():
    records, cells, ghosts = 1000, 10, 300
    arrays = [
        np.zeros((records, costs.DIMENSION), np.float16),
        np.zeros(records, np.int64),
        np.zeros(cells + 1, np.int64),
        np.zeros(ghosts, np.int32),
        np.zeros(cells + 1, np.int64),
    ]
    assert costs.bytes_on_disk(records, cells, ghosts / records, 1) == sum(a.nbytes for a in arrays)


def test_the_measured_profile_is_the_corpus_it_was_taken_from():
    home, ghosts = schedule.skewed_cells(200_000, 529)
    assert [int(x) for x in schedule.HOME_COUNTS.split()] == np.rint(home).astype(int).tolist()
    assert ghosts.sum() / 200_000 == pytest.approx(47.0, rel=0.01)


@pytest.mark.parametrize("records", [200_000, 10**7])
def test_scaled_cells_hold_all_records(records):
    home, ghosts = schedule.skewed_cells(records, 2_000)
    assert home.sum() == pytest.approx(records)
    assert (home + ghosts <= records * (1 + 1e-9)).all()


@given(
    seconds=st.lists(st.floats(0.001, 100.0), min_size=1, max_size=200),
    workers=st.integers(1, 70),
    longest_first=st.booleans(),
    ahead=st.integers(0, 2),
)
@settings(max_examples=80, deadline=None)
def test_a_schedule_does_every_group_once_and_conserves_work(seconds, workers, longest_first, ahead):
    seconds = np.array(seconds)
    done = schedule.schedule(seconds, workers, longest_first, ahead)
    assert ((done.worker >= 0) & (done.worker < workers)).all()
    assert np.allclose(np.bincount(done.worker, seconds, minlength=workers), done.busy)
    assert done.busy.sum() == pytest.approx(seconds.sum())
    assert done.efficiency <= 1 + 1e-9
    assert done.makespan >= max(seconds.max(), seconds.sum() / workers) * (1 - 1e-9)
    assert done.makespan <= seconds.sum() * (1 + 1e-9)


@given(
    seconds=st.lists(st.floats(0.001, 100.0), min_size=1, max_size=200),
    workers=st.integers(1, 70),
)
@settings(max_examples=50, deadline=None)
def test_with_no_task_held_ahead_the_schedule_keeps_grahams_bounds(seconds, workers):
    seconds = np.array(seconds)
    mean, longest = seconds.sum() / workers, seconds.max()
    assert schedule.schedule(seconds, workers, ahead=0).makespan <= mean + longest * (1 - 1 / workers) + 1e-6
    ordered = np.sort(seconds)[::-1]
    # Of the workers + 1 longest tasks, two share a worker.
    least = max(mean, longest, 2 * ordered[workers] if len(seconds) > workers else 0.0)
    best = schedule.schedule(seconds, workers, longest_first=True, ahead=0).makespan
    assert least * (1 - 1e-9) <= best <= mean + longest * (1 - 1 / workers) + 1e-6


@pytest.mark.parametrize("min_groups", [1, 8, 256])
def test_groups_cover_all_cells_once_and_keep_the_bound(min_groups):
    home, ghosts = schedule.skewed_cells(10**7, 3_742)
    bound = 2e9
    groups = schedule.plan(home, ghosts, bound, min_groups)
    assert [a for a, _ in groups] == [0, *(b for _, b in groups[:-1])] and groups[-1][1] == 3_742
    assert len(groups) >= min_groups * 0.9
    tasks = schedule.tasks_of(home, ghosts, groups)
    widths = np.array([b - a for a, b in groups])
    assert (tasks.resident[widths > 1] <= bound * (1 + 1e-9)).all()


def test_groups_are_as_wide_as_memory_allows():
    for records, cells, ghosts, bound in ((10**7, 3_742, 58.0, 1 << 30), (10**6, 1_183, 54.0, 1 << 29)):
        width = costs.widest_group(records, cells, ghosts, bound)
        for factor, fits in ((0.99, True), (1.01, False)):
            home = records / cells * width * factor
            rows = home + costs.UNEVEN * costs.foreign_rows(home * ghosts, width * factor, records - home)
            assert (costs.block_bytes(rows, home * ghosts) <= bound) == fits
    assert costs.widest_group(1_000, 20, 5.0, 1 << 40) == 20


def test_new_records_cost_what_all_cost_minus_the_pairs_of_old_ones():
    home, ghosts = schedule.skewed_cells(10**6, 1_183)
    groups = [(at, at + 1) for at in range(1_183)]
    everything = schedule.tasks_of(home, ghosts, groups).seconds.sum()
    nothing = schedule.tasks_of(home, ghosts, groups, new=0.0).seconds.sum()
    a_part = schedule.tasks_of(home, ghosts, groups, new=0.1).seconds.sum()
    assert (a_part - nothing) / (everything - nothing) == pytest.approx(0.1 * 1.9)


def test_two_calls_print_the_same_json(capsys, monkeypatch):
    monkeypatch.setattr(
        command, "results", lambda: {"schedule": schedule.scenario(10**6, 8), "check": measured.check()}
    )
    command.main(["--json"])
    first = capsys.readouterr().out
    command.main(["--json"])
    assert capsys.readouterr().out == first
    assert set(json.loads(first)) == {"schedule", "check"}
