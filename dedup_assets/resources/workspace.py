"""The workspace as a Dagster resource: assets ask it for settings, ledger and places."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from dedup_assets.errors import SettingsError
from dedup_assets.resources.sqlite_log import steady_sqlite
from dedup_assets.settings import Settings
from dedup_assets.storage.liveness import holding_run
from dedup_assets.storage.workspace import SETTINGS_FILE, Workspace


class WorkspaceResource(dg.ConfigurableResource):
    """Opens the curation workspace at `path`.

    `options` is a JSON object of settings that hold for this run alone (matters of cost, such as the
    device); what shapes the result is read from curation.toml.
    """

    path: str
    options: str = "{}"

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[WorkspaceResource, None, None]:
        """For the duration of a run, show that its process is there, and keep its history from flushing the disk
        more often than it has to."""
        root = Path(self.path).expanduser().absolute()
        if context.run is None or context.instance is None or not (root / SETTINGS_FILE).is_file():
            yield self
            return
        with holding_run(root, context.run.run_id), steady_sqlite(Path(context.instance.root_directory)):
            yield self

    def open(self) -> Workspace:
        """The workspace, with its settings as they are on disk now."""
        workspace = Workspace.open(self.path)
        return workspace.with_options(json.loads(self.options))


def settings_as_they_are(path: str) -> Settings:
    """The settings of a workspace for what Dagster wants to know before it opens one, such as how often to look.

    The defaults where there is no workspace yet, or where its file is broken: whoever opens it then says why.
    """
    file = Path(path).expanduser() / SETTINGS_FILE
    try:
        return Settings.from_toml(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError, SettingsError):
        return Settings()
