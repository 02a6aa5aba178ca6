"""Embeddings: one unit vector per distinct text, in LanceDB; no text is embedded twice."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from dedup_assets.assets.failures import affects_all_shards
from dedup_assets.assets.stage import StageRun, shard_asset, stage_run
from dedup_assets.compute.hashes import HashIndex, first_occurrences
from dedup_assets.encoder.estimate import SAMPLE_TEXTS, can_be_long, how_long, is_transformer
from dedup_assets.encoder.models import ModelLocation
from dedup_assets.encoder.settled import open_table, settle_encoder, settled_dimension, settled_probe
from dedup_assets.ingest.record_spec import ingest_spec
from dedup_assets.ingest.records import read_texts
from dedup_assets.resources.dask_cluster import DaskCluster
from dedup_assets.resources.memory import TextPlan, text_plan
from dedup_assets.resources.worker_tasks import encode_texts
from dedup_assets.resources.workspace import WorkspaceResource
from dedup_assets.storage.embeddings import ROWS_PER_BATCH, EmbeddingTable
from dedup_assets.storage.locks import Lock
from dedup_assets.storage.shards import Records, read_records
from dedup_assets.storage.workspace import Workspace


@shard_asset(
    deps=["raw_shards"],
    kinds={"torch", "lancedb"},
    description="A unit vector for every distinct text, in the LanceDB table `embeddings`. A text that was "
    "embedded before is never embedded again.",
)
def embeddings(context: dg.AssetExecutionContext, workspace: WorkspaceResource, dask: DaskCluster) -> None:
    """Embed the texts that have no vector yet, in groups of shards; each group is one transaction."""
    with stage_run(context, workspace, dask) as run:
        input_versions = {shard: done.input_version for shard, done in run.upstream("raw_shards").items()}
        pending = run.unfinished(input_versions)
        if not pending:
            return
        encoder = None if run.workspace.settings.embedding_column else settle_encoder(run.workspace)
        if settled_dimension(run.workspace) is None:
            # Vectors come with the data, and there is no valid record yet, so nothing to store.
            for shard in pending:
                run.complete(shard, input_versions[shard], {"rows": 0, "embedded": 0, "reused": 0}, 0.0)
            return
        table = open_table(run.workspace)
        known = table.known()
        shards = {}
        for key in pending:
            with run.isolating(key):
                shards[key] = read_records(run.workspace.raw(key, input_versions[key]))
        run.progress.total(sum(len(records) for records in shards.values()), "records")
        if encoder is not None and is_transformer(encoder):
            dask.needs_workers()
        plan = _plan(run, dask) if shards and encoder else text_plan(run.workspace.settings)
        if encoder is not None and shards:
            _tell_how_long(run, dask, shards, known, input_versions, encoder)
        for group in _groups(shards, plan.group):
            try:
                known = _embed_group(run, dask, plan, table, known, group, input_versions, encoder)
            except Exception as problem:
                if affects_all_shards(problem):
                    raise
                for key, records in group.items():  # the failure belongs to one shard: process each alone
                    with run.isolating(key):
                        known = _embed_group(run, dask, plan, table, known, {key: records}, input_versions, encoder)


def _plan(run: StageRun, dask: DaskCluster) -> TextPlan:
    """How texts are divided among the workers, which report their resources."""
    settings = run.workspace.settings
    if settings.exact_only:
        return text_plan(settings)
    rooms = dask.rooms()
    return text_plan(settings, dask.lanes(rooms), rooms)


@dataclass(frozen=True)
class _ShardTexts:
    """One shard of a group: its records, and which of them introduce a text without a vector."""

    key: str
    records: Records
    new: np.ndarray  # indexes among the records


def _tell_how_long(
    run: StageRun,
    dask: DaskCluster,
    records: dict[str, Records],
    known: HashIndex,
    input_versions: dict[str, str],
    encoder: ModelLocation,
) -> None:
    """Report the expected time if a CPU embeds the texts and it will be long."""
    settings = run.workspace.settings
    # Estimated for all records first, because finding the new texts takes a pass over the hashes.
    if settings.scheduler or not can_be_long(encoder, sum(map(len, records.values()))):
        return
    shards = _new_texts(records, known)
    count = sum(len(s.new) for s in shards)
    if not can_be_long(encoder, count) or dask.resolved_device() != "cpu":
        return
    characters = sum(int(s.records.characters[s.new].sum()) for s in shards)
    some = max(shards, key=lambda s: len(s.new))
    places = some.records.positions[some.new[:: max(1, len(some.new) // SAMPLE_TEXTS)][:SAMPLE_TEXTS]]
    sample = read_texts(run.workspace.raw(some.key, input_versions[some.key]), ingest_spec(settings), places)
    note = how_long(settings, encoder, sample, count, characters)
    if note is not None:
        run.progress.note(note)


def _groups(shards: dict[str, Records], most: int) -> Iterator[dict[str, Records]]:
    group: dict[str, Records] = {}
    size = 0
    for key, records in shards.items():
        if group and size + len(records) > most:
            yield group
            group, size = {}, 0
        group[key] = records
        size += len(records)
    if group:
        yield group


def _embed_group(
    run: StageRun,
    dask: DaskCluster,
    plan: TextPlan,
    table: EmbeddingTable,
    known: HashIndex,
    group: dict[str, Records],
    input_versions: dict[str, str],
    encoder: ModelLocation | None,
) -> HashIndex:
    started = time.perf_counter()
    shards = _new_texts(group, known)
    hashes = np.concatenate([s.records.hashes[s.new] for s in shards])
    encoded, truncated, unreadable = None, np.zeros(len(hashes), bool), np.zeros(len(hashes), bool)
    if encoder is not None:
        encoded, truncated, unreadable = _encode(run, dask, plan, shards, input_versions, encoder, table.dimension)
    # Existing vectors are kept: texts of these shards may have them from a run that was killed before it recorded them,
    # or from a concurrent run.
    with run.workspace.lock(Lock.EMBEDDINGS):
        table.add(_rows(run.workspace, table, shards, input_versions, encoded), unknown=True)
    seconds = time.perf_counter() - started
    start, total = 0, max(1, sum(len(s.records) for s in shards))
    entries = []
    for s in shards:
        stop = start + len(s.new)
        stats = {
            "rows": len(s.records),
            "embedded": len(s.new),
            "reused": len(s.records) - len(s.new),
            "texts_over_window": int(truncated[start:stop].sum()),
            "texts_not_understood": int(unreadable[start:stop].sum()),
            "dimension": table.dimension,
            "dtype": str(table.dtype),
            "model": run.workspace.settings.model if encoder else "given with the data",
            "model_fingerprint": encoder.fingerprint if encoder else "",
            "table_folder": str(run.workspace.lancedb),
        }
        # Shards of a group are embedded together; each is charged its share of the time.
        entries.append((s.key, input_versions[s.key], stats, seconds * len(s.records) / total))
        start = stop
        run.spent.rows += len(s.records)
        run.progress.advance(len(s.records) - (len(s.new) if encoder else 0))
    run.ledger.complete(run.stage, entries, run.run_id)
    return known.extended(hashes, np.zeros(len(hashes), np.int64))


def _new_texts(group: dict[str, Records], known: HashIndex) -> list[_ShardTexts]:
    """The records that introduce a text without a vector: unknown to the table, first in the group."""
    hashes = np.concatenate([records.hashes for records in group.values()])
    new = (known.find(hashes) < 0) & (first_occurrences(hashes) == np.arange(len(hashes)))
    shards, start = [], 0
    for key, records in group.items():
        mine = np.flatnonzero(new[start : start + len(records)])
        shards.append(_ShardTexts(key, records, mine))
        start += len(records)
    return shards


def _encode(
    run: StageRun,
    dask: DaskCluster,
    plan: TextPlan,
    shards: list[_ShardTexts],
    input_versions: dict[str, str],
    encoder: ModelLocation,
    dimension: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors (n, d) of the new texts in order, whether each was over the window, and whether the model knows too
    little of it."""
    settings = run.workspace.settings
    spec = ingest_spec(settings)
    count = sum(len(s.new) for s in shards)
    truncated, unreadable = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    if settings.exact_only:
        run.progress.advance(count)
        return np.zeros((count, dimension), dtype=settings.vector_dtype), truncated, unreadable
    vectors = np.empty((count, dimension), dtype=settings.vector_dtype)
    probe = settled_probe(run.workspace)
    batches: list[np.ndarray] = []

    def arguments() -> Iterator[tuple[Any, ...]]:
        first, device = 0, dask.resolved_device()
        for part in _at_once(shards, plan.group):
            texts: list[str] = []
            for s in part:
                texts += read_texts(run.workspace.raw(s.key, input_versions[s.key]), spec, s.records.positions[s.new])
            characters = np.concatenate([s.records.characters[s.new] for s in part])
            # Longest first: batches hold texts of similar length, and no long batch is left for the end.
            order = np.argsort(-characters, kind="stable")
            step = plan.task(len(order))
            for start in range(0, len(order), step):
                batch = order[start : start + step]
                batches.append(first + batch)
                yield [texts[i] for i in batch], settings, encoder.fingerprint, device, probe
            first += len(texts)

    for index, (batch_vectors, batch_truncated, batch_unreadable) in (
        dask.map(encode_texts, arguments()) if count else ()
    ):
        vectors[batches[index]] = batch_vectors
        truncated[batches[index]] = batch_truncated
        unreadable[batches[index]] = batch_unreadable
        run.progress.advance(len(batches[index]))
    return vectors, truncated, unreadable


