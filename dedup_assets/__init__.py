"""Exact semantic deduplication for text corpora that grow.

import dedup_assets as da
result = da.curate("shards/", workspace="ws", threshold=0.9)
result.kept.to_pandas()
"""

from dedup_assets.api import Curation, curate, open_curation, register, rethreshold
from dedup_assets.errors import DedupError
from dedup_assets.settings import Settings

__all__ = ["Curation", "DedupError", "Settings", "curate", "open_curation", "register", "rethreshold"]
