"""The published result of a workspace in Python: lazy tables, look-ups, ratios, and a short summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from dedup_assets.display_text import counted, shorten, visible
from dedup_assets.lookups.reprs import facts_as_html
from dedup_assets.lookups.tables import LazyTable
from dedup_assets.lookups.unlisted import not_listed_words
from dedup_assets.result_lookups import ResultLookups
from dedup_assets.storage.tables import DUPLICATES, PAIRS, QUARANTINE

PAIRS_SHOWN = pa.schema([PAIRS.field(name) for name in ("id_a", "id_b", "similarity")])
"""The columns of matches that are shown; the keys are internal."""

_REASONS = 2


@dataclass(frozen=True, repr=False)
class Curation(ResultLookups):
    """The published result of a workspace, and the outcome of the last call.

    `kept`, `removed`, `quarantined` and `pairs` are read on access. `published` is the folder of the generation that
    was current at construction; the tables stay those of that generation. Look-ups (`explain`, `pairs_around`,
    `matches`, `search`, `history`, `groups`, `outliers`, `sample`, `report`) read the
    workspace when they are called.

    Attributes
    ----------
    workspace, output : Path
        Folders of the workspace and of its output.
    summary : mapping
        Figures: rows by outcome, seconds of each stage, ids of the runs.
    failures : mapping
        Shards that failed in the last call, with the reason for each.
    failed_checks : mapping
        Checks that failed after the last call, with their findings; the result is published anyway.
    published : Path
        The folder of the generation.

    Examples
    --------
    >>> import dedup_assets as da
    >>> result = da.curate("shards/", workspace="ws", threshold=0.9)
    >>> result.kept.head()
    >>> result.duplicate_ratio
    >>> result.explain("some-id")["decision"]
    """

    workspace: Path
    output: Path
    summary: Mapping[str, Any]
    failures: Mapping[str, str] = field(default_factory=dict)
    failed_checks: Mapping[str, str] = field(default_factory=dict)
    published: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "published", (self.output / "current").resolve())

    @property
    def kept(self) -> LazyTable:
        """The kept records, in the input's own columns.

        Examples
        --------
        >>> import dedup_assets as da
        >>> kept = da.open_curation("ws").kept
        >>> kept[0], kept[10:20].to_arrow()
        """
        return LazyTable.of_folder(self.published / "deduplicated")

    @property
    def removed(self) -> LazyTable:
        """The removed records: `id, shard, keeper_id, keeper_shard, similarity, kind, group_id`.

        Ids are integers if they are in every shard of the input, and text otherwise.

        Examples
        --------
        >>> import dedup_assets as da
        >>> for row in da.open_curation("ws").removed[:5]:
        ...     print(row["id"], "for", row["keeper_id"], row["similarity"])
        """
        return LazyTable.of_folder(self.published / "duplicates", DUPLICATES)

    @property
    def quarantined(self) -> LazyTable:
        """Rows that could not be records: `row, reason, record`.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.open_curation("ws").quarantined["reason"].value_counts()
        """
        return LazyTable.of_folder(self.published / "quarantine", QUARANTINE)

    @property
    def pairs(self) -> LazyTable:
        """All matches down to the floor, one row for each pair of distinct texts: `id_a, id_b, similarity`.

        Matches inside dense cells, with thousands of near-copies (setting `dense_limit`), are not listed, but take part
        in every decision.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.open_curation("ws").pairs.to_arrow().sort_by([("similarity", "descending")])
        """
        return LazyTable.of_folder(
            self.workspace / "pairs",
            PAIRS_SHOWN,
            only=PAIRS_SHOWN.names,
            note=lambda: not_listed_words(self._space()),
        )

    # ---------------------------------------------------------------------------------- numbers

    @property
    def keepers(self) -> pa.Table:
        """The kept records for which others were removed: `id, shard, removed, least_similarity`, most removed first.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.open_curation("ws").keepers.slice(0, 5).to_pylist()
        """
        removed = self.removed.to_arrow(["keeper_id", "keeper_shard", "similarity"])
        counted = removed.group_by(["keeper_id", "keeper_shard"]).aggregate(
            [("similarity", "count"), ("similarity", "min")]
        )
        named = {"keeper_id": "id", "keeper_shard": "shard", "similarity_count": "removed"}
        counted = counted.select([*named, "similarity_min"]).rename_columns([*named.values(), "least_similarity"])
        return counted.sort_by([("removed", "descending"), ("shard", "ascending"), ("id", "ascending")])

    def least_similar(self, count: int = 10) -> pa.Table:
        """The removed records least similar to their keepers, the least similar first: the columns of `removed`.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.open_curation("ws").least_similar(5).to_pylist()
        """
        order = [("similarity", "ascending"), ("shard", "ascending"), ("id", "ascending")]
        return self.removed.to_arrow().sort_by(order).slice(0, count)

    @property
    def duplicate_ratio(self) -> float:
        """Removed records as a share of all rows of the corpus."""
        return self._share(self.summary["removed_exact"] + self.summary["removed_semantic"])

    @property
    def exact_ratio(self) -> float:
        """Records removed as exact copies, as a share of all rows of the corpus."""
        return self._share(self.summary["removed_exact"])

    def _share(self, count: int) -> float:
        rows = self.summary["rows_in"] - self.summary["reference"]
        return count / rows if rows else 0.0

    # ------------------------------------------------------------------------------------ looks

    def __repr__(self) -> str:
        facts = self._facts()
        names, values = (max(len(fact[part]) for fact in facts[:-1]) for part in (0, 1))
        lines = [f"  {name:<{names}}  {value:>{values}}  {remark}".rstrip() for name, value, remark in facts]
        return "\n".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        return facts_as_html(self._title(), self._facts())

    def _title(self) -> str:
        guards = "".join(f", {guard}" for guard in self.summary.get("guards", ()))
        return (
            f"Curation of {counted(self.summary['shards'], 'shard')} at threshold {self.summary['threshold']:g}{guards}"
        )

    def _facts(self) -> list[tuple[str, str, str]]:
        """Name, value and remark of each line of the summary, at most nine."""
        total = self.summary["rows_in"]

        def share(count: int) -> str:
            return f"{count / total:7.1%}" if total else ""

        exact, semantic = self.summary["removed_exact"], self.summary["removed_semantic"]
        quarantined = self.summary["quarantined"]
        facts = [
            ("rows in", f"{total:,}", ""),
            ("kept", f"{self.summary['kept']:,}", f"{share(self.summary['kept'])}  .kept"),
            (
                "removed",
                f"{exact + semantic:,}",
                f"{share(exact + semantic)}  .removed: {exact:,} exact, {semantic:,} by similarity; matches in .pairs",
            ),
        ]
        if self.summary["reference"]:
            facts.append(("reference", f"{self.summary['reference']:,}", share(self.summary["reference"])))
        if quarantined:
            facts.append(("quarantined", f"{quarantined:,}", f"{share(quarantined)}  .quarantined{self._reasons()}"))
        for name, found in (("failed shards", self.failures), ("failed checks", self.failed_checks)):
            if found:
                facts.append((name, f"{len(found):,}", f"  {', '.join(map(visible, list(found)[:3]))}"))
        return [*facts, ("output", visible(str(self.output)), "")]

    def _reasons(self) -> str:
        """The most frequent reasons of quarantine."""
        reasons = list(self.summary.get("quarantined_by_reason", {}).items())
        listed = [f"{count:,} {shorten(reason)}" for reason, count in reasons[:_REASONS]]
        return f": {', '.join(listed)}{', …' if len(reasons) > _REASONS else ''}" if listed else ""
