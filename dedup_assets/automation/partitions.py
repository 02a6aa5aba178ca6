"""The one partitions definition: every asset is partitioned by shard, and maps to its upstream by identity."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import dagster as dg
from sqlalchemy.exc import IntegrityError

SHARDS = "shards"

# As Dagster itself names them; it does not export the names.
_ONE = "dagster/partition"
_FIRST, _LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

shard_partitions = dg.DynamicPartitionsDefinition(name=SHARDS)


def register_partitions(instance: dg.DagsterInstance, keys: Sequence[str]) -> list[str]:
    """Add shard keys as partitions, in order; returns those that are new to the instance."""
    known = set(instance.get_dynamic_partitions(SHARDS))
    new = [key for key in keys if key not in known]
    if new:
        try:
            instance.add_dynamic_partitions(SHARDS, new)
        except IntegrityError:
            # Dagster looks for those that are there, and adds the others, in two steps: another process came between.
            if known.issuperset(instance.get_dynamic_partitions(SHARDS)):
                raise
            register_partitions(instance, keys)
    return new


def spans(keys: Sequence[str], wanted: Collection[str]) -> Iterator[list[str]]:
    """Cut the wanted keys into runs of neighbours: a run covers one range of partitions."""
    chosen = set(wanted)
    span: list[str] = []
    for key in keys:
        if key in chosen:
            span.append(key)
        elif span:
            yield span
            span = []
    if span:
        yield span


def range_tags(span: Sequence[str]) -> dict[str, str]:
    """Tags of a run over neighbouring partitions."""
    return {_FIRST: span[0], _LAST: span[-1]}


def partitions_of(tags: Mapping[str, str], keys: Sequence[str]) -> list[str]:
    """The partitions that a run with these tags is over; `keys` are all there are, in Dagster's order."""
    if _ONE in tags:
        return [tags[_ONE]]
    first, last = tags.get(_FIRST), tags.get(_LAST)
    if first not in keys or last not in keys:
        return []
    return list(keys[keys.index(first) : keys.index(last) + 1])
