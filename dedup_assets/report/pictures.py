"""The pictures of a curation, each from its measure; the Dagster UI and the report show the same ones."""

from __future__ import annotations

from typing import NamedTuple

from dedup_assets.lookups.measures import BestMatches, CellSizes, Removals
from dedup_assets.report.plots import Plot, histogram, ranking, share_curve
from dedup_assets.settings import Settings


class Picture(NamedTuple):
    """A plot, and its numbers in a sentence."""

    plot: Plot
    words: str


def of_best_matches(found: BestMatches, settings: Settings) -> Picture:
    """Distribution of the similarity of texts to their best match, with the threshold."""
    above = int((found.kept + found.removed)[found.edges[:-1] >= settings.threshold].sum())
    plot = histogram(
        found.edges,
        {"kept": found.kept, "removed": found.removed},
        mark=settings.threshold,
        x_title="similarity to the best match",
        y_title="texts",
        empty=f"No listed match comes as near as the floor of {settings.floor:g}.",
    )
    return Picture(
        plot,
        f"{found.matched + found.unmatched:,} distinct texts: {above:,} match another at {settings.threshold:g} or "
        f"above, {found.matched - above:,} come as near as {settings.floor:g}, {found.unmatched:,} come nearer to "
        "none.",
    )


def of_removals(found: Removals, settings: Settings) -> Picture:
    """The curve for choosing a threshold; the words give its ends and the current point."""
    share = [f"{100 * count / max(1, found.records):.1f} %" for count in (*found.removed, found.identical)]
    at = int((found.thresholds <= settings.threshold).sum()) - 1
    plot = share_curve(
        found.thresholds,
        found.identical,
        found.removed,
        found.records,
        mark=settings.threshold,
        empty=f"Nothing is removed at any threshold down to the floor of {settings.floor:g}.",
    )
    return Picture(
        plot,
        f"Of {found.records:,} records {share[at]} are removed at {found.thresholds[at]:g}, {share[0]} would be at "
        f"{found.thresholds[0]:g}; {share[-1]} repeat a text letter by letter.",
    )


def of_cells(found: CellSizes) -> Picture:
    """How evenly the texts fill the cells: the fullest cells determine the cost of the join."""
    texts, ghosts = int(found.homes.sum()), int(found.ghosts.sum())
    plot = ranking(
        {"at home": found.homes, "listed as ghosts": found.ghosts},
        x_title="cells, the fullest first",
        y_title="texts",
        empty="No text came with this: the cells are empty.",
    )
    return Picture(
        plot,
        f"{texts:,} texts in {len(found.homes):,} cells, the fullest {found.skew:.1f} times the mean; each text is "
        f"listed in {ghosts / max(1, texts):.1f} cells besides its own.",
    )
