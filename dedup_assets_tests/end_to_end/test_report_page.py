"""The report as a browser shows it: opened from disk, without a server."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from dedup_assets.report.page import report_page
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, write_shards
from dedup_assets_tests.end_to_end.test_browser import page

pytestmark = pytest.mark.browser


def test_the_report_opens_in_a_browser_with_its_pictures_and_texts(tmp_path: Path) -> None:
    curation = curate(write_shards(tmp_path / "in", corpus("boilerplate", [40, 30])), tmp_path / "ws", threshold=0.9)
    file = tmp_path / "report.html"
    file.write_text(report_page(Workspace.open(tmp_path / "ws")), encoding="utf-8")
    shown = page(file.as_uri(), "Largest groups", "Settings and lineage")
    # What the browser understood is what was written: nothing was mended, dropped or moved.
    words = re.sub(r"\s+", " ", html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", shown, flags=re.DOTALL)))
    for wanted in (
        f"{curation.summary['kept']} kept",
        "70 records in 2 shards; generation 1",
        "records removed, %",
        "similarity to the best match",
        "removed for this record",
        "cells, the fullest first",
    ):
        assert wanted in words
    assert shown.count("<svg") == 3 and shown.count("<circle") == file.read_text(encoding="utf-8").count("<circle")
