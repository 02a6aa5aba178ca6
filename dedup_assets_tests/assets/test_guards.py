"""Guards in real workspaces: what they decide, whichever way one comes to them, and who says so."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.errors import SettingsError
from dedup_assets.lookups import measures
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets import oracle
from dedup_assets_tests.assets.corpora import (
    assert_same_tree,
    corpus,
    curate,
    make_table,
    removals,
    results,
    write_shards,
)
from dedup_assets_tests.assets.test_contract import assert_decided
from dedup_assets_tests.checks.examined import decisions, examine, failed, published, rewrite, semantic, with_value
from dedup_assets_tests.compute.guarding import holds, longer, value

OWN = f"{longer.__module__}:longer"
BOTH = ["numbers", "contains>=0.4"]


def guarded_corpus(kind: str, sizes: Sequence[int], seed: int) -> list[pa.Table]:
    """`corpus` with texts of few words and numbers in place of its own, equal ones where those were."""
    rng = np.random.default_rng(seed)
    known: dict[str, str] = {}
    tables = corpus(kind, sizes, seed=seed)
    for at, table in enumerate(tables):
        for text in table["text"].to_pylist():
            words = rng.choice(["one", "two", "three", "1", "2", "3.5"], rng.integers(1, 5))
            known.setdefault(text, f"{' '.join(words)} {'.' * len(known)}")
        texts = pa.array([known[text] for text in table["text"].to_pylist()])
        tables[at] = table.set_column(table.schema.get_field_index("text"), "text", texts)
    return tables


def assert_guarded(
    curation: da.Curation, tables: Sequence[pa.Table], threshold: float, guards: Sequence[str], **walk: Any
) -> None:
    """The decisions are those of every pair, every check passes, and the curve has them at the threshold."""
    space = Workspace.open(curation.workspace)
    known = oracle.read_corpus(curation.workspace, tables)

    def covers(keeper: str, removed: str) -> bool:
        return holds(guards, keeper, removed, {OWN: longer})

    for at, removed in _curve(space):
        wanted = oracle.sequential(known, at, covers=covers, **walk)
        assert removed == sum(decision.keeper is not None for decision in wanted.values()), at
        if at == threshold:
            assert_decided(curation, wanted)
    assert failed(examine(space)) == set()


def _curve(space: Workspace) -> list[tuple[float, int]]:
    generation = space.ledger.generation()
    assert generation is not None
    found = measures.removals_by_threshold(space, generation, steps=3)
    return list(zip(found.thresholds.tolist(), found.removed.tolist(), strict=True))


@pytest.mark.parametrize(
    ("kind", "options", "walk"),
    [
        ("boilerplate", {"keep": "longest", "dense_limit": 1, "clusters": 4}, {"order": oracle.longest}),
        ("boilerplate", {"mode": "rebuild", "dense_limit": 1, "clusters": 4}, {"rebuild": True}),
        ("clustered", {"keeper_rule": "semdedup", "dense_limit": 1, "clusters": 4}, {"keepers_only": False}),
    ],
)
def test_guards_and_threshold_lead_to_one_result_whichever_way_they_are_changed(
    kind: str, options: dict[str, Any], walk: dict[str, Any], tmp_path: Path
) -> None:
    tables = guarded_corpus(kind, (40, 20, 40), 3)
    paths = write_shards(tmp_path / "in", tables)
    ws = tmp_path / "ws"
    curate(paths[:1], ws, threshold=0.9, floor=0.7, guards=["numbers"], **options)
    found = curate(paths[1:], ws)  # appended
    before = results(found.output)
    assert_guarded(found, tables, 0.9, ["numbers"], **walk)
    other = [OWN, *BOTH]
    assert_guarded(da.rethreshold(0.75, guards=other, workspace=ws), tables, 0.75, other, **walk)
    assert_same_tree(results(da.rethreshold(0.9, guards="numbers", workspace=ws).output), before)
    whole = curate(paths, tmp_path / "fresh", threshold=0.9, floor=0.7, guards=["numbers"], **options)
    assert_same_tree(results(whole.output), before)


def test_a_workspace_without_guards_has_the_fingerprint_that_it_had(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", guarded_corpus("clustered", (20,), 1))
    ws = tmp_path / "ws"
    bare = results(curate(paths, ws, threshold=0.9).output)
    file = ws / "curation.toml"
    file.write_text(file.read_text().replace("guards = []\n", ""))  # as one that was made before there were any
    again = da.curate(workspace=ws)
    assert not again.summary["run_ids"]
    guarded = da.curate(workspace=ws, guards="numbers")
    assert guarded.summary["run_ids"] and guarded.summary["guards"] == ["numbers"]
    assert results(guarded.output) != bare
    reasons = set(pq.read_table(max((ws / "output" / "changes").glob("*.parquet")))["why"].to_pylist())
    assert "guards none -> numbers" in reasons
    assert_same_tree(results(da.rethreshold(guards=(), workspace=ws).output), bare)


def test_references_cover_what_fulfils_the_guards(tmp_path: Path) -> None:
    tables = guarded_corpus("boilerplate", (40, 50), 5)
    paths = write_shards(tmp_path / "in", tables)
    for dense_limit in (0, 1):
        ws = tmp_path / f"ws{dense_limit}"
        curate(paths[:1], ws, threshold=0.9, floor=0.8, role="reference", clusters=2, dense_limit=dense_limit)
        found = da.curate(paths[1], workspace=ws, against="references", guards=BOTH)
        known = oracle.read_corpus(ws, tables)
        references = {r.text_number for r in known.shards[0]}
        wanted = {}
        for record in known.shards[1]:
            fit = [
                k for k in sorted(references) if known.cosines[record.text_number, k] >= 0.9
                and holds(BOTH, known.texts[k], record.text)
            ]  # fmt: skip
            if record.text_number in references:
                wanted[record.id] = ("exact", 1.0)
            elif fit:
                wanted[record.id] = ("semantic", max(float(known.cosines[record.text_number, k]) for k in fit))
        assert {name: (kind, similarity) for name, (_, similarity, kind) in removals(found).items()} == wanted
        assert 0 < len(wanted) < len(known.shards[1])
        space = Workspace.open(ws)
        assert dict(_curve(space))[0.9] == len(wanted)
        assert failed(examine(space)) == set()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with guards, to look at and not to change."""
    folder = tmp_path_factory.mktemp("guarded")
    tables = guarded_corpus("boilerplate", (40, 30, 20), 8)
    curate(write_shards(folder / "in", tables), folder / "ws", threshold=0.9, floor=0.8, guards=BOTH)
    return folder / "ws"