def _at_once(shards: list[_ShardTexts], most: int) -> Iterator[list[_ShardTexts]]:
    """The new texts of shards, in order, in parts of at most ``most``; a large shard is split."""
    part: list[_ShardTexts] = []
    room = most
    for s in shards:
        start = 0
        while start < len(s.new):
            taken = s.new[start : start + room]
            part.append(_ShardTexts(s.key, s.records, taken))
            start, room = start + len(taken), room - len(taken)
            if room == 0:
                yield part
                part, room = [], most
    if part:
        yield part


def _rows(
    workspace: Workspace,
    table: EmbeddingTable,
    shards: list[_ShardTexts],
    input_versions: dict[str, str],
    encoded: np.ndarray | None,
) -> Iterator[pa.Table]:
    """The new texts with their vectors, in parts. Vectors that came with the data, already checked and of unit norm,
    are read from the files of the shard."""
    start = 0
    for s in shards:
        if not len(s.new):
            continue
        if encoded is None:
            vectors = np.load(workspace.raw(s.key, input_versions[s.key]).vectors, mmap_mode="r")
            places = s.new
        else:
            vectors, places = encoded, np.arange(start, start + len(s.new))
        start += len(s.new)
        for first in range(0, len(s.new), ROWS_PER_BATCH):
            part = slice(first, first + ROWS_PER_BATCH)
            ids, hashes = s.records.ids.take(pa.array(s.new[part])), s.records.hashes[s.new[part]]
            yield table.rows(ids, [s.key] * len(ids), hashes, vectors[places[part]])
