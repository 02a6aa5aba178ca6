"""Small pictures as SVG text: arrays in, one string out. Knows nothing of workspaces, files or Dagster.

A picture takes its colours from the page it stands in (CSS variables), or from `standalone`, which gives it
its own. Every bar and point carries its number as a tooltip, so that a picture can be read exactly.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 680, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 18, 34, 46
"""The frame: room for five-digit tick labels at the left, a legend above and an axis title below."""

MOST_BARS = 96
"""Bars of a ranking at most: six pixels each, the narrowest that still reads as a bar."""

CSS = """
.chart{font:12px system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;max-width:100%;height:auto}
.chart text{fill:var(--soft,#52606d)}
.chart .strong{fill:var(--ink,#1f2933);font-weight:600;paint-order:stroke;stroke:var(--paper,#fff);stroke-width:4px}
.chart .grid{stroke:var(--line,#e4e7eb);stroke-width:1}
.chart .axis{stroke:var(--soft,#52606d);stroke-width:1}
.chart .a{fill:var(--kept,#4477aa)}
.chart .b{fill:var(--removed,#ee7733)}
.chart .c{fill:var(--faint,#bbc4cd)}
.chart .line{fill:none;stroke:var(--removed,#ee7733);stroke-width:2;stroke-linejoin:round}
.chart .mark{stroke:var(--ink,#1f2933);stroke-width:1.5;stroke-dasharray:5 3}
.chart .paper{fill:#fff}
"""
"""How the classes look; the second value of each is for a picture by itself."""

_TOOLTIP = re.compile(r"<title>[^<]*</title>")
_BAR = re.compile(r'<rect class="(\w)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"></rect>')


def histogram(
    edges: np.ndarray, counts: Mapping[str, np.ndarray], *, mark: float, x_title: str, y_title: str, empty: str
) -> str:
    """Stacked bars over intervals, with a line at `mark`.

    Parameters
    ----------
    edges : (b + 1,) float
        Ascending borders of the intervals.
    counts : mapping of str to (b,) int
        Height of each layer, the lowest first; at most three. Names go into the legend.
    mark : float
        Where the line stands.
    empty : str
        What is written where all counts are zero.
    """
    layers = {name: np.asarray(values) for name, values in counts.items()}
    highest = int(np.sum(list(layers.values()), axis=0).max(initial=0))
    if highest == 0:
        return _notice(empty)
    x, y = _scale(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT), _scale(0, highest, HEIGHT - BOTTOM, TOP)
    parts = [*_y_axis(y, _ticks(0, highest, whole=True), y_title), *_legend(layers)]
    for bar in range(len(edges) - 1):
        base = 0
        left, right = x(float(edges[bar])), x(float(edges[bar + 1]))
        for css, (name, values) in zip("abc", layers.items(), strict=False):
            count = int(values[bar])
            if count:
                said = f"{edges[bar]:.4g} to {edges[bar + 1]:.4g}: {count:,} {name}"
                parts.append(_bar(left + 0.5, right - 0.5, y(base), y(base + count), css, said))
            base += count
    parts += _x_axis(x, _ticks(float(edges[0]), float(edges[-1])), x_title)
    parts += _mark(x(mark), f"threshold {mark:g}")
    return _svg(parts, f"{y_title} by {x_title}")


def share_curve(
    thresholds: np.ndarray, identical: int, removed: np.ndarray, total: int, *, mark: float, empty: str
) -> str:
    """Share of records removed against the threshold: identical texts below, similar ones on top.

    Parameters
    ----------
    thresholds : (n,) float, ascending
    identical : int
        Records removed at any threshold, because their text is that of another.
    removed : (n,) int
        Records removed at each threshold, `identical` included.
    total : int
        Records in all.
    mark : float
        The threshold in force.
    """
    if total == 0 or int(removed.max(initial=0)) == 0:
        return _notice(empty)
    shares = 100.0 * np.asarray(removed, float) / total
    base = 100.0 * identical / total
    low, high = float(thresholds[0]), float(thresholds[-1])
    x = _scale(low, high if high > low else low + 1e-3, LEFT, WIDTH - RIGHT)
    y = _scale(0, float(shares.max()), HEIGHT - BOTTOM, TOP)
    points = [(x(float(t)), y(float(share))) for t, share in zip(thresholds, shares, strict=True)]
    outline = " ".join(f"{_n(a)},{_n(b)}" for a, b in points)
    floor, left, right = y(0), points[0][0], points[-1][0]
    parts = _y_axis(y, _ticks(0, float(shares.max())), "records removed, %")
    parts.append(
        f'<polygon class="b" fill-opacity=".28" points="{_n(left)},{_n(floor)} {outline} {_n(right)},{_n(floor)}"/>'
    )
    parts.append(_bar(left, right, floor, y(base), "c", f"identical texts: {identical:,} ({base:.1f} %)"))
    parts.append(f'<polyline class="line" points="{outline}"/>')
    for (a, b), t, count, share in zip(points, thresholds, removed, shares, strict=True):
        said = f"threshold {t:.4g}: {int(count):,} of {total:,} records removed ({share:.2f} %)"
        parts.append(f'<circle class="b" cx="{_n(a)}" cy="{_n(b)}" r="3"><title>{said}</title></circle>')
    parts += _x_axis(x, _ticks(low, high), "threshold")
    at = float(np.interp(mark, thresholds, shares))
    parts += _mark(x(mark), f"{mark:g}: {at:.1f} % removed")
    parts += _legend({"identical texts": None, "similar texts": None}, css="cb")
    return _svg(parts, "Share of records removed against the threshold")


def ranking(values: Mapping[str, np.ndarray], *, x_title: str, y_title: str, empty: str) -> str:
    """Stacked bars from the largest total to the smallest; of more than `MOST_BARS`, neighbours are averaged.

    Parameters
    ----------
    values : mapping of str to (n,) int
        Layers, the lowest first; at most two. Order among the n does not matter.
    """
    layers = {name: np.asarray(column, float) for name, column in values.items()}
    totals = np.sum(list(layers.values()), axis=0)
    if not len(totals) or totals.max() == 0:
        return _notice(empty)
    order = np.argsort(-totals, kind="stable")
    groups = np.array_split(order, min(len(order), MOST_BARS))
    heights = {name: np.array([column[group].mean() for group in groups]) for name, column in layers.items()}
    highest = float(np.sum(list(heights.values()), axis=0).max())
    x, y = _scale(0, len(totals), LEFT, WIDTH - RIGHT), _scale(0, highest, HEIGHT - BOTTOM, TOP)
    parts = [*_y_axis(y, _ticks(0, highest, whole=True), y_title), *_legend(layers, css="ac")]
    start = 0
    for at, group in enumerate(groups):
        stop = start + len(group)
        base = 0.0
        where = f"rank {start + 1}" if len(group) == 1 else f"ranks {start + 1} to {stop}, mean"
        gap = min(0.5, (x(stop) - x(start)) / 8)
        for css, (name, column) in zip("ac", heights.items(), strict=False):
            if column[at] > 0:
                said = f"{where}: {column[at]:,.4g} {name}"
                parts.append(_bar(x(start) + gap, x(stop) - gap, y(base), y(base + column[at]), css, said))
            base += float(column[at])
        start = stop
    parts += _x_axis(x, _ticks(0, len(totals), whole=True), x_title)
    return _svg(parts, f"{y_title} by {x_title}")


def standalone(svg: str) -> str:
    """A picture with its own colours on white paper: readable wherever it is put.

    An image shows no tooltips, so it goes without, and bars of one kind become one path: a quarter of the size,
    which matters where a database keeps thousands of them.
    """
    svg = _TOOLTIP.sub("", svg)
    bars: dict[str, list[str]] = {}
    for css, x, y, width, height in _BAR.findall(svg):
        bars.setdefault(css, []).append(f"M{x} {y}h{width}v{height}h-{width}z")
    paths = "".join(f'<path class="{css}" d="{"".join(steps)}"/>' for css, steps in bars.items())
    svg = _BAR.sub("", _BAR.sub(paths, svg, count=1))
    paper = f'<style>{CSS}</style><rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>'
    head, _, rest = svg.partition(">")
    return f"{head}>{paper}{rest}"


def data_uri(svg: str) -> str:
    """A picture as the address of an image, for Markdown and for `<img>`."""
    return "data:image/svg+xml;base64," + base64.b64encode(standalone(svg).encode()).decode()


def compact(value: float) -> str:
    """A number as a tick label: 950, 1,200, 25k, 1.5M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / min(limit, 1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


# -- parts -------------------------------------------------------------------------------------------


class _scale:
    """A linear map of values to pixels; one value on a point of no extent maps to its start."""

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self.low, self.first = low, first
        self.step = (last - first) / (high - low) if high > low else 0.0

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) * self.step


def _ticks(low: float, high: float, *, whole: bool = False, about: int = 6) -> list[float]:
    """Round values from low to high, some six of them, at steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _y_axis(y: _scale, ticks: Iterable[float], title: str) -> list[str]:
    parts = []
    for tick in ticks:
        at = _n(y(tick))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{_n(y(tick) + 4)}" text-anchor="end">{compact(tick)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="16" y="{_n(middle)}" text-anchor="middle" transform="rotate(-90 16 {_n(middle)})">'
        f"{escape(title)}</text>"
    )
    return parts


def _x_axis(x: _scale, ticks: Iterable[float], title: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>']
    for tick in ticks:
        at = _n(x(tick))
        parts.append(f'<line class="axis" x1="{at}" x2="{at}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{compact(tick)}</text>')
    middle = _n((LEFT + WIDTH - RIGHT) / 2)
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(title)}</text>')
    return parts


def _mark(at: float, said: str) -> list[str]:
    """A vertical line with its words beside it, on the side where there is room."""
    right = at < (LEFT + WIDTH - RIGHT) / 2
    anchor, shift = ("start", 6) if right else ("end", -6)
    return [
        f'<line class="mark" x1="{_n(at)}" x2="{_n(at)}" y1="{TOP - 6}" y2="{HEIGHT - BOTTOM}"/>',
        f'<text class="strong" x="{_n(at + shift)}" y="{TOP + 6}" text-anchor="{anchor}">{escape(said)}</text>',
    ]


def _legend(layers: Mapping[str, object], css: str = "abc") -> list[str]:
    if len(layers) < 2:
        return []
    parts, at = [], LEFT
    for kind, name in zip(css, layers, strict=False):
        parts.append(f'<rect class="{kind}" x="{at}" y="8" width="11" height="11" rx="2"/>')
        parts.append(f'<text x="{at + 16}" y="18">{escape(name)}</text>')
        at += 34 + 7 * len(name)
    return parts


def _bar(left: float, right: float, bottom: float, top: float, css: str, said: str) -> str:
    return (
        f'<rect class="{css}" x="{_n(left)}" y="{_n(top)}" width="{_n(max(0.5, right - left))}" '
        f'height="{_n(bottom - top)}"><title>{escape(said)}</title></rect>'
    )


def _notice(said: str) -> str:
    """What stands in place of a picture that would be empty."""
    return _svg([f'<text x="12" y="32">{escape(said)}</text>'], said, height=52)


def _svg(parts: Sequence[str], label: str, height: int = HEIGHT) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _n(value: float) -> str:
    """A coordinate with as many digits as a pixel needs."""
    return f"{value:.1f}".removesuffix(".0")