def test_look_ups_say_what_each_guard_comes_to(guarded: Path) -> None:
    result = da.open_curation(guarded)
    texts = {row["id"]: row["text"] for row in result.kept}
    gone = next(row for row in result.removed if row["kind"] == "semantic")
    told = result.explain(gone["id"])
    assert told["settings"]["guards"] == ["contains>=0.4", "numbers"]
    for each in told["guards"]:
        name = each["guard"].partition(">=")[0]
        assert each["holds"] and each["value"] == value(name, told["keeper_text"], told["text"])
    assert "numbers holds (1)" in repr(told)
    spared = [told for name in texts if "spared_by_guards" in (told := result.explain(name))]
    assert spared
    for told in spared:
        for other in told["spared_by_guards"]:
            assert other["similarity"] >= 0.9
            assert not holds(BOTH, texts[other["id"]], told["text"])
    assert "spared by a guard from" in repr(spared[0])
    pairs = [*result.pairs_around(0.9, 60), *result.matches(record=gone["id"])]
    for pair in pairs:  # judged row by row, so the lower id comes first
        keeper, removed = sorted((pair[f"id_{side}"], pair[f"text_{side}"]) for side in "ab")
        assert pair["guards_hold"] == holds(BOTH, keeper[1], removed[1])
        assert f"numbers {'holds' if holds(['numbers'], keeper[1], removed[1]) else 'fails'}" in pair["guards"]
    assert "fails" in repr(result.pairs_around(0.9, 60))
    page = Path(result.report(guarded.parent / "report.html")).read_text()
    assert "removed, similarity ≥ 0.9, contains&gt;=0.4, numbers" in page and "numbers fails (0)" in page


def test_a_removal_that_no_guard_allows_and_a_keeper_that_should_have_gone_are_found(
    guarded: Path, tmp_path: Path
) -> None:
    shutil.copytree(guarded, tmp_path / "ws", symlinks=True)
    space = Workspace.open(tmp_path / "ws")
    _, row = semantic(space, "s01")
    raw = space.raw("s01", next(a.fingerprint for a in space.ledger.live_admissions() if a.shard == "s01"))
    place = pq.read_table(raw.table)["id"].to_pylist().index(row["id"])
    rewrite(raw.table, lambda t: with_value(t, "text", place, "quite another text with 77"))
    finding = examine(space)["duplicate_ids: removed_have_kept_keepers"]
    assert any("may not go for its keeper" in each and "numbers fails" in each for each in finding.offending)
    shutil.rmtree(tmp_path / "ws")
    shutil.copytree(guarded, tmp_path / "ws", symlinks=True)
    number = pq.read_table(decisions(space, "s01"))["id"].to_pylist().index(row["id"])
    rewrite(decisions(space, "s01"), lambda t: with_value(t, "kept", number, True))
    (texts,) = (space.root / "decisions").rglob("texts/*s01*.parquet")
    key = pq.read_table(texts)["record_id"].to_pylist().index(row["id"])
    rewrite(texts, lambda t: with_value(t, "kept", key, True))
    finding = examine(space)["duplicate_ids: kept_do_not_match"]
    assert any(row["id"] in each for each in finding.offending)
    assert published(space, "duplicates", "s01").is_file()


