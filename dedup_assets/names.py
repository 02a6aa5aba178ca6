"""What the things of a workspace are called in Dagster, beside other work and other workspaces."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_WORKSPACE = "dedup-workspace"

WORKSPACE_KEY, DASK_KEY = "dedup_workspace_", "dedup_dask_"
"""How the keys of every workspace's resources begin."""


@dataclass(frozen=True)
class Names:
    """Names with the workspace in them: its folder's, and a digest of where that is.

    A workspace that is moved has others. Nothing is lost by that: partitions are added again by the next curation, and
    materialisations are known by asset and shard.

    Attributes
    ----------
    partitions : str
        The set of partitions, one a shard.
    workspace, dask : str
        Keys of the resources.
    """

    partitions: str
    workspace: str
    dask: str

    @classmethod
    def of(cls, root: str | Path) -> Names:
        """Names for the workspace in a folder, which need not be there."""
        place = Path(root).expanduser().resolve()
        digest = hashlib.blake2b(str(place).encode(errors="surrogateescape"), digest_size=4).hexdigest()
        suffix = f"{re.sub(r'[^A-Za-z0-9]+', '_', place.name)[:30].strip('_')}_{digest}".lstrip("_")
        return cls(f"shards_{suffix}", f"{WORKSPACE_KEY}{suffix}", f"{DASK_KEY}{suffix}")
