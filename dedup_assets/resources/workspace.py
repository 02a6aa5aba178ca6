"""The workspace as a Dagster resource: assets ask it for settings, ledger and places."""

from __future__ import annotations

import json

import dagster as dg

from dedup_assets.storage.workspace import Workspace


class WorkspaceResource(dg.ConfigurableResource):
    """Opens the curation workspace at `path`.

    `options` is a JSON object of settings that hold for this run alone (matters of cost, such as the
    device); what shapes the result is read from curation.toml.
    """

    path: str
    options: str = "{}"

    def open(self) -> Workspace:
        """The workspace, with its settings as they are on disk now."""
        workspace = Workspace.open(self.path)
        return workspace.with_options(json.loads(self.options))