def test_what_has_no_text_or_is_no_function_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    table = make_table(["a", "b"], ["x", "y"], np.eye(2)).drop_columns(["text"])
    paths = write_shards(tmp_path / "in", [table])
    with pytest.raises(SettingsError, match="shard s00 has none: no column text"):
        curate(paths, tmp_path / "ws", guards="numbers")
    assert da.rethreshold(guards=(), workspace=tmp_path / "ws").summary["kept"] == 2
    with pytest.raises(SettingsError, match="'no_such:function' cannot be imported"):
        curate(paths, tmp_path / "other", guards=["no_such:function"])
    assert not (tmp_path / "other").exists()
    with pytest.raises(SettingsError, match="neither threshold nor guards"):
        da.rethreshold(workspace=tmp_path / "ws")


def test_a_function_in_a_copied_workspace_is_not_run_before_somebody_asks_for_it(tmp_path: Path) -> None:
    (table,) = guarded_corpus("boilerplate", (30,), 2)
    found = curate(write_shards(tmp_path / "in", [table]), tmp_path / "ws", threshold=0.9, guards=[OWN])
    gone = next(row["id"] for row in found.removed if row["kind"] == "semantic")
    assert found.explain(gone)["guards"] == [{"guard": OWN, "value": 1.0, "holds": True}]
    shutil.copytree(tmp_path / "ws", tmp_path / "copy", symlinks=True)
    copy = da.open_curation(tmp_path / "copy")
    for look in (
        lambda: copy.explain(gone),
        lambda: copy.pairs_around(0.9, 2),
        lambda: copy.report(tmp_path / "r.html"),
    ):
        with pytest.raises(SettingsError, match="which nobody asked for on this machine"):
            look()
    with pytest.raises(SettingsError, match="which nobody asked for on this machine"):
        da.rethreshold(0.95, workspace=tmp_path / "copy")
    da.rethreshold(0.9, guards=OWN, workspace=tmp_path / "copy")
    assert copy.explain(gone)["guards"][0]["holds"]


def test_texts_inside_structs_are_compared(tmp_path: Path) -> None:
    texts = [{"body": "12 apples here"}, {"body": "13 apples here"}, {"body": "12 apples"}]
    table = pa.table({"id": ["a", "b", "c"], "doc": texts, "vector": np.ones((3, 2)).tolist()})
    found = curate(
        write_shards(tmp_path / "in", [table]), tmp_path / "ws", guards="numbers", text_columns=("doc.body",)
    )
    assert found.kept.to_arrow()["id"].to_pylist() == ["a", "b"] and removals(found)["c"][0] == "a"


def test_in_memory_the_same_is_decided_as_in_a_workspace(tmp_path: Path) -> None:
    (table,) = guarded_corpus("boilerplate", (90,), 4)
    found = curate(write_shards(tmp_path / "in", [table]), tmp_path / "ws", threshold=0.9, guards=BOTH)
    vectors = np.array(table["vector"].to_pylist(), np.float64)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    result = da.deduplicate(table, columns="text", vectors=vectors, threshold=0.9, guards=BOTH, progress=False)
    names = table["id"].to_pylist()

    def decided(result: Any) -> dict[str, tuple[str, str]]:
        return {names[gone.index]: (names[gone.keeper_index], gone.kind) for gone in result.filtered}

    wanted = {name: (keeper, kind) for name, (keeper, _, kind) in removals(found).items()}
    assert decided(result) == wanted
    bare = result.rethreshold(guards=())
    assert len(bare.filtered) > len(wanted) and "numbers" not in repr(bare)
    lower = result.rethreshold(0.8)
    assert decided(lower.rethreshold(0.9)) == wanted == decided(bare.rethreshold(guards=BOTH))
    assert decided(lower) == decided(bare.rethreshold(0.8, guards=BOTH))
    texts = table["text"].to_pylist()
    gone = next(gone for gone in result.filtered if gone.kind == "semantic")
    told = result.explain(gone.index)
    assert [each["holds"] for each in told.guards] == [True, True]
    spared = [
        (index, other) for index in result.selected_indices for other, _ in result.explain(int(index)).spared_by_guards
    ]
    assert spared and all(not holds(BOTH, texts[other], texts[index]) for index, other in spared)
    against = da.deduplicate(
        ["12 apples here", "13 apples here"],
        against=["12 apples here now"],
        guards="numbers",
        threshold=0.5,
        model=_Same(),
        progress=False,
    )
    assert against.selected == ["13 apples here"]
    given = {"columns": "text", "vectors": vectors, "against": tmp_path / "ws", "threshold": 0.9, "progress": False}
    covered = da.deduplicate(table, guards=BOTH, **given)  # each has its keeper there, and the guards hold of a copy
    assert covered.selected.num_rows == 0
    texts_of = {row["id"]: row["text"] for row in found.kept}
    other = da.deduplicate(pa.table({"text": ["99", "one 99"]}), guards="numbers", **{**given, "vectors": vectors[:2]})
    assert other.selected.num_rows == 2 and not any("99" in text for text in texts_of.values())
    with pytest.raises(SettingsError, match="guards compare texts"):
        da.deduplicate([1, 2], vectors=np.eye(2), guards="numbers")


class _Same:
    """Everything is alike."""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 4), np.float32)
