"""Promises of the report: one file, the same bytes for the same workspace, and nothing in it but what was counted."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets import api
from dedup_assets.assets import duplicate_ids
from dedup_assets.automation.instance import recorded_checks
from dedup_assets.report import page as report
from dedup_assets.report.page import report_page
from dedup_assets.report.rendering import COMPARED_WORDS, PAGES, PICTURES, marked_differences
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, make_table, write_shards
from dedup_assets_tests.assets.materialising import add_partitions, materialise

HOSTILE = [
    "<script>alert(1)</script> & <img src=x onerror=alert(2)> \"quoted\" 'single' </div></body>",
    "<script>alert(1)</script> & <img src=x onerror=alert(2)> \"quoted\" 'single' </div></body>!",
    "هذا نص عربي طويل \u202e مع علامات",
    "هذا نص عربي طويل \u202e مع علامات أخرى",
    "x" * 3_000_000,
    "x" * 3_000_001,
    "ends \x00\x1b[2J badly \ud7ff",
    "ends \x00\x1b[2J badly \ud7ff too",
]


class Page(HTMLParser):
    """What a browser would make of the page: tags, attributes, text; open tags have to be closed in order."""

    VOID = frozenset({"meta", "br", "line", "rect", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def write_texts(folder: Path, name: str, texts: list[str]) -> Path:
    """A shard in which every second record nearly repeats the one before."""
    angles = np.arange(len(texts)) // 2
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1) + 1e-3 * (np.arange(len(texts)) % 2)[:, None]
    folder.mkdir(exist_ok=True)
    pq.write_table(make_table([f"{name}<b>{i}" for i in range(len(texts))], texts, vectors), folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def test_the_same_workspace_gives_the_same_page(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("clustered", [40, 30]))
    curate(paths, tmp_path / "ws", threshold=0.9)
    space = Workspace.open(tmp_path / "ws")
    assert report_page(space) == report_page(Workspace.open(tmp_path / "ws"))
    before = report_page(space)
    curate([*paths], tmp_path / "ws")  # nothing new
    assert report_page(space) == before


def test_the_numbers_are_those_of_the_manifest(tmp_path: Path) -> None:
    curation = curate(write_shards(tmp_path / "in", corpus("boilerplate", [40, 30])), tmp_path / "ws", threshold=0.9)
    page = Page(report_page(Workspace.open(tmp_path / "ws")))
    summary = curation.summary
    for name, words in (
        ("kept", "kept"),
        ("removed_exact", "removed, the same text"),
        ("removed_semantic", "removed, similarity ≥ 0.9"),
        ("quarantined", "quarantined"),
    ):
        assert f"{summary[name]:,}{words}" in page.text
    removed = summary["removed_exact"] + summary["removed_semantic"]
    assert (
        f"Of {summary['rows_in']:,} records {100 * removed / summary['rows_in']:.1f} % are removed at 0.9" in page.text
    )
    rows = re.findall(
        r"<tr><td>(\d+)</td><td>(s\d+)</td>" + r'<td class="n">([\d,]+)</td>' * 5, report_page_of(tmp_path)
    )
    assert [(row[1], int(row[2])) for row in rows] == [("s00", 40), ("s01", 30)]
    assert sum(int(row[3]) for row in rows) == summary["kept"]


def report_page_of(folder: Path) -> str:
    return report_page(Workspace.open(folder / "ws"))


def test_a_page_needs_nothing_from_outside_and_runs_nothing(tmp_path: Path) -> None:
    shard = write_texts(tmp_path / "in", "hostile", HOSTILE)
    curation = curate([shard], tmp_path / "ws", threshold=0.99)
    assert curation.summary["removed_semantic"] == 4
    text = report_page_of(tmp_path)
    page = Page(text)
    assert page.links == [] and page.handlers == []
    assert not {"script", "img", "link", "iframe", "object", "b<"} & set(page.tags)
    assert "<script>alert(1)</script> & <img src=x onerror=alert(2)>" in page.text
    assert "hostile<b>0" in page.text and "default-src 'none'" in text
    # Direction is left to each text, and what would turn the page's own is written out.
    assert "\u202e" not in text and r"\u202e" in text and 'dir="auto"' in text
    assert "\x00" not in text and "\x1b" not in text and r"\x1b[2J" in text
    assert "3,000,000 characters" in page.text and len(text) < 100_000


@pytest.mark.parametrize("value", ["<b>\x1b\u202e", ["<b>\x1b", "\u202e"], ("<b>", ["\x1b\u202e"])])
def test_whatever_a_template_shows_is_escaped_and_its_control_characters_are_written_out(value: object) -> None:
    table = PAGES.get_template("parts.html.j2").module.table  # type: ignore[attr-defined]
    for text in (PAGES.from_string("<p>{{ value }}</p>").render(value=value), table(["a"], [[value]])):
        assert "&lt;b&gt;" in text and r"\x1b" in text and r"\u202e" in text
        for sign in ("<b>", "\x1b", "\u202e"):
            assert sign not in text
    assert PICTURES.from_string("{{ a }} {{ b }} {{ c }}").render(a="<b>", b=1.26, c=2.0) == "&lt;b&gt; 1.3 2"


def test_a_workspace_without_anything_has_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    missing = tmp_path / "in" / "gone.parquet"
    write_texts(tmp_path / "in", "gone", ["one", "two"])
    da.register(missing, workspace=tmp_path / "ws", embedding_column="vector")
    page = Page(report_page_of(tmp_path))
    assert "Nothing is published yet" in page.text and "waits to be curated" in page.text
    missing.write_bytes(b"no parquet")
    da.curate(workspace=tmp_path / "ws", check=False)
    assert "gone.parquet" in Page(report_page_of(tmp_path)).text and "raw_shards" in Page(report_page_of(tmp_path)).text


def test_empty_shards_have_a_page(tmp_path: Path) -> None:
    empty = make_table([], [], []).cast(
        pa.schema([("id", pa.string()), ("text", pa.string()), ("vector", pa.list_(pa.float32()))])
    )
    curate(write_shards(tmp_path / "in", [empty]), tmp_path / "ws")
    page = Page(report_page_of(tmp_path))
    assert "0 records in 1 shard" in page.text and "No record was removed" in page.text


def test_what_another_threshold_changed_is_listed(tmp_path: Path) -> None:
    tables = corpus("clustered", [60, 40], seed=4)
    curate(write_shards(tmp_path / "in", tables), tmp_path / "ws", threshold=0.9, floor=0.7)
    assert "changed" not in Page(report_page_of(tmp_path)).text
    before = da.open_curation(tmp_path / "ws").summary["kept"]
    after = da.rethreshold(0.8, workspace=tmp_path / "ws").summary["kept"]
    text = report_page_of(tmp_path)
    assert after < before and "What generation 2 changed" in text
    counts = {
        (found[0], found[1]): int(found[2])
        for found in re.findall(r'<td>(\w+)</td><td>(\w+)</td><td>[^<]*</td><td class="n">(\d+)</td>', text)
    }
    assert counts["kept", "removed"] - counts.get(("removed", "kept"), 0) == before - after


def test_what_was_decided_counts_and_not_what_the_settings_ask_for_next(tmp_path: Path) -> None:
    curate(write_shards(tmp_path / "in", corpus("clustered", [60])), tmp_path / "ws", threshold=0.9, floor=0.8)
    before = report_page_of(tmp_path)
    file = tmp_path / "ws" / "curation.toml"
    file.write_text(file.read_text().replace("threshold = 0.9\n", "threshold = 0.95\n"))
    assert Workspace.open(tmp_path / "ws").settings.threshold == 0.95
    after = report_page_of(tmp_path)
    pictures = [re.findall(r"<svg.*?</svg>", text)[:2] for text in (before, after)]
    assert pictures[0] == pictures[1] and "decides again" in after


def test_decisions_that_wait_to_be_published_are_named(tmp_path: Path) -> None:
    curate(write_shards(tmp_path / "in", corpus("clustered", [60])), tmp_path / "ws", threshold=0.9, floor=0.8)
    space = Workspace.open(tmp_path / "ws").with_options({"threshold": 0.85})
    with dg.DagsterInstance.ephemeral() as instance:
        add_partitions(instance, space, ["s00"])
        materialise([duplicate_ids], instance, space, ["s00"])
    text = report_page_of(tmp_path)
    assert "Generation 2 is decided and not published yet" in text
    assert "similarity ≥ 0.9<" in text and ">0.85: " in text


def test_texts_that_were_taken_back_are_not_shown(tmp_path: Path) -> None:
    texts = ["a secret to forget", "a secret to forget, nearly", "harmless one", "harmless one, nearly"]
    curate([write_texts(tmp_path / "in", "s", texts)], tmp_path / "ws", threshold=0.99)
    assert "a secret to forget" in report_page_of(tmp_path)
    da.retract("s<b>0", "s<b>1", workspace=tmp_path / "ws")
    text = report_page_of(tmp_path)
    assert "secret" not in text and "harmless one" in text and "takedown" in text


def test_a_reference_is_counted_apart(tmp_path: Path) -> None:
    tables = corpus("boilerplate", [20, 30])
    paths = write_shards(tmp_path / "in", tables)
    curate(paths[:1], tmp_path / "ws", threshold=0.9, role="reference")
    da.curate(paths[1], workspace=tmp_path / "ws")
    page = Page(report_page_of(tmp_path))
    assert "20reference, only compared with" in page.text and "s00 (reference)" in page.text
    assert "Of 30 records" in page.text


def test_the_last_results_of_the_checks_are_there_with_what_to_do(tmp_path: Path) -> None:
    curation = curate(write_shards(tmp_path / "in", corpus("boilerplate", [40])), tmp_path / "ws", threshold=0.9)
    space = Workspace.open(tmp_path / "ws")
    page = Page(report_page(space, recorded_checks(space)))
    assert "Checks" in page.text and "All passed." in page.text and "recall is one" in page.text

    published = curation.output / "deduplicated" / "s00.parquet"
    pq.write_table(pq.read_table(published).slice(1), published)
    api.audit(workspace=tmp_path / "ws")
    failed = report_page(space, recorded_checks(space))
    assert "<td>FAILED</td><td>deduplicated_dataset</td><td>rows are conserved</td>" in failed
    assert "All passed." not in failed and "<b>rows are conserved</b>: " in failed
    assert "Checks" not in Page(report_page(space)).text


def test_of_many_shards_the_latest_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_SHARDS", 2)
    curate(write_shards(tmp_path / "in", corpus("random", [9, 9, 9, 9])), tmp_path / "ws", threshold=0.9)
    text = report_page_of(tmp_path)
    assert "<td>s03</td>" in text and "<td>s02</td>" in text and "<td>s01</td>" not in text
    assert "The 2 admitted last, of 4" in text


def test_words_that_only_one_text_has_are_marked() -> None:
    assert marked_differences("a red <house>", "a blue <house>") == (
        "a <mark>red</mark> &lt;house&gt;",
        "a <mark>blue</mark> &lt;house&gt;",
    )
    assert marked_differences("same", "same") == ("same", "same")
    long = "<w> " * (COMPARED_WORDS + 1)
    assert marked_differences(long, "x") == (long.replace("<", "&lt;").replace(">", "&gt;"), "x")
