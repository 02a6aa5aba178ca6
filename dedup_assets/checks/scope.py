"""What a round of checks looks at: some shards or the whole corpus, and how large its samples are.

Checks after a run follow the shards of the run, so that curating one more shard costs the same however large the
corpus is; an audit looks at everything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np

from dedup_assets.checks.published import Published
from dedup_assets.storage.workspace import Workspace

RUN_SAMPLE = 64
"""Records sampled after a run. Of pairs missed at a rate of 5 %, as in-cluster methods do, this sees one with 96 %
probability once the sample has one match each; the audit looks at more."""

RUN_TEXTS = 50_000
"""Texts the sample is compared with after a run: 64 × 50,000 products of 384 dimensions take a tenth of a second."""

RUN_SHARDS = 32
"""Shards these texts are taken from, some of the run and some of the others: what was decided on a text is read from
the files of its shard, at 3 ms for each."""

AUDIT_SAMPLE = 1_000
"""Records sampled by an audit: of matches missed at a rate of 0.3 %, 1,000 show one with 95 % probability."""


class Scope:
    """One round of checks.

    Parameters
    ----------
    workspace : Workspace
    shards : collection of str, optional
        Shards to look at; the whole corpus by default.
    sample : int
        Records, and removals, to look at; 0: `RUN_SAMPLE`, or `AUDIT_SAMPLE` for the whole corpus.
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
        """The scope for people."""
        if self.shards is None:
            return "whole corpus"
        return f"{len(self.shards)} {'shard' if len(self.shards) == 1 else 'shards'} of this run"

    @cached_property
    def published(self) -> Published | None:
        """The generation in force when it was first asked for."""
        return Published.of(self.workspace)

    def choose(self, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
        """A sample of numbered things of some shards: ascending numbers by shard, the same each time it is asked.

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
