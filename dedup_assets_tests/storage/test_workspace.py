"""Promises of a workspace: what it was made with stays, and a contradiction is refused before any work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dedup_assets.errors import SettingsError, WorkspaceError
from dedup_assets.settings import Settings
from dedup_assets.storage.ledger import Admission, Codebook, Ledger
from dedup_assets.storage.permissions import refuse_unasked_code
from dedup_assets.storage.workspace import SETTINGS_FILE, Workspace
from dedup_assets_tests.storage.test_ledger import write_format


def make(root: Path, **options: Any) -> Workspace:
    return Workspace.create_or_open(root, options)


def stored(root: Path) -> Settings:
    file = root / SETTINGS_FILE
    return Settings.from_toml(file.read_text("utf-8"), str(file))


# -- making and opening ------------------------------------------------------------------------------


def test_the_first_call_makes_the_workspace_and_stores_its_settings(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "ws"
    workspace = make(root, threshold=0.9, text_columns=["title", "body"], keep="longest", clusters=7)
    assert workspace.root == root and root.is_absolute()
    assert stored(root) == workspace.settings
    assert workspace.settings.text_columns == ("title", "body")
    assert workspace.ledger.shards() == []
    assert not [path for path in root.rglob(".tmp-*")]


def test_a_new_workspace_stores_matches_to_five_hundredths_below_its_threshold(tmp_path: Path) -> None:
    assert make(tmp_path / "default").settings.floor == Settings().floor == 0.9
    assert make(tmp_path / "lower", threshold=0.8).settings.floor == 0.75
    assert make(tmp_path / "one", threshold=1).settings.floor == 0.95
    assert make(tmp_path / "given", threshold=0.8, floor=0.8).settings.floor == 0.8
    assert make(tmp_path / "tiny", threshold=0.01).settings.floor > 0


def test_a_later_call_without_options_finds_the_stored_settings(tmp_path: Path) -> None:
    first = make(tmp_path, threshold=0.9, model="some/model", output="elsewhere")
    text = (tmp_path / SETTINGS_FILE).read_text()
    assert make(tmp_path).settings == first.settings
    assert Workspace.open(tmp_path).settings == first.settings
    assert (tmp_path / SETTINGS_FILE).read_text() == text


def test_repeating_the_same_options_changes_nothing(tmp_path: Path) -> None:
    options = {"threshold": 0.9, "text_columns": ["a", "b"], "keep": "random", "seed": 3}
    make(tmp_path, **options)
    text = (tmp_path / SETTINGS_FILE).read_text()
    make(tmp_path, **options)
    assert (tmp_path / SETTINGS_FILE).read_text() == text


def test_a_folder_that_is_no_workspace_is_not_opened_but_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"is not a workspace: it has no curation\.toml.*dedup-assets curate"):
        Workspace.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_workspace_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "ws").write_text("content")
    for root in (tmp_path / "ws", tmp_path / "ws" / "deeper"):
        with pytest.raises(WorkspaceError, match="choose another folder"):
            make(root)


def test_a_workspace_of_another_format_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    write_format(tmp_path / "ledger.sqlite", "999")
    for opening in (lambda: make(tmp_path), lambda: Workspace.open(tmp_path)):
        with pytest.raises(WorkspaceError, match="workspace format 999"):
            opening()


def test_a_broken_settings_file_is_refused_by_its_name(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / SETTINGS_FILE).write_text("threshold = \n")
    with pytest.raises(SettingsError, match=r"curation\.toml is not valid TOML"):
        make(tmp_path)


@pytest.mark.parametrize("options", [{"threshold": "0.9"}, {"threshold": None}, {"threshold": "0.9", "floor": 0.5}])
def test_a_threshold_that_is_no_number_is_refused_by_new_and_old_workspaces_alike(
    tmp_path: Path, options: Mapping[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=r"threshold = .*: expected a number"):
        make(tmp_path, **options)
    assert not (tmp_path / SETTINGS_FILE).exists()
    make(tmp_path)
    with pytest.raises(SettingsError, match=r"threshold = .*: expected a number"):
        make(tmp_path, **options)


def test_of_two_processes_that_make_one_workspace_differently_one_is_refused(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from dedup_assets.errors import SettingsError
from dedup_assets.storage import workspace
real = workspace.publish_text
workspace.publish_text = lambda *arguments: (time.sleep(0.5), real(*arguments))
sys.stdin.readline()
try:
    print(workspace.Workspace.create_or_open(Path(sys.argv[1]), {"model": sys.argv[2]}).settings.model)
except SettingsError:
    print("refused")
"""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "ws"), model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for model in ("model/a", "model/b")
    ]
    answers = []
    for process in children:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in children:
        answers.append(process.communicate(timeout=60)[0].strip())
    assert sorted(answers) == [stored(tmp_path / "ws").model, "refused"]


