"""Names of a workspace's objects in Dagster, distinct from those of other workspaces and other assets."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_WORKSPACE = "dedup-workspace"

WORKSPACE_KEY, DASK_KEY = "dedup_workspace_", "dedup_dask_"
"""Prefix of the keys of every workspace's resources."""


@dataclass(frozen=True)
class Names:
    """Names that contain the workspace's folder name and a digest of its path.

    A moved workspace has other names. Nothing is lost: the next curation adds the partitions again, and
    materialisations are identified by asset and shard.

    Attributes
    ----------
    partitions : str
        The set of partitions, one for each shard.
    workspace, dask : str
        Keys of the resources.
    """

    partitions: str
    workspace: str
    dask: str

    @classmethod
    def of(cls, root: str | Path) -> Names:
        """Names for the workspace in a folder, which need not exist."""
        place = Path(root).expanduser().resolve()
        digest = hashlib.blake2b(str(place).encode(errors="surrogateescape"), digest_size=4).hexdigest()
        suffix = f"{re.sub(r'[^A-Za-z0-9]+', '_', place.name)[:30].strip('_')}_{digest}".lstrip("_")
        return cls(f"shards_{suffix}", f"{WORKSPACE_KEY}{suffix}", f"{DASK_KEY}{suffix}")
