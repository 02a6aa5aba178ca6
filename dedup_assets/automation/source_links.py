"""Where in the source an asset is written: the UI links to it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import dagster as dg


def with_code_references(assets: Sequence[dg.AssetsDefinition]) -> Sequence[Any]:
    """The assets with file and line of their functions. Paths of this machine; nothing is looked up elsewhere."""
    with warnings.catch_warnings():
        # "Beta" in this Dagster; the release is pinned, so the warning informs nobody.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.with_source_code_references(list(assets))
