"""Small pictures: arrays in, a `Plot` out, which a template draws as SVG. It has no notion of workspaces or Dagster.

A picture uses the colours of its page (CSS variables); a standalone image has its own. Every bar and point has its
number as a tooltip, so that exact values are readable.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dedup_assets.report.rendering import PICTURES

HEIGHT = 300
NOTICE_HEIGHT = 52
FRAME = {
    "width": 680, "left": 64, "right": 662, "top": 34, "bottom": 254, "middle_x": 363, "middle_y": 144,
}  # fmt: skip
"""Positions of the axes in pixels: they leave space for five-digit labels at the left, a legend above and an axis title
below."""

MOST_BARS = 96
"""Largest number of bars of a ranking: six pixels each, the narrowest recognisable bar."""

Scale = Callable[[float], float]


class Bar(NamedTuple):
    """A bar: its kind, its position in pixels, and its tooltip."""

    css: str
    x: float
    y: float
    width: float
    height: float
    said: str


class Point(NamedTuple):
    """A point of a curve."""

    x: float
    y: float
    said: str


@dataclass(frozen=True)
class Plot:
    """The content of a picture, positioned in pixels; one without bars and points shows only its label.

    Attributes
    ----------
    label, x_title, y_title : str
    x_ticks, y_ticks : list of (place, str)
    legend : list of (kind, place, str)
    bars : list of Bar
    curve : list of Point
        With the area below it.
    mark : (place, str) or None
        A vertical line with its words.
    """

    label: str
    x_title: str = ""
    y_title: str = ""
    x_ticks: Sequence[tuple[float, str]] = ()
    y_ticks: Sequence[tuple[float, str]] = ()
    legend: Sequence[tuple[str, float, str]] = ()
    bars: list[Bar] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)
    mark: tuple[float, str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.bars and not self.curve

    @property
    def height(self) -> int:
        """Pixels."""
        return NOTICE_HEIGHT if self.is_empty else HEIGHT

    def __html__(self) -> str:
        return self._svg(alone=False)

    def data_uri(self) -> str:
        """A data URI for Markdown and `<img>`, with a white background."""
        return "data:image/svg+xml;base64," + base64.b64encode(self._svg(alone=True).encode()).decode()

    def _svg(self, alone: bool) -> str:
        return PICTURES.get_template("chart.svg.j2").render(plot=self, frame=FRAME, alone=alone)


def histogram(
    edges: np.ndarray, counts: Mapping[str, np.ndarray], *, mark: float, x_title: str, y_title: str, empty: str
) -> Plot:
    """Stacked bars over intervals, with a line at `mark`.

    Parameters
    ----------
    edges : (b + 1,) float
        Ascending borders of the intervals.
    counts : mapping of str to (b,) int
        Height of each layer, the lowest first; at most three. The legend shows the names.
    mark : float
        Position of the line.
    empty : str
        The text shown if all counts are zero.
    """
    highest = int(np.sum(list(counts.values()), axis=0).max(initial=0))
    if highest == 0:
        return Plot(empty)
    low, high = float(edges[0]), float(edges[-1])
    x, y = _scales(low, high, highest)
    bars: list[Bar] = []
    for at, (left, right) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        heights = {name: int(values[at]) for name, values in counts.items()}
        said = {name: f"{left:.4g} to {right:.4g}: {count:,} {name}" for name, count in heights.items()}
        bars += _stack("abc", heights, said, x(left) + 0.5, x(right) - 0.5, y)
    return Plot(
        f"{y_title} by {x_title}",
        x_title,
        y_title,
        _labels(x, _ticks(low, high)),
        _labels(y, _ticks(0, highest, whole=True)),
        _legend("abc", counts),
        bars,
        mark=(x(mark), f"threshold {mark:g}"),
    )


def share_curve(
    thresholds: np.ndarray, identical: int, removed: np.ndarray, total: int, *, mark: float, empty: str
) -> Plot:
    """Share of records removed against the threshold: identical texts below, similar ones on top.

    Parameters
    ----------
    thresholds : (n,) float, ascending
    identical : int
        Records removed at any threshold, because another record has the same text.
    removed : (n,) int
        Records removed at each threshold, `identical` included.
    total : int
        Records in all.
    mark : float
        The current threshold.
    """
    if total == 0 or int(removed.max(initial=0)) == 0:
        return Plot(empty)
    shares = 100.0 * np.asarray(removed, float) / total
    base, highest = 100.0 * identical / total, float(shares.max())
    low, high = float(thresholds[0]), float(thresholds[-1])
    x, y = _scales(low, high if high > low else low + 1e-3, highest)
    curve = [
        Point(x(t), y(share), f"threshold {t:.4g}: {count:,} of {total:,} records removed ({share:.2f} %)")
        for t, count, share in zip(thresholds.tolist(), removed.tolist(), shares.tolist(), strict=True)
    ]
    at = float(np.interp(mark, thresholds, shares))
    said = f"identical texts: {identical:,} ({base:.1f} %)"
    return Plot(
        "Share of records removed against the threshold",
        "threshold",
        "records removed, %",
        _labels(x, _ticks(low, high)),
        _labels(y, _ticks(0, highest)),
        _legend("cb", ["identical texts", "similar texts"]),
        [_bar("c", curve[0].x, curve[-1].x, y(0), y(base), said)],
        curve,
        (x(mark), f"{mark:g}: {at:.1f} % removed"),
    )


def ranking(values: Mapping[str, np.ndarray], *, x_title: str, y_title: str, empty: str) -> Plot:
    """Stacked bars from the largest total to the smallest; of more than `MOST_BARS`, neighbours are averaged.

    Parameters
    ----------
    values : mapping of str to (n,) int
        Layers, the lowest first; at most two. The order of the n values does not matter.
    """
    totals = np.sum(list(values.values()), axis=0, dtype=float)
    if not totals.any():
        return Plot(empty)
    groups = np.array_split(np.argsort(-totals, kind="stable"), min(len(totals), MOST_BARS))
    highest = max(float(totals[group].mean()) for group in groups)
    x, y = _scales(0, len(totals), highest)
    bars: list[Bar] = []
    start = 0
    for group in groups:
        stop = start + len(group)
        where = f"rank {start + 1}" if len(group) == 1 else f"ranks {start + 1} to {stop}, mean"
        gap = min(0.5, (x(stop) - x(start)) / 8)
        heights = {name: float(np.mean(column[group])) for name, column in values.items()}
        said = {name: f"{where}: {height:,.4g} {name}" for name, height in heights.items()}
        bars += _stack("ac", heights, said, x(start) + gap, x(stop) - gap, y)
        start = stop
    return Plot(
        f"{y_title} by {x_title}",
        x_title,
        y_title,
        _labels(x, _ticks(0, len(totals), whole=True)),
        _labels(y, _ticks(0, highest, whole=True)),
        _legend("ac", values),
        bars,
    )


def compact(value: float) -> str:
    """A number as a tick label: 950, 1,200, 25k, 1.5M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / min(limit, 1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


# -- parts -------------------------------------------------------------------------------------------


def _scales(low: float, high: float, highest: float) -> tuple[Scale, Scale]:
    """Scales from values to pixels, horizontal (low to high) and vertical (0 to the highest)."""
    across, up = FRAME["right"] - FRAME["left"], FRAME["bottom"] - FRAME["top"]
    return (
        lambda value: FRAME["left"] + across * (value - low) / (high - low),
        lambda value: FRAME["bottom"] - up * value / highest,
    )


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About six round values from low to high, at steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _labels(scale: Scale, ticks: Iterable[float]) -> list[tuple[float, str]]:
    return [(scale(tick), compact(tick)) for tick in ticks]


def _legend(kinds: str, names: Iterable[str]) -> list[tuple[str, float, str]]:
    """Entries side by side, each as wide as its name; a single name needs no legend."""
    entries: list[tuple[str, float, str]] = []
    at = FRAME["left"]
    for kind, name in zip(kinds, names, strict=False):
        entries.append((kind, at, name))
        at += 34 + 7 * len(name)
    return entries if len(entries) > 1 else []


def _stack(
    kinds: str, heights: Mapping[str, float], said: Mapping[str, str], left: float, right: float, y: Scale
) -> Iterator[Bar]:
    """Stacked bars, without those of zero height."""
    base = 0.0
    for css, (name, height) in zip(kinds, heights.items(), strict=False):
        if height > 0:
            yield _bar(css, left, right, y(base), y(base + height), said[name])
        base += height


def _bar(css: str, left: float, right: float, bottom: float, top: float, said: str) -> Bar:
    return Bar(css, left, top, max(0.5, right - left), bottom - top, said)
