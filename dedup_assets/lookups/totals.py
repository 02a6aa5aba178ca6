"""The numbers of a call: what is published, and what the call took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dedup_assets.corpus.output import read_manifest
from dedup_assets.errors import WorkspaceError
from dedup_assets.progress import StageClock, StageTime
from dedup_assets.storage.ledger import STAGES
from dedup_assets.storage.workspace import Workspace


def summary_of(space: Workspace, clock: StageClock, run_ids: Sequence[str], started: float) -> dict[str, Any]:
    """The totals, with the time and rows of each stage."""
    # Every stage is there, also one that had nothing to do: scripts look them up by name.
    spent = {stage: clock.stages.get(stage, StageTime()) for stage in STAGES}
    stages = {stage: {"seconds": round(entry.seconds, 4), "rows": entry.rows} for stage, entry in spent.items()}
    return {
        **totals_of(space),
        "stages": stages,
        "overhead_seconds": round(max(0.0, time.perf_counter() - started - clock.seconds), 4),
        "run_ids": list(run_ids),
    }


def _by_reason(manifest: Mapping[str, Any]) -> dict[str, int]:
    """The quarantined rows of all shards by their reasons, the most frequent first."""
    counts: Counter[str] = Counter()
    for shard in manifest["shards"]:
        counts.update(shard["quarantined_by_reason"])
    return dict(counts.most_common())


def totals_of(space: Workspace) -> dict[str, Any]:
    """What is published now."""
    try:
        manifest = read_manifest(space)
    except WorkspaceError:
        manifest = {"shards": [], "totals": {}}
    embedded = space.ledger.completions("embeddings")
    names = ("rows_in", "kept", "reference", "removed_exact", "removed_semantic", "quarantined")
    return {
        "shards": len(manifest["shards"]),
        **{name: manifest["totals"].get(name, 0) for name in names},
        "quarantined_by_reason": _by_reason(manifest),
        **{
            name: sum(done.stats.get(name, 0) for done in embedded.values())
            for name in ("texts_over_window", "texts_not_understood")
        },
        "threshold": space.settings.threshold,
        **({"guards": list(space.settings.guards)} if space.settings.guards else {}),
        "output": str(space.output),
        "workspace": str(space.root),
    }