# -- options of later calls --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "other/model"),
        ("pooling", "cls"),
        ("text_columns", ["title"]),
        ("id_column", "key"),
        ("embedding_column", "vector"),
        ("max_length", 64),
        ("vector_dtype", "float32"),
        ("unicode_form", "NFC"),
        ("keep_empty", True),
        ("duplicate_ids", "refuse"),
        ("floor", 0.85),
        ("floor", 0.92),
    ],
)
def test_an_option_that_would_mix_two_kinds_of_data_is_refused_with_what_differs(
    tmp_path: Path, name: str, value: Any
) -> None:
    settings = make(tmp_path).settings
    text = (tmp_path / SETTINGS_FILE).read_text()
    with pytest.raises(SettingsError) as refused:
        make(tmp_path, **{name: value, "threshold": 0.99})
    message = str(refused.value)
    asked = tuple(value) if isinstance(value, list) else value
    assert f"{tmp_path} was made under other settings" in message
    assert f"{name} is {getattr(settings, name)!r}, asked for {asked!r}" in message
    assert "threshold is" not in message
    assert "Leave the option out, or curate into a new workspace" in message
    assert (tmp_path / SETTINGS_FILE).read_text() == text


def test_settings_edited_by_hand_are_refused_once_data_is_stored_under_them(tmp_path: Path) -> None:
    workspace = make(tmp_path)
    file = tmp_path / SETTINGS_FILE
    file.write_text(file.read_text().replace("keep_empty = false", "keep_empty = true"))
    assert Workspace.open(tmp_path).settings.keep_empty, "nothing is stored yet"
    Workspace.open(tmp_path).settle()
    with pytest.raises(SettingsError, match="keep_empty was True, is now False"):
        workspace.settle()
    file.write_text(file.read_text().replace("floor = 0.9", "floor = 0.8"))
    with pytest.raises(SettingsError, match=r"floor was 0\.9, is now 0\.8.*change them back, or curate into a new"):
        Workspace.open(tmp_path)
    file.write_text(
        file.read_text().replace("floor = 0.8", "floor = 0.9").replace('keep = "first"', 'keep = "longest"')
    )
    assert Workspace.open(tmp_path).settings.keep == "longest", "decisions may change"


def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    names = ["x" * 300, "line\nfeed", "why?", "all*", "[draft]", "a%20b", "\udcff"]
    for root in [Path("/proc/nowhere"), *(tmp_path / name for name in names)]:
        with pytest.raises(WorkspaceError, match=r"Cannot (make|write).*hoose another folder"):
            make(root)


@pytest.mark.parametrize("threshold", [0.9, 0.93, 0.99, 1])
def test_a_threshold_at_or_above_the_floor_is_honoured_and_kept(tmp_path: Path, threshold: float) -> None:
    make(tmp_path, threshold=0.95)
    workspace = make(tmp_path, threshold=threshold)
    assert workspace.settings.threshold == threshold
    assert workspace.settings.floor == 0.9
    assert stored(tmp_path) == workspace.settings


@pytest.mark.parametrize("threshold", [0.8999999, 0.5])
def test_a_threshold_below_the_floor_is_refused_with_the_two_ways_on(tmp_path: Path, threshold: float) -> None:
    make(tmp_path, threshold=0.95)
    text = (tmp_path / SETTINGS_FILE).read_text()
    with pytest.raises(SettingsError) as refused:
        make(tmp_path, threshold=threshold)
    message = str(refused.value)
    assert f"threshold {threshold} lies below the floor 0.9 of {tmp_path}" in message
    assert "at least 0.9" in message and f"new workspace with --threshold {threshold}" in message
    assert (tmp_path / SETTINGS_FILE).read_text() == text


def test_a_threshold_that_is_no_cosine_is_refused_for_what_it_is(tmp_path: Path) -> None:
    make(tmp_path)
    for threshold in (-1.0, 0.0, 1.5, float("nan")):
        with pytest.raises(SettingsError, match="expected a cosine similarity"):
            make(tmp_path, threshold=threshold)


def test_decisions_that_change_are_kept_for_later_calls(tmp_path: Path) -> None:
    make(tmp_path)
    changes = {"keep": "longest", "seed": 5, "mode": "rebuild", "keeper_rule": "semdedup"}
    make(tmp_path, **changes)
    assert stored(tmp_path) == Settings().changed(changes)


def test_matters_of_cost_hold_for_one_call(tmp_path: Path) -> None:
    make(tmp_path)
    text = (tmp_path / SETTINGS_FILE).read_text()
    cost = {"clusters": 12, "batch_size": 8, "device": "cpu", "scheduler": "tcp://127.0.0.1:1", "workers": 2}
    workspace = make(tmp_path, **cost)
    assert workspace.settings == Settings().changed(cost)
    assert (tmp_path / SETTINGS_FILE).read_text() == text
    make(tmp_path, threshold=0.93, **cost)
    assert stored(tmp_path) == Settings().changed({"threshold": 0.93})


def test_the_output_option_moves_the_output_for_good(tmp_path: Path) -> None:
    assert make(tmp_path / "ws").output == tmp_path / "ws" / "output"
    assert make(tmp_path / "ws", output="sub/result").output == tmp_path / "ws" / "sub" / "result"
    assert make(tmp_path / "ws", output=str(tmp_path / "out")).output == tmp_path / "out"
    assert Workspace.open(tmp_path / "ws").output == tmp_path / "out"


