"""The one partitions definition: every asset is partitioned by shard, and maps to its upstream by identity."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

SHARDS = "shards"

shard_partitions = dg.DynamicPartitionsDefinition(name=SHARDS)


def register_partitions(instance: dg.DagsterInstance, keys: Sequence[str]) -> list[str]:
    """Add shard keys as partitions, in order; returns those that are new to the instance."""
    known = set(instance.get_dynamic_partitions(SHARDS))
    new = [key for key in keys if key not in known]
    if new:
        instance.add_dynamic_partitions(SHARDS, new)
    return new
