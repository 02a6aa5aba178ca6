"""Promises of the pictures: what is drawn is what was counted, to scale, and nothing in them is foreign markup."""

from __future__ import annotations

import base64
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_assets.report.plots import MOST_BARS, Plot, _ticks, compact, histogram, ranking, share_curve

SVG = "{http://www.w3.org/2000/svg}"


def elements(svg: Plot | str, tag: str, css: str | None = None) -> list[ElementTree.Element]:
    """Elements of a picture by tag and class; parsing it also shows that it is well-formed."""
    found = ElementTree.fromstring(svg if isinstance(svg, str) else svg.__html__()).iter(f"{SVG}{tag}")
    return [element for element in found if css is None or element.get("class") == css]


def bars(svg: Plot | str) -> list[ElementTree.Element]:
    """Rectangles that carry a number, in the order in which they were drawn."""
    return [element for element in elements(svg, "rect") if element.find(f"{SVG}title") is not None]


def said(element: ElementTree.Element) -> str:
    title = element.find(f"{SVG}title")
    assert title is not None and title.text
    return title.text


def words(svg: Plot | str) -> list[str]:
    """Everything that is written in a picture, tooltips aside."""
    return [element.text or "" for element in elements(svg, "text")]


def test_bars_of_a_histogram_are_as_high_as_their_counts_and_stand_on_each_other() -> None:
    edges = np.array([0.9, 0.95, 1.0])
    svg = histogram(
        edges,
        {"kept": np.array([30, 10]), "removed": np.array([0, 50])},
        mark=0.95,
        x_title="similarity",
        y_title="texts",
        empty="none",
    )
    low, kept, removed = bars(svg)
    assert [said(bar) for bar in (low, kept, removed)] == [
        "0.9 to 0.95: 30 kept",
        "0.95 to 1: 10 kept",
        "0.95 to 1: 50 removed",
    ]
    heights = [float(bar.get("height", "0")) for bar in (low, kept, removed)]
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.2)
    assert heights[2] == pytest.approx(5 * heights[1], abs=0.2)
    # The upper layer ends where the lower one begins.
    assert float(removed.get("y", "0")) + heights[2] == pytest.approx(float(kept.get("y", "0")), abs=0.2)
    (line,) = elements(svg, "line", "mark")
    assert float(low.get("x", "0")) + float(low.get("width", "0")) == pytest.approx(float(line.get("x1", "0")), abs=1)
    assert "threshold 0.95" in words(svg) and "similarity" in words(svg) and "texts" in words(svg)


def test_a_curve_passes_through_its_points_and_names_the_share_in_force() -> None:
    svg = share_curve(
        np.array([0.9, 0.95, 1.0]), 10, np.array([40, 20, 10]), 200, mark=0.95, empty="nothing is removed"
    )
    points = elements(svg, "circle")
    assert [said(point) for point in points] == [
        "threshold 0.9: 40 of 200 records removed (20.00 %)",
        "threshold 0.95: 20 of 200 records removed (10.00 %)",
        "threshold 1: 10 of 200 records removed (5.00 %)",
    ]
    x, y = ([float(point.get(name, "nan")) for point in points] for name in ("cx", "cy"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert y[1] - y[0] == pytest.approx(2 * (y[2] - y[1]), abs=0.2)
    assert "0.95: 10.0 % removed" in words(svg)
    (base,) = bars(svg)
    assert said(base) == "identical texts: 10 (5.0 %)"
    assert float(base.get("y", "nan")) == pytest.approx(y[2], abs=0.2)


def test_a_ranking_goes_down_and_shows_every_value_in_few_bars() -> None:
    values = np.arange(1, 1001)
    svg = ranking({"at home": values}, x_title="cells", y_title="texts", empty="none")
    heights = [float(bar.get("height", "0")) for bar in bars(svg)]
    assert len(heights) == MOST_BARS
    assert heights == sorted(heights, reverse=True)
    first, last = said(bars(svg)[0]), said(bars(svg)[-1])
    assert first == "ranks 1 to 11, mean: 995 at home"
    assert last == "ranks 991 to 1000, mean: 5.5 at home"
    few = ranking({"at home": np.array([3, 9]), "ghosts": np.array([1, 0])}, x_title="", y_title="", empty="")
    assert [said(bar) for bar in bars(few)] == ["rank 1: 9 at home", "rank 2: 3 at home", "rank 2: 1 ghosts"]


def test_a_picture_of_nothing_says_so() -> None:
    zero = np.zeros(4, np.int64)
    for svg in (
        histogram(np.linspace(0.9, 1, 5), {"kept": zero}, mark=0.95, x_title="", y_title="", empty="<none> & nothing"),
        share_curve(np.array([0.9, 1.0]), 0, np.array([0, 0]), 0, mark=0.9, empty="<none> & nothing"),
        ranking({"at home": zero[:0]}, x_title="", y_title="", empty="<none> & nothing"),
    ):
        assert words(svg) == ["<none> & nothing"]
        assert not elements(svg, "rect")


def test_one_threshold_alone_is_drawn() -> None:
    svg = share_curve(np.array([1.0]), 0, np.array([3]), 10, mark=1.0, empty="")
    assert len(elements(svg, "circle")) == 1 and "1: 30.0 % removed" in words(svg)


def test_an_image_brings_its_own_colours_and_no_tooltips() -> None:
    svg = ranking({"at home": np.array([5, 3]), "ghosts": np.array([2, 2])}, x_title="", y_title="", empty="")
    kind, _, data = svg.data_uri().partition(",")
    alone = base64.b64decode(data).decode()
    assert kind == "data:image/svg+xml;base64"
    assert elements(alone, "style") and elements(alone, "rect", "paper")
    assert not elements(alone, "title") and elements(svg, "title")
    # Bars of a kind are one path: the same bars, under whatever was drawn over them.
    paths = {path.get("class"): path.get("d") or "" for path in elements(alone, "path")}
    for css in ("a", "c"):
        places = [(bar.get("x"), bar.get("y"), bar.get("height")) for bar in bars(svg) if bar.get("class") == css]
        assert re.findall(r"M([\d.]+) ([\d.]+)h[\d.]+v([\d.]+)h-", paths[css]) == places
    assert not [bar for bar in elements(alone, "rect") if bar.get("class") in "ac" and not bar.get("rx")]
    assert "http" not in alone.replace("http://www.w3.org/2000/svg", "")


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.booleans())
def test_ticks_are_few_round_and_inside(low: float, span: float, whole: bool) -> None:
    high = low + span
    ticks = _ticks(low, high, whole=whole)
    assert ticks == sorted(set(ticks)) and len(ticks) <= 13
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    if whole:
        assert all(float(tick).is_integer() for tick in ticks)


def test_numbers_of_an_axis_are_short() -> None:
    assert [compact(n) for n in (0, 0.925, 950, 1200, 25_000, 1_500_000, 3e9)] == [
        "0",
        "0.925",
        "950",
        "1,200",
        "25k",
        "1.5M",
        "3G",
    ]
    assert not re.search(r"\d{5,}", compact(123_456.0))
