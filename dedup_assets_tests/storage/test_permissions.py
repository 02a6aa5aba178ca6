"""A workspace from elsewhere, and a run config from anybody, decide neither whom this process connects to nor where it
writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import fsspec
import pytest

import dedup_assets as da
from dedup_assets.corpus.maintenance import prune
from dedup_assets.definitions import defs
from dedup_assets.errors import SettingsError, WorkspaceError
from dedup_assets.names import DEFAULT_WORKSPACE, Names
from dedup_assets.resources.workspace import WorkspaceResource, serving
from dedup_assets.storage import permissions as asked
from dedup_assets.storage.permissions import refuse_unsealed, seal_requests
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.cli.commands import write_corpus, write_jsonl

EVIL = "tcp://127.0.0.1:1"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace whose settings name a scheduler that was asked for here."""
    shards = write_corpus(tmp_path / "shards")
    da.register(shards, workspace=tmp_path / "ws", embedding_column="v", scheduler=EVIL)
    assert Workspace.open(tmp_path / "ws").settings.scheduler == EVIL
    return tmp_path / "ws"


def test_what_was_asked_for_here_is_used(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert WorkspaceResource(path=str(workspace)).open().settings.scheduler == EVIL
    refuse_unsealed(workspace, da.Settings())
    with pytest.raises(SettingsError, match=r"names the Dask scheduler 'tcp://other:1'.*--scheduler tcp://other:1"):
        refuse_unsealed(workspace, da.Settings(scheduler="tcp://other:1"))
    monkeypatch.setenv("DEDUP_ASSETS_SCHEDULER", "tcp://other:1")
    refuse_unsealed(workspace, da.Settings(scheduler="tcp://other:1"))


@pytest.mark.parametrize("change", ["copied", "another machine", "another user", "by hand", "broken seals"])
def test_what_came_from_elsewhere_connects_nowhere_until_it_is_asked_for(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    if change == "copied":
        workspace = Path(shutil.copytree(workspace, tmp_path / "copy"))
    elif change == "another machine":
        monkeypatch.setattr(asked, "_machine", lambda: "another")
    elif change == "another user":
        monkeypatch.setattr(asked.os, "getuid", lambda: 4711)
    elif change == "by hand":
        (workspace / "asked.json").unlink()
    else:
        (workspace / "asked.json").write_text('{"a": [1')
    with pytest.raises(SettingsError, match="which nobody asked for on this machine"):
        WorkspaceResource(path=str(workspace)).open()
    with pytest.raises(SettingsError, match="which nobody asked for on this machine"):
        da.curate(workspace=workspace)
    assert da.open_curation(workspace).summary["shards"] == 0, "to look at it is harmless"
    assert len(da.curate(workspace=workspace, scheduler="").kept) == 3
    seal_requests(workspace, da.Settings(scheduler=EVIL))
    refuse_unsealed(workspace, da.Settings(scheduler=EVIL))


def test_a_workspace_from_elsewhere_writes_and_fetches_nowhere_until_it_is_asked_for(tmp_path: Path) -> None:
    shards, elsewhere = write_corpus(tmp_path / "shards"), tmp_path / "elsewhere"
    da.curate(shards, workspace=tmp_path / "ws", embedding_column="v", output=str(elsewhere))
    assert (elsewhere / "manifest.json").is_file(), "what was asked for here is used"
    shutil.rmtree(elsewhere)
    copy = Path(shutil.copytree(tmp_path / "ws", tmp_path / "copy"))
    more = write_jsonl(tmp_path / "more.jsonl", [{"id": "more", "text": "more", "v": [-1.0, 0.5, 0.5]}])
    for call in (lambda: da.curate(more, workspace=copy), lambda: prune(Workspace.open(copy))):
        with pytest.raises(SettingsError, match=r"publishes to .*elsewhere, which nobody asked for"):
            call()
    assert not elsewhere.exists()
    assert da.curate(more, workspace=copy, output=str(elsewhere)).summary["shards"] == 3
    # A path inside is no matter of trust; a link that leads out is.
    assert da.curate(workspace=copy, output="published").summary["shards"] == 3
    (copy / "away").symlink_to(tmp_path)
    toml = copy / "curation.toml"
    toml.write_text(toml.read_text().replace('output = "published"', 'output = "away/stolen"'))
    with pytest.raises(SettingsError, match="which nobody asked for"):
        da.curate(workspace=copy)
    toml.write_text(
        toml.read_text().replace("away/stolen", "output").replace("sources = []", 'sources = ["memory://x"]', 1)
    )
    with pytest.raises(SettingsError, match="watches 'memory://x', which nobody asked for"):
        WorkspaceResource(path=str(copy)).open()
    toml.write_text(toml.read_text().replace('sources = ["memory://x"]', "sources = []"))
    fsspec.filesystem("memory").pipe("/x/a.jsonl", b"{}")
    da.watch("memory://x", workspace=copy)
    assert WorkspaceResource(path=str(copy)).open().settings.sources == ("memory://x",)


@pytest.mark.parametrize(
    "text",
    [
        "run_launcher:\n  module: os\n  class: system\n",
        "storage:\n  postgres:\n    postgres_url: postgresql://stranger/db\n",
        "- a list\n",
        "telemetry: {enabled: [\n",
    ],
)
def test_the_dagster_instance_of_a_workspace_from_elsewhere_loads_nothing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    da.sync(workspace=workspace)
    file = workspace / "dagster" / "dagster.yaml"
    file.write_text(text)
    with pytest.raises(WorkspaceError, match=r"dagster\.yaml (sets|is not valid YAML)"):
        da.curate(workspace=workspace, scheduler="")
    file.write_text("telemetry: {enabled: false}\nconcurrency: {runs: {max_concurrent_runs: 2}}\n")
    assert len(da.curate(workspace=workspace, scheduler="").kept) == 3


@pytest.mark.parametrize("name", ["output", "model", "sources", "threshold", "embedding_column"])
def test_a_run_sets_matters_of_cost_alone(workspace: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=f"A run cannot set {name}"):
        WorkspaceResource(path=str(workspace), options=json.dumps({name: "/tmp"})).open()
    options = json.dumps({"device": "cpu", "scheduler": "", "clusters": 3})
    assert WorkspaceResource(path=str(workspace), options=options).open().settings.clusters == 3


NAMES = Names.of(DEFAULT_WORKSPACE)  # of the definitions that a server in this folder has


@pytest.mark.parametrize(
    ("resources", "refusal"),
    [
        ({NAMES.workspace: {"config": {"path": "{workspace}"}}}, "and this server is for"),
        ({NAMES.dask: {"config": {"scheduler": EVIL}}}, "names a Dask scheduler"),
    ],
)
def test_a_run_config_names_no_other_workspace_or_scheduler(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any], refusal: str
) -> None:
    config = json.loads(json.dumps({"resources": resources}).replace("{workspace}", str(workspace)))
    job = defs.resolve_job_def("maintain_store")
    with pytest.raises(dg.DagsterResourceFunctionError) as caught:
        job.execute_in_process(run_config=config)
    assert refusal in str(caught.value.__cause__)
    monkeypatch.setenv("DEDUP_ASSETS_WORKSPACE", str(workspace))
    with serving(workspace):
        own = {"resources": {NAMES.workspace: {"config": {"path": str(workspace), "options": '{"scheduler": ""}'}}}}
        assert job.execute_in_process(run_config=own).success
