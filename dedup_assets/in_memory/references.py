"""The kept records of a workspace as references for records in memory: their vectors, and the model that made them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class CuratedTexts:
    """The texts that a workspace keeps.

    Attributes
    ----------
    vectors : array (m, d)
        The stored vectors.
    hashes : uint64 (m, 2)
        Of the normalised texts.
    ids, shards : lists of str (m,)
    unicode_form : str
        Unicode normal form in which texts are compared.
    encode : callable, optional
        Returns the vectors of texts as the workspace stores them; None if its vectors came with the data.
    texts : callable
        Reads the texts, a list of m str. Raises SettingsError if the workspace has none.
    """

    vectors: np.ndarray
    hashes: np.ndarray
    ids: list[str]
    shards: list[str]
    unicode_form: str
    encode: Callable[[list[str]], np.ndarray] | None
    texts: Callable[[], list[str]]

    def one(self, at: int) -> dict[str, Any]:
        """A record: its id and shard."""
        return {"id": self.ids[at], "shard": self.shards[at]}


def curated_texts(folder: str | Path) -> CuratedTexts:
    """The kept records of a workspace. Raises WorkspaceError if nothing is decided yet or no record is kept."""
    from dedup_assets.compute.hashes import first_occurrences
    from dedup_assets.corpus.guarded_texts import require_texts
    from dedup_assets.encoder.settled import open_table, settle_encoder, settled_probe
    from dedup_assets.errors import WorkspaceError
    from dedup_assets.ingest.record_spec import ingest_spec
    from dedup_assets.lookups.corpus import Corpus
    from dedup_assets.resources.worker_tasks import encode_texts
    from dedup_assets.storage.workspace import Workspace

    workspace = Workspace.open(Path(folder))
    corpus, settings = Corpus(workspace), workspace.settings
    table = None if settings.exact_only else open_table(workspace)
    dimension = 1 if table is None else table.dimension
    vectors = [np.empty((0, dimension), settings.vector_dtype)]
    hashes = [np.empty((0, 2), np.uint64)]
    ids: list[str] = []
    shards: list[str] = []
    rows: list[int] = []
    for shard in corpus.decided:
        path = workspace.decisions(corpus.generation.number, "records", shard)
        kept = pq.read_table(path, columns=["row", "kept"]).filter(pa.compute.field("kept"))
        records = corpus.records(shard)
        at = np.searchsorted(records.rows, kept["row"].to_numpy())
        hashes.append(records.hashes[at])
        ids += records.ids.take(pa.array(at)).to_pylist()
        shards += [shard] * len(at)
        rows += records.rows[at].tolist()
        vectors.append(
            np.zeros((len(at), 1), settings.vector_dtype) if table is None else table.vectors(shard, hashes[-1])
        )
    if not ids:
        raise WorkspaceError(f"{workspace.root} keeps no record to compare with. Run `dedup-assets curate` first.")
    encode = None
    if table is None:

        def encode(texts: list[str]) -> np.ndarray:
            return np.zeros((len(texts), 1), settings.vector_dtype)

    elif not settings.embedding_column:
        location, probe = settle_encoder(workspace), settled_probe(workspace)

        def encode(texts: list[str]) -> np.ndarray:
            return encode_texts(texts, settings, location.fingerprint, "cpu", probe)[0]

    every = np.concatenate(hashes)
    # References may share a text; one record for each text is enough.
    first = np.unique(first_occurrences(every))

    def texts() -> list[str]:
        for shard in corpus.decided:
            raw = workspace.raw(shard, corpus.admissions[shard].fingerprint)
            require_texts(raw, shard, ingest_spec(settings))
        return corpus.texts([(shards[at], rows[at]) for at in first])

    return CuratedTexts(
        np.concatenate(vectors)[first],
        every[first],
        [ids[at] for at in first],
        [shards[at] for at in first],
        settings.unicode_form,
        encode,
        texts,
    )
