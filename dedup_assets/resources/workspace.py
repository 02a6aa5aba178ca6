"""The workspace as a Dagster resource: it gives assets the settings, ledger and paths."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from dedup_assets.errors import SettingsError
from dedup_assets.names import DASK_KEY, DEFAULT_WORKSPACE, WORKSPACE_KEY
from dedup_assets.settings import Settings
from dedup_assets.storage.liveness import holding_run
from dedup_assets.storage.permissions import refuse_unsealed
from dedup_assets.storage.workspace import SETTINGS_FILE, Workspace


class WorkspaceResource(dg.ConfigurableResource):
    """Opens the curation workspace at `path`.

    `options` is a JSON object of settings for this run alone, which affect only cost, such as the device. Settings that
    affect the result are read from curation.toml.
    """

    path: str
    options: str = "{}"

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[WorkspaceResource, None, None]:
        """Mark the process of the run as alive until the run ends."""
        root = Path(self.path).expanduser().absolute()
        if context.run is not None:
            _refuse_foreign(context.run.run_config, root)
        if context.run is None or context.instance is None or not (root / SETTINGS_FILE).is_file():
            yield self
            return
        with holding_run(root, context.run.run_id):
            yield self

    def open(self) -> Workspace:
        """The workspace with its current settings on disk."""
        workspace = Workspace.open(self.path).with_options(_harmless(self.options))
        refuse_unsealed(workspace.root, workspace.settings)
        return workspace


_served: set[Path] = set()
"""Workspaces on which this process runs jobs."""


@contextmanager
def serving(root: Path) -> Iterator[None]:
    """Inside the block, allow runs of this process to name the workspace in their run config."""
    _served.add(root)
    try:
        yield
    finally:
        _served.discard(root)


def _refuse_foreign(run_config: Mapping[str, Any], root: Path) -> None:
    """Raise SettingsError if a run config contains values that only the process itself may set: any client of the
    webserver can launch a run with any config."""
    resources = run_config.get("resources") or {}
    configs = {key: (given or {}).get("config") or {} for key, given in resources.items()}
    named = any("path" in config for key, config in configs.items() if key.startswith(WORKSPACE_KEY))
    own = Path(os.environ.get("DEDUP_ASSETS_WORKSPACE", DEFAULT_WORKSPACE)).expanduser().absolute()
    if named and root not in _served and root != own:
        raise SettingsError(
            f"The run config names the workspace {root}, and this server is for {own}: leave it out, or start "
            "`dedup-assets ui` on the other one."
        )
    if any(config.get("scheduler") for key, config in configs.items() if key.startswith(DASK_KEY)):
        raise SettingsError(
            "The run config names a Dask scheduler. Ask for one by --scheduler, or set DEDUP_ASSETS_SCHEDULER where "
            "the server starts."
        )


def _harmless(options: str) -> dict[str, Any]:
    """The options of a run: only settings of cost, not the place of its result."""
    wanted = json.loads(options)
    harmless = set(Settings().layer("cost")) - {"output"}
    refused = sorted(set(wanted) - harmless)
    if refused:
        raise SettingsError(
            f"A run cannot set {', '.join(refused)}: what shapes the result, and where it goes, is in curation.toml. "
            f"Options of a run are {', '.join(sorted(harmless))}."
        )
    return wanted
