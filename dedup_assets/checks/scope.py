"""The scope of a round of checks: some shards or the whole corpus, and the sizes of its samples.

Checks after a run examine the shards of the run, so that the cost of one more shard does not depend on the size of the
corpus; an audit examines everything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np

from dedup_assets.checks.published import Published
from dedup_assets.storage.workspace import Workspace

RUN_SAMPLE = 64
"""Records sampled after a run. Of pairs missed at a rate of 5 %, as in-cluster methods do, this finds one with 96 %
probability if the sample has one match each; the audit samples more."""

RUN_TEXTS = 50_000
"""Texts the sample is compared with after a run: 64 × 50,000 products of 384 dimensions take a tenth of a second."""

RUN_SHARDS = 32
"""Number of shards that these texts are taken from, some of the run and some others: the decision on a text is read
from the files of its shard, at 3 ms each."""

AUDIT_SAMPLE = 1_000
"""Records sampled by an audit: if 0.3 % of the matches are missed, 1,000 records find one with 95 % probability."""


class Scope:
    """One round of checks.

    Parameters
    ----------
    workspace : Workspace
    shards : collection of str, optional
        Shards to examine; the whole corpus by default.
    sample : int
        Records and removals to examine; 0: `RUN_SAMPLE`, or `AUDIT_SAMPLE` for the whole corpus.
    """

    def __init__(self, workspace: Workspace, shards: Collection[str] | None = None, sample: int = 0) -> None:
        self.workspace = workspace
        self.shards = None if shards is None else frozenset(shards)
        self.sample = sample or (AUDIT_SAMPLE if shards is None else RUN_SAMPLE)

    @property
    def is_whole(self) -> bool:
        return self.shards is None

    def __contains__(self, shard: str) -> bool:
        return self.shards is None or shard in self.shards

    @property
    def words(self) -> str:
        """The scope in words."""
        if self.shards is None:
            return "whole corpus"
        return f"{len(self.shards)} {'shard' if len(self.shards) == 1 else 'shards'} of this run"

    @cached_property
    def published(self) -> Published | None:
        """The current generation at the first access."""
        return Published.of(self.workspace)

    def choose(self, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
        """A sample of numbered items of some shards: ascending numbers by shard, the same on every call.

        Another generation, or a corpus that has grown, draws another sample.
        """
        ends = np.cumsum(list(counts.values()), dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        last = max((a.number for a in self.published.admissions.values()), default=0) if self.published else 0
        number = self.published.number if self.published else 0
        rng = np.random.default_rng([self.workspace.settings.seed, number, last])
        drawn = np.sort(rng.choice(total, min(self.sample, total), replace=False))
        owner = np.searchsorted(ends, drawn, side="right")
        starts = ends - np.array(list(counts.values()), np.int64)
        return {
            shard: drawn[owner == index] - starts[index] for index, shard in enumerate(counts) if (owner == index).any()
        }
