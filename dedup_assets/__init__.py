"""Exact semantic deduplication for text corpora that grow.

import dedup_assets as da
da.deduplicate(texts, threshold=0.9).selected                   # in memory
result = da.curate("shards/", workspace="ws", threshold=0.9)    # a corpus that grows
result.kept.head()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dedup_assets.api import (
        Curation,
        audit,
        curate,
        open_curation,
        purge,
        recurate,
        register,
        rethreshold,
        retract,
        sync,
        watch,
    )
    from dedup_assets.errors import DedupError
    from dedup_assets.in_memory.calls import deduplicate, find_matches
    from dedup_assets.in_memory.ranked import outliers, representatives
    from dedup_assets.in_memory.result import DeduplicationResult
    from dedup_assets.settings import Settings

__all__ = [
    "Curation",
    "DedupError",
    "DeduplicationResult",
    "Settings",
    "audit",
    "curate",
    "deduplicate",
    "find_matches",
    "open_curation",
    "outliers",
    "purge",
    "recurate",
    "register",
    "representatives",
    "rethreshold",
    "retract",
    "sync",
    "watch",
]

_HOMES = {
    "DedupError": "errors",
    "Settings": "settings",
    "DeduplicationResult": "in_memory.result",
    "deduplicate": "in_memory.calls",
    "find_matches": "in_memory.calls",
    "outliers": "in_memory.ranked",
    "representatives": "in_memory.ranked",
}


def __getattr__(name: str) -> Any:
    # Loaded on first access: `dedup-assets --help` and a Dask worker need little of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
