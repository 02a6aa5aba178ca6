"""Runs in the Dagster instance of a workspace, with the definitions of that workspace."""

from __future__ import annotations

from dedup_assets.automation.runs import EmbeddedDagster
from dedup_assets.definitions import definitions_for
from dedup_assets.storage.workspace import Workspace


def embedded_dagster(workspace: Workspace) -> EmbeddedDagster:
    """A context manager that runs the jobs of a workspace in this process."""
    return EmbeddedDagster(workspace, definitions_for)