# -- places ------------------------------------------------------------------------------------------


def test_code_of_a_model_that_was_asked_for_later_is_run_from_then_on_by_this_workspace_alone(tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", model="some/model")
    assert not workspace.settings.trust_remote_code
    make(tmp_path / "ws", trust_remote_code=True)
    asked = Workspace.open(tmp_path / "ws")
    assert asked.settings.trust_remote_code and make(tmp_path / "ws").settings == asked.settings
    assert asked.settings.fingerprint() == workspace.settings.fingerprint(), "its files are in the model's fingerprint"
    refuse_unasked_code(asked.root, asked.settings)
    shutil.copytree(tmp_path / "ws", tmp_path / "copy")
    copy = Workspace.open(tmp_path / "copy")
    with pytest.raises(SettingsError, match=r"code that comes with some/model.*--trust-remote-code"):
        refuse_unasked_code(copy.root, copy.settings)


def test_a_workspace_without_a_later_setting_has_its_default_and_no_other(tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws")
    earlier = workspace.settings.layer("vectors") | workspace.settings.layer("matches")
    for name in ("prompt", "truncate_dim", "revision"):
        del earlier[name]
    workspace.ledger.settle_meta("settings", json.dumps(earlier))
    Workspace.open(tmp_path / "ws").settle()
    toml = tmp_path / "ws" / SETTINGS_FILE
    toml.write_text(toml.read_text().replace('prompt = "auto"', 'prompt = "query: "'))
    with pytest.raises(SettingsError, match="prompt was 'auto', is now 'query: '"):
        Workspace.open(tmp_path / "ws")


def test_every_content_and_every_admission_of_a_shard_has_a_place_of_its_own(tmp_path: Path) -> None:
    workspace = make(tmp_path)
    books = [Codebook(1, "aa", 5, 1, {}), Codebook(1, "bb", 5, 1, {}), Codebook(2, "aa", 5, 1, {})]
    admissions = [
        Admission(number, shard, fingerprint, 1, 1, 1)
        for number in (1, 2)
        for shard in ("a", "a-b")
        for fingerprint in ("0" * 32, "1" * 32)
    ]
    places = {workspace.admitted(a) for a in admissions}
    assert len(places) == len(admissions)
    cells = {workspace.cells(book, a) for book in books for a in admissions}
    assert len(cells) == len(books) * len(admissions)
    assert len({workspace.codebook(book) for book in books}) == len(books)
    raw = {workspace.raw(a.shard, a.fingerprint).folder for a in admissions}
    assert len(raw) == 4
    decisions = {
        workspace.decisions(generation, level, shard)
        for generation in (1, 2)
        for level in ("records", "texts")
        for shard in ("a", "b")
    }
    assert len(decisions) == 8
    for place in places | cells | raw | decisions:
        assert tmp_path in place.parents


def test_what_killed_processes_left_is_swept_everywhere_and_nothing_else(tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", output=str(tmp_path / "out"))
    script = """
import os, signal, sys
from pathlib import Path
from dedup_assets.storage import publish
publish.sync_file = lambda path: None
Path.replace = lambda path, target: None
Path.unlink = lambda path, missing_ok: None
for target in sys.argv[1:]:
    publish.publish_text(Path(target), "half")
os.kill(os.getpid(), signal.SIGKILL)
"""
    parts = ("raw/x", "admitted", "codebooks", "cells/0001", "pairs", "decisions/0001/texts", ".")
    targets = [workspace.root / part / "target" for part in parts] + [workspace.output / "duplicates" / "a.parquet"]
    command = [sys.executable, "-c", script, *map(str, targets)]
    assert subprocess.run(command, timeout=60).returncode == -9
    assert len(list(tmp_path.rglob(".tmp-*"))) == len(targets)
    (workspace.root / "pairs" / "a.parquet").write_text("published")
    assert workspace.sweep() == len(targets)
    assert list(tmp_path.rglob(".tmp-*")) == []
    assert (workspace.root / "pairs" / "a.parquet").read_text() == "published"
    assert Ledger(workspace.root / "ledger.sqlite").shards() == []
    assert workspace.sweep() == 0


def test_what_two_processes_change_at_once_is_kept_of_both(tmp_path: Path) -> None:
    Workspace.create_or_open(tmp_path / "ws", {"threshold": 0.9, "sources": ["/first"]})
    one, other, third = (Workspace.open(tmp_path / "ws") for _ in range(3))
    assert one.with_options({"threshold": 0.95}).settings.threshold == 0.95
    other.with_options({"recurate_cron": "0 3 * * 0"})
    assert one.with_sources("sources", ["/second"]).settings.sources == ("/first", "/second")
    assert third.with_sources("sources", ["/third", "/first"]).settings.sources == ("/first", "/second", "/third")
    found = Workspace.open(tmp_path / "ws").settings
    assert (found.threshold, found.recurate_cron) == (0.95, "0 3 * * 0")
    assert found.sources == ("/first", "/second", "/third")
