"""Partitions: every asset has one for each shard, in a set of the workspace (see `Names`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import dagster as dg
from sqlalchemy.exc import IntegrityError

# Dagster's own tags, whose names it does not export.
_ONE = "dagster/partition"
_FIRST, _LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def register_partitions(instance: dg.DagsterInstance, name: str, keys: Sequence[str]) -> list[str]:
    """Add shard keys to a set of partitions, in order; returns the keys that are new to the instance."""
    known = set(instance.get_dynamic_partitions(name))
    new = [key for key in keys if key not in known]
    if new:
        try:
            instance.add_dynamic_partitions(name, new)
        except IntegrityError:
            # Dagster finds existing keys and adds the others in two steps, and another process came between.
            if known.issuperset(instance.get_dynamic_partitions(name)):
                raise
            register_partitions(instance, name, keys)
    return new


def spans(
    partitions: Sequence[str], wanted: Collection[str], order: Sequence[str] | None = None
) -> Iterator[list[str]]:
    """Split the wanted keys into runs of neighbours: each covers one range of partitions with only wanted ones.

    Parameters
    ----------
    partitions
        All of Dagster's partitions in its order, including unknown ones: a range refers to these.
    wanted
        Keys; those without a partition are skipped.
    order
        Order of processing, by default that of `partitions`. Where the two differ there are more runs, each in order.
    """
    place = {key: at for at, key in enumerate(partitions)}
    chosen = place.keys() & set(wanted)
    span: list[str] = []
    for key in partitions if order is None else order:
        if key not in chosen:
            continue
        if span and place[key] != place[span[-1]] + 1:
            yield span
            span = []
        span.append(key)
    if span:
        yield span


def range_tags(span: Sequence[str]) -> dict[str, str]:
    """Tags of a run over neighbouring partitions."""
    return {_FIRST: span[0], _LAST: span[-1]}


def range_ends(tags: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The first and last partition of the range of a run with these tags; None if it has no range."""
    return tags.get(_FIRST, tags.get(_ONE)), tags.get(_LAST, tags.get(_ONE))


def partitions_of(tags: Mapping[str, str], keys: Sequence[str]) -> list[str]:
    """The partitions of a run with these tags; `keys` are all partitions in Dagster's order."""
    if _ONE in tags:
        return [key for key in keys if key == tags[_ONE]]
    first, last = range_ends(tags)
    if first not in keys or last not in keys:
        return []
    return list(keys[keys.index(first) : keys.index(last) + 1])
