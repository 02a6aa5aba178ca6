"""Conservation, schema and ids: recounted from the files, not from the numbers of the runs that wrote them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq

from dedup_assets.checks.finding import Finding, judged
from dedup_assets.checks.published import Published
from dedup_assets.checks.scope import Scope
from dedup_assets.compute.hashes import first_occurrences, hash_ids
from dedup_assets.corpus.output import PARTS
from dedup_assets.storage.ledger import REFERENCE
from dedup_assets.storage.publish import checksum

NOTHING = Finding(True, "Nothing is published yet.")


def rows_read(scope: Scope) -> Finding:
    """Every row of each shard that was read is either a record or in quarantine."""
    numbers = {"shards": 0, "rows": 0, "records": 0, "quarantined": 0}
    wrong = []
    for shard, done in scope.workspace.ledger.completions("raw_shards").items():
        if shard not in scope:
            continue
        raw = scope.workspace.raw(shard, done.input_version)
        records = pq.read_table(raw.records, columns=["row"]).column(0).to_numpy()
        quarantined = pq.read_table(raw.quarantine, columns=["row"]).column(0).to_numpy()
        numbers["shards"] += 1
        numbers["rows"] += int(done.stats["rows"])
        numbers["records"] += len(records)
        numbers["quarantined"] += len(quarantined)
        wrong += _unaccounted(shard, int(done.stats["rows"]), {"a record": records, "in quarantine": quarantined})
    return judged(
        f"{numbers['rows']} rows read = {numbers['records']} records + {numbers['quarantined']} quarantined.",
        numbers,
        wrong,
        "What was read of these shards is damaged. Restore their folders in raw/ from a backup, or curate the source "
        "files into a new workspace.",
    )


def rows_published(scope: Scope) -> Finding:
    """For each published shard: rows = kept + removed + quarantined, each row once, and the files match the
    manifest."""
    published = scope.published
    if published is None:
        return NOTHING
    numbers = dict.fromkeys(("shards", "rows", "kept", "removed", "quarantined", "reference"), 0)
    wrong: list[str] = []
    for shard in published.entries:
        if shard in scope:
            numbers["shards"] += 1
            wrong += _recount(published, shard, numbers)
    return judged(
        f"{numbers['rows']} rows = {numbers['kept']} kept + {numbers['removed']} removed + {numbers['quarantined']} "
        f"quarantined" + (f" + {numbers['reference']} of references." if numbers["reference"] else "."),
        numbers,
        wrong,
        "Published files were changed after publication, or are damaged. Restore them from a backup, or have all of "
        "them published again: `dedup-assets curate --output NEW_FOLDER`.",
    )


def _recount(published: Published, shard: str, numbers: dict[str, int]) -> list[str]:
    entry = published.entries[shard]
    parts = [part for part in PARTS if part in entry["checksums"]]
    missing = [
        f"{shard}: {published.file(part, shard)} is missing" for part in parts if not _there(published, part, shard)
    ]
    if missing:
        return missing
    raw = published.raw(shard)
    read = sum(pq.read_metadata(path).num_rows for path in (raw.records, raw.quarantine))
    decisions = published.decisions(shard)
    decided, kept = decisions.column("row").to_numpy(), decisions.column("kept").to_numpy()
    quarantined = pq.read_table(published.file("quarantine", shard), columns=["row"]).column(0).to_numpy()
    found = {part: pq.read_metadata(published.file(part, shard)).num_rows for part in parts}
    numbers["rows"] += read
    numbers["quarantined"] += len(quarantined)
    wrong = _unaccounted(shard, read, {"decided": decided, "in quarantine": quarantined})
    if published.admissions[shard].role == REFERENCE:
        numbers["reference"] += int(kept.sum())
    else:
        numbers["kept"] += found["deduplicated"]
        numbers["removed"] += found["duplicates"]
        for part, wanted in (("deduplicated", int(kept.sum())), ("duplicates", int((~kept).sum()))):
            if found[part] != wanted:
                wrong.append(f"{shard}: {part} holds {found[part]} records, {wanted} were decided")
    if int(entry["rows_in"]) != read:
        wrong.append(f"{shard}: the manifest says {entry['rows_in']} rows came in, {read} were read")
    for part in parts:
        if checksum(published.file(part, shard)) != entry["checksums"][part]:
            wrong.append(f"{shard}: the content of {part}/{shard}.parquet is not what the manifest lists")
    return wrong


def _there(published: Published, part: str, shard: str) -> bool:
    return published.file(part, shard).is_file()


def _unaccounted(shard: str, rows: int, places: dict[str, np.ndarray]) -> list[str]:
    """Problems with the places of the rows of a shard; empty if each row is in exactly one place."""
    everywhere = np.concatenate(list(places.values()))
    counted = " + ".join(f"{len(found)} {place}" for place, found in places.items())
    wrong = []
    if len(everywhere) != rows:
        wrong.append(f"{shard}: {rows} rows were read, found {counted}")
    distinct, times = np.unique(everywhere, return_counts=True)
    wrong += [f"{shard}: row {row} is found {count} times" for row, count in _repeated(distinct, times)]
    return wrong


def _repeated(values: np.ndarray, times: np.ndarray) -> Iterator[tuple[int, int]]:
    for at in np.flatnonzero(times > 1).tolist():
        yield int(values[at]), int(times[at])


def schema_and_ids(scope: Scope) -> Finding:
    """The kept records have the input's columns, types and order, and distinct ids."""
    published = scope.published
    if published is None:
        return NOTHING
    wrong = []
    places: list[tuple[str, int]] = []  # shard and count, in the order of the hashes
    hashes = [hash_ids([])]
    rows = 0
    shards = published.corpus_shards(scope.shards)
    for shard in shards:
        path = published.file("deduplicated", shard)
        found, wanted = pq.read_schema(path), pq.read_schema(published.raw(shard).table)
        if not found.equals(wanted):
            wrong.append(f"{shard}: columns are {_columns(found)}, those of the input were {_columns(wanted)}")
        rows += pq.read_metadata(path).num_rows
        ids = published.kept_ids(shard)
        if ids is None:
            continue  # then ids are SHARD:ROW, and each row occurs once
        hashes.append(hash_ids("" if value is None else value for value in ids.to_pylist()))
        places.append((shard, len(ids)))
    together = np.concatenate(hashes)
    first = first_occurrences(together)
    repeated = np.flatnonzero(first != np.arange(len(first)))
    wrong += [_named(published, places, at, int(first[at])) for at in repeated[:100].tolist()]
    return judged(
        f"{rows} kept records of {len(shards)} shards have the input's columns; {len(repeated)} ids occur again.",
        {"shards": len(shards), "kept": rows, "ids_compared": len(together), "repeated_ids": len(repeated)},
        wrong,
        "Published files were changed after publication, or are damaged: see the check of rows.",
    )


def _columns(schema: object) -> str:
    return ", ".join(str(schema).splitlines()[:20])


def _named(published: Published, places: list[tuple[str, int]], again: int, before: int) -> str:
    """An id that occurs twice, with both shards."""
    ends = np.cumsum([count for _, count in places])
    where = [int(np.searchsorted(ends, at, side="right")) for at in (again, before)]
    shard = places[where[0]][0]
    ids = published.kept_ids(shard)
    value = None if ids is None else ids[again - int(ends[where[0]] - places[where[0]][1])].as_py()
    return f"{shard}: id {value!r} is in {places[where[1]][0]} already"
