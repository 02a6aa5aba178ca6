"""Which encoder and which vectors a workspace is made of, settled by the first shard and held to ever after.

Finds the model and opens the table; embeds nothing itself.
"""

from __future__ import annotations

import json
from pathlib import Path

from dedup_assets.encoder.models import ModelLocation, encoder_for, locate_model
from dedup_assets.encoder.probe import probe_of
from dedup_assets.encoder.prompts import prompt_of
from dedup_assets.errors import ModelError, WorkspaceError
from dedup_assets.named_code import OBJECT
from dedup_assets.settings import NO_MODEL
from dedup_assets.storage.embeddings import EmbeddingTable
from dedup_assets.storage.permissions import refuse_unasked_code
from dedup_assets.storage.workspace import Workspace

_PROBE = "probe_vectors"


def settle_encoder(workspace: Workspace) -> ModelLocation:
    """Find the model and hold it to the one the workspace was made with.

    Raises ModelError if it differs or is missing, and SettingsError if code would be run that was not requested on this
    machine.
    """
    if workspace.settings.exact_only:
        # A text without a vector has the zero vector, whose similarity to everything is 0.
        workspace.ledger.settle_meta("dimension", "1")
        return ModelLocation(NO_MODEL, "", "none", NO_MODEL)
    settings = workspace.settings
    refuse_unasked_code(workspace.root, settings)
    location = locate_model(settings.model, settings.revision)
    if location.origin == "object" and (settings.scheduler or settings.workers > 1):
        raise ModelError(
            f"the model {settings.model.removeprefix(OBJECT)} is a Python object of this process, and the workers are "
            "others, to which no objects are sent. Leave workers and scheduler out, or give a function that makes it, "
            "by name: model='module:factory'"
        )
    settled = workspace.ledger.settle_meta("model_fingerprint", location.fingerprint)
    if settled != location.fingerprint:
        raise ModelError(
            f"Model {settings.model} found in {location.folder} has fingerprint "
            f"{location.fingerprint}, but {workspace.root} was made with {settled}: vectors of different "
            "models cannot be compared. Install the same model files, or curate into a new workspace."
        )
    if location.folder and settings.prompt not in ("auto", ""):  # those are in the fingerprints
        text = prompt_of(Path(location.source or location.folder), settings.prompt)
        begun = workspace.ledger.settle_meta("prompt", text)
        if begun != text:
            raise ModelError(
                f"the prompt {settings.prompt!r} of the model {settings.model} is {text!r}, and {workspace.root} was "
                f"made with {begun!r}. Install the same model files, or curate into a new workspace"
            )
    if workspace.ledger.meta("dimension") is None:
        encoder = encoder_for(settings, location, "cpu")
        workspace.ledger.settle_meta(_PROBE, json.dumps(probe_of(encoder)))
        workspace.ledger.settle_meta("dimension", str(encoder.dimension))
    return location


def settled_probe(workspace: Workspace) -> list[list[float]] | None:
    """The vectors that the model gave to the probe when the workspace was begun; None in one of an earlier version."""
    probe = workspace.ledger.meta(_PROBE)
    return None if probe is None else json.loads(probe)


def settled_dimension(workspace: Workspace) -> int | None:
    """Dimension of the workspace's vectors; None while no valid record with a vector has come."""
    dimension = workspace.ledger.meta("dimension")
    return None if dimension is None else int(dimension)


def open_table(workspace: Workspace) -> EmbeddingTable:
    """The workspace's table of embeddings. Raises WorkspaceError before there is a vector."""
    dimension = settled_dimension(workspace)
    if dimension is None:
        raise WorkspaceError(f"{workspace.root} has no vectors yet: materialise the asset `embeddings`.")
    return EmbeddingTable(workspace.lancedb, dimension, workspace.settings.vector_dtype)
