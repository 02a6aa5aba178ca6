"""The report of a curation: one HTML file that opens without a server, the same bytes for the same workspace.

Gathers what is stored and published; computes nothing that decides anything, and asks no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.corpus.output import read_manifest
from dedup_assets.display_text import counted
from dedup_assets.errors import WorkspaceError
from dedup_assets.lookups import measures
from dedup_assets.lookups.corpus import Corpus
from dedup_assets.lookups.explain import settings_in_force
from dedup_assets.lookups.near import pairs_around
from dedup_assets.lookups.steady import steady
from dedup_assets.report import pictures
from dedup_assets.report.html import facts, figure, figures, keeper_and_removed, page, shown, side_by_side, table
from dedup_assets.storage.ledger import REFERENCE, STAGES
from dedup_assets.storage.workspace import Workspace
from dedup_assets.terminal.audit import outcome

if TYPE_CHECKING:
    from dedup_assets.checks.result import CheckResult

MOST_SHARDS = 1_000
"""Rows of the table of shards: the latest ones. The totals cover all, and the manifest lists them."""

GROUPS, MEMBERS = 12, 3
"""Groups shown, and removed records of each: what a person reads in a few minutes."""

PAIRS = 12
"""Matches shown around the threshold."""

CHANGES = 50
"""Changed records listed; `output/changes` holds them all."""


@steady
def report_page(workspace: Workspace, checks: Sequence[CheckResult] = ()) -> str:
    """The page. A workspace where nothing is published yet has one too: it says what is missing.

    `checks` are the last results of the asset checks, as `automation.runs.recorded_checks` gives them.
    """
    try:
        manifest: Mapping[str, Any] | None = read_manifest(workspace)
    except WorkspaceError:
        manifest = None
    body = [f"<h1>{shown(workspace.root.name)}</h1>"]
    if manifest is None or workspace.ledger.generation() is None:
        body.append("<p>Nothing is published yet: <code>dedup-assets curate</code> finishes what is registered.</p>")
    else:
        body += _curation(workspace, manifest, checks)
    body += _unfinished(workspace)
    return page(f"{workspace.root.name}: deduplication report", body)


def _curation(workspace: Workspace, manifest: Mapping[str, Any], checks: Sequence[CheckResult]) -> Iterator[str]:
    corpus = Corpus(workspace)
    settings = settings_in_force(corpus)
    if corpus.generation.number != manifest["generation"]:
        yield (
            f"<p>Generation {corpus.generation.number} is decided and not published yet: <code>dedup-assets curate"
            "</code> publishes it. The totals are those that are published.</p>"
        )
    elif "outdated" in settings:
        # What was decided, whatever curation.toml asks of the next call.
        deciding = {name: manifest[name] for name in ("threshold", "keep", "keeper_rule", "mode")}
        corpus = Corpus(replace(workspace, settings=workspace.settings.changed(deciding)))
    yield from _totals(corpus, manifest)
    yield from _threshold(corpus)
    yield from _groups(corpus)
    yield from _around(corpus)
    yield from _checks(checks)
    yield from _shards(manifest)
    yield from _quarantine(manifest)
    yield from _changes(workspace)
    yield from _retractions(workspace)
    yield from _lineage(corpus, manifest, settings)


def _totals(corpus: Corpus, manifest: Mapping[str, Any]) -> Iterator[str]:
    totals = manifest["totals"]
    rows = totals["rows_in"]
    threshold = manifest["threshold"]
    counts = {
        "kept": ("kept", totals["kept"]),
        "removed, the same text": ("exact", totals["removed_exact"]),
        f"removed, similarity ≥ {threshold:g}": ("removed", totals["removed_semantic"]),
        "quarantined": ("faint", totals["quarantined"]),
    }
    if totals.get("reference"):
        counts["reference, only compared with"] = ("faint", totals["reference"])
    yield (
        f'<p class="soft">{counted(rows, "record")} in {counted(len(manifest["shards"]), "shard")}; generation '
        f"{manifest['generation']}; every removed record names one that stays.</p>"
    )
    tiles = []
    for name, (_, count) in counts.items():
        share = f"{100 * count / rows:.1f} %" if rows else "—"
        tiles.append(f'<div class="tile"><b>{count:,}</b>{shown(name)}<br><span class="soft">{share}</span></div>')
    yield f'<div class="tiles">{"".join(tiles)}</div>'
    if rows:
        parts = [
            f'<i class="{css}" style="width:{100 * count / rows:.3f}%" title="{shown(name)}: {count:,}"></i>'
            for name, (css, count) in counts.items()
            if count
        ]
        yield f'<div class="bar">{"".join(parts)}</div>'


def _checks(checks: Sequence[CheckResult]) -> Iterator[str]:
    if not checks:
        return
    yield "<h2>Checks</h2>"
    wrong = [check for check in checks if not check.passed]
    words = "All passed." if not wrong else f"{len(checks) - len(wrong)} of {counted(len(checks), 'check')} passed."
    yield f"<p>{words} The last result of each; <code>dedup-assets audit</code> looks at everything again.</p>"
    rows = []
    for check in checks:
        scope = check.metadata.get("scope", "")
        rows.append([outcome(check), check.asset, check.name.replace("_", " "), check.summary, scope])
    yield table(["result", "asset", "check", "found", "looked at"], rows)
    for check in wrong:
        offending = check.metadata.get("offending", ())
        advice = check.metadata.get("what_to_do", "")
        yield f"<p><b>{shown(check.name.replace('_', ' '))}</b>: {shown(list(offending))}. {shown(advice)}</p>"


def _threshold(corpus: Corpus) -> Iterator[str]:
    workspace, settings = corpus.workspace, corpus.workspace.settings
    yield "<h2>The threshold</h2>"
    removals = measures.removals_by_threshold(workspace, corpus.generation)
    best = measures.best_matches(workspace, corpus.generation)
    yield figures(
        (pictures.removals_picture(removals, settings), pictures.removals_words(removals, settings)),
        (pictures.best_match_picture(best, settings), pictures.best_match_words(best, settings)),
    )
    rows = [
        [float(t), int(count), round(100 * count / max(1, removals.records), 2)]
        for t, count in zip(removals.thresholds, removals.removed, strict=True)
    ]
    yield f"<details><summary>The curve in numbers</summary>{table(['threshold', 'removed', '%'], rows)}</details>"
    yield (
        "<p>Another threshold is decided in seconds: <code>dedup-assets threshold T</code>, down to the floor of "
        f"{settings.floor:g}.</p>"
    )


def _groups(corpus: Corpus) -> Iterator[str]:
    yield "<h2>Largest groups</h2>"
    admissions = measures.decided_admissions(corpus.workspace)
    groups = measures.top_groups(corpus.workspace, corpus.generation, admissions, GROUPS, MEMBERS)
    if not groups:
        yield "<p>No record was removed.</p>"
        return
    yield (
        "<p>The records that most others went for, each with the removed ones least like it; marked is what the one "
        "that stays does not have.</p>"
    )
    for group, keeper_text, texts in corpus.group_texts(groups):
        removed = []
        for member, text in zip(group.members, texts, strict=True):
            exact = member["kind"] == "exact"
            kind = "the same text" if exact else f"{member['similarity']:.4f}"
            removed.append((f"removed, {kind}: {member['id']} · {member['shard']}", "" if exact else text))
        keeper = f"kept: {group.keeper_id} · {group.keeper_shard}"
        yield keeper_and_removed(f"<b>{group.size:,}</b> removed for this record", (keeper, keeper_text), removed)


def _around(corpus: Corpus) -> Iterator[str]:
    settings = corpus.workspace.settings
    pairs = pairs_around(corpus.workspace, settings.threshold, PAIRS)
    if not pairs:
        return
    yield "<h2>Around the threshold</h2>"
    yield (
        f"<p>The matches nearest {settings.threshold:g}. If these are no duplicates to you, raise the threshold; if "
        "the last ones are, lower it.</p>"
    )
    for pair in pairs:
        match = pair["similarity"] >= settings.threshold
        yield side_by_side(
            f"similarity <b>{pair['similarity']:.4f}</b> · {'a match' if match else 'no match'}",
            (f"{pair['id_a']} · {pair['shard_a']}", pair["text_a"]),
            (f"{pair['id_b']} · {pair['shard_b']}", pair["text_b"]),
            "out" if match else "",
        )


def _shards(manifest: Mapping[str, Any]) -> Iterator[str]:
    shards = sorted(manifest["shards"], key=lambda shard: shard["admission"])
    yield "<h2>Shards</h2>"
    if len(shards) > MOST_SHARDS:
        yield f"<p>The {MOST_SHARDS:,} admitted last, of {len(shards):,}; the manifest lists all.</p>"
    names = ("rows_in", "kept", "removed_exact", "removed_semantic", "quarantined")
    rows: list[list[Any]] = []
    for shard in shards[-MOST_SHARDS:]:
        removed = shard["removed_exact"] + shard["removed_semantic"]
        name = shard["shard"] + (" (reference)" if shard.get("role") == REFERENCE else "")
        share = round(100 * removed / shard["rows_in"], 2) if shard["rows_in"] else 0.0
        source, fingerprint = shard["source"], shard["fingerprint"][:16]
        rows.append([shard["admission"], name, *(shard[key] for key in names), share, source, fingerprint])
    totals = manifest["totals"]
    removed = totals["removed_exact"] + totals["removed_semantic"]
    share = round(100 * removed / totals["rows_in"], 2) if totals["rows_in"] else 0.0
    rows.append(["", "all shards", *(totals[key] for key in names), share, "", ""])
    heads = ["no.", "shard", "rows", "kept", "same text", "similar", "quarantined", "removed %", "file", "content"]
    yield table(heads, rows, last_is_sum=True)


def _quarantine(manifest: Mapping[str, Any]) -> Iterator[str]:
    reasons: dict[str, list[int]] = {}
    for shard in manifest["shards"]:
        for reason, count in shard["quarantined_by_reason"].items():
            reasons.setdefault(reason, []).append(count)
    if reasons:
        yield "<h2>Quarantine</h2><p>Rows that cannot be records; <code>output/quarantine</code> holds each.</p>"
        most_first = sorted(reasons.items(), key=lambda entry: (-sum(entry[1]), entry[0]))
        yield table(["reason", "rows", "shards"], ([reason, sum(n), len(n)] for reason, n in most_first))


def _changes(workspace: Workspace) -> Iterator[str]:
    files = sorted((workspace.output / "changes").glob("*.parquet"))
    if not files:
        return
    changes = pq.read_table(files[-1])
    yield f"<h2>What generation {int(files[-1].stem)} changed</h2>"
    if not changes.num_rows:
        yield "<p>No decision differs from the generation before.</p>"
        return
    listed = f"<code>output/changes/{shown(files[-1].name)}</code>"
    yield f"<p>{counted(changes.num_rows, 'record')}; {listed} lists all.</p>"
    keys = [name for name in ("before", "after", "why") if name in changes.column_names]
    counts = changes.group_by(keys).aggregate([([], "count_all")])
    counts = counts.sort_by([("count_all", "descending"), *((key, "ascending") for key in keys)])
    yield table([*keys, "records"], ([row[key] for key in (*keys, "count_all")] for row in counts.to_pylist()))
    moved = changes.filter(pc.not_equal(changes["before"], changes["after"])).slice(0, CHANGES)
    if moved.num_rows:
        names = ["id", "shard", *keys, "keeper_after", "similarity_after"]
        rows = [["" if row[name] is None else row[name] for name in names] for row in moved.to_pylist()]
        first = f"The first {CHANGES}" if changes.num_rows > moved.num_rows else "Each"
        yield f"<details><summary>{first} whose decision differs</summary>{table(names, rows)}</details>"


def _retractions(workspace: Workspace) -> Iterator[str]:
    retractions = workspace.ledger.retractions()
    if retractions:
        yield "<h2>Retracted</h2>"
        yield table(
            ["no.", "shard", "admission", "reason"],
            ([r.number, r.shard, "—" if r.admission is None else r.admission, r.reason] for r in retractions),
        )


def _lineage(corpus: Corpus, manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    workspace, ledger = corpus.workspace, corpus.workspace.ledger
    yield "<h2>Settings and lineage</h2>"
    yield facts(
        [
            *((name.replace("_", " "), value) for name, value in settings.items()),
            ("text columns", workspace.settings.text_columns),
            ("id column", workspace.settings.id_column),
            ("model fingerprint", manifest["model_fingerprint"] or "—"),
            ("vectors", f"{ledger.meta('dimension') or '—'} × {workspace.settings.vector_dtype}"),
            ("versions", [f"{name} {version}" for name, version in sorted(manifest["versions"].items())]),
        ]
    )
    codebooks = [
        [c.number, c.cells, c.corpus_texts, c.stats.get("sample", ""), c.stats.get("fitted_with", ""), c.digest]
        for _, c in sorted(ledger.codebooks().items())
    ]
    if codebooks:
        yield "<p>Codebooks: which cells were compared; they change the cost and never a decision.</p>"
        yield table(["codebook", "cells", "fitted for texts", "sample", "with", "digest"], codebooks)
        number = codebooks[-1][0]
        live = [a for a in ledger.live_admissions() if workspace.cells(ledger.codebooks()[number], a).is_dir()]
        sizes = measures.cell_sizes(workspace, live, number)
        yield figure(pictures.cells_picture(sizes), pictures.cells_words(sizes))
    generations = [[g.number, g.mode, g.admissions, g.fingerprint[:16]] for g in ledger.generations()]
    yield "<p>Generations: each a consistent set of decisions, the last one in force.</p>"
    yield table(["generation", "mode", "begun with shards", "settings"], generations)
    yield "<p>Work spent, over all runs:</p>"
    yield table(["stage", "shards", "records", "seconds", "records per second"], _work(workspace))


def _work(workspace: Workspace) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = []
    for stage in STAGES:
        done = workspace.ledger.completions(stage).values()
        records = sum(int(completion.stats.get("rows", 0)) for completion in done)
        seconds = sum(completion.seconds for completion in done)
        rows.append([stage, len(done), records, round(seconds, 2), round(records / seconds) if seconds else 0])
    return rows


def _unfinished(workspace: Workspace) -> Iterator[str]:
    """Shards that are registered and not published, with the reason where one is known."""
    ledger = workspace.ledger
    done, failures = ledger.completions(STAGES[-1]), ledger.failures()
    open_shards = [shard for shard in ledger.shards() if shard.key not in done and shard.retracted is None]
    if open_shards:
        yield "<h2>Not finished</h2>"
        rows = []
        for shard in open_shards[:MOST_SHARDS]:
            stage, message, _ = failures.get(shard.key, ("", "waits to be curated", ""))
            rows.append([shard.key, shard.uri, stage, message])
        yield table(["shard", "file", "failed in", "why"], rows)
