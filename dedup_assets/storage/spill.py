"""Collects matches in any order and returns them shard by shard, sorted, each once: in memory where they are few, by
sorted runs on disk and an external merge where they are many.

The result does not depend on which matches were spilled. Runs lie in a temporary folder of the workspace.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dedup_assets.compute.join import Matches, unique_matches
from dedup_assets.storage.mapped_arrays import map_array
from dedup_assets.storage.publish import storage_errors
from dedup_assets.storage.shards import ROW_BITS, admission_of

MATCH_BYTES = 24
"""Two keys and a similarity."""


class MatchRuns:
    """Matches between text keys; the shard of the later key owns the match.

    Parameters
    ----------
    folder : Path
        Folder for runs; created when needed, removed by the caller.
    most_bytes : int
        Limit of matches held in memory; sorting them briefly takes about three times as much.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most = max(1, most_bytes // MATCH_BYTES)
        self.files: list[Path] = []
        self._parts: list[Matches] = []
        self._held = 0

    def add(self, matches: Matches) -> None:
        """Add matches in any order; pairs may repeat."""
        if not len(matches):
            return
        self._parts.append(matches)
        self._held += len(matches)
        if self._held > self.most:
            self.spill()

    def spill(self) -> None:
        """Write the matches in memory to a run."""
        if not self._held:
            return
        run = self._sorted()
        path = self.folder / f"{uuid.uuid4().hex}.npy"
        with storage_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(path, np.stack([run.i, run.j, run.similarity.view(np.int64)]))
        self.files.append(path)
        self._parts, self._held = [], 0

    def in_memory(self) -> Matches:
        """The matches in memory, sorted, each once."""
        return self._sorted()

    def _sorted(self) -> Matches:
        """By owner, then by the earlier key, then by the later one."""
        matches = unique_matches(self._parts)
        order = np.argsort(admission_of(matches.j), kind="stable")
        return Matches(matches.i[order], matches.j[order], matches.similarity[order])

    def runs(self) -> list[Matches]:
        """All runs, those on disk as memory maps. Call it after all matches were added."""
        runs = [] if not self._held else [self._sorted()]
        for path in self.files:
            i, j, similarity = map_array(path)
            runs.append(Matches(i, j, similarity.view(np.float64)))
        return runs

    def of_owner(self, runs: list[Matches], admission: int) -> Iterator[Matches]:
        """Matches owned by one shard, sorted by the earlier key, then the later one, in parts that fit in memory.

        A part ends between two earlier keys, so a key with very many matches gives a larger part.
        """
        own = []
        for run in runs:
            first, last = (
                bisect_left(range(len(run)), number, key=lambda at, run=run: int(run.j[at]) >> ROW_BITS)  # type: ignore[misc]
                for number in (admission, admission + 1)
            )
            if last > first:
                own.append(Matches(run.i[first:last], run.j[first:last], run.similarity[first:last]))
        bounds = _bounds(own, self.most)
        start = [0] * len(own)
        for bound in (*bounds, None):
            parts = []
            for at, run in enumerate(own):
                stop = len(run) if bound is None else int(np.searchsorted(run.i, bound))
                part = slice(start[at], stop)
                parts.append(Matches(run.i[part], run.j[part], run.similarity[part]))
                start[at] = stop
            found = unique_matches(parts)
            if len(found):
                yield found


def _bounds(runs: list[Matches], most: int) -> list[int]:
    """Earlier keys that split sorted runs into parts of about ``most`` matches."""
    total = sum(len(run) for run in runs)
    if total <= most:
        return []
    step = max(1, most // 64)
    sample = np.sort(np.concatenate([np.asarray(run.i[::step]) for run in runs]))
    return np.unique(sample[32::32]).tolist()
