"""Partitions: every asset has one a shard, in a set of the workspace's own (see `Names`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import dagster as dg
from sqlalchemy.exc import IntegrityError

# As Dagster itself names them; it does not export the names.
_ONE = "dagster/partition"
_FIRST, _LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def register_partitions(instance: dg.DagsterInstance, name: str, keys: Sequence[str]) -> list[str]:
    """Add shard keys to a set of partitions, in order; returns those that are new to the instance."""
    known = set(instance.get_dynamic_partitions(name))
    new = [key for key in keys if key not in known]
    if new:
        try:
            instance.add_dynamic_partitions(name, new)
        except IntegrityError:
            # Dagster looks for those that are there, and adds the others, in two steps: another process came between.
            if known.issuperset(instance.get_dynamic_partitions(name)):
                raise
            register_partitions(instance, name, keys)
    return new


def spans(
    partitions: Sequence[str], wanted: Collection[str], order: Sequence[str] | None = None
) -> Iterator[list[str]]:
    """Cut the wanted keys into runs of neighbours: a run covers one range of partitions, and only wanted ones.

    Parameters
    ----------
    partitions
        All of Dagster's partitions in its order, strangers too: a range is one of these.
    wanted
        Keys; those that are no partitions are passed over.
    order
        In which the keys are to be worked on, by default that of `partitions`. Where the two differ there are more
        runs, and none of them is out of order.
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
    """The first and the last partition of the range that a run with these tags is over; None where it is over none."""
    return tags.get(_FIRST, tags.get(_ONE)), tags.get(_LAST, tags.get(_ONE))


def partitions_of(tags: Mapping[str, str], keys: Sequence[str]) -> list[str]:
    """The partitions that a run with these tags is over; `keys` are all there are, in Dagster's order."""
    if _ONE in tags:
        return [key for key in keys if key == tags[_ONE]]
    first, last = range_ends(tags)
    if first not in keys or last not in keys:
        return []
    return list(keys[keys.index(first) : keys.index(last) + 1])
