"""The report of a curation: one HTML file that opens without a server, the same bytes for the same workspace.

It collects stored and published data for the templates. The page does not depend on the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.corpus.output import read_manifest
from dedup_assets.errors import WorkspaceError
from dedup_assets.lookups import measures
from dedup_assets.lookups.corpus import Corpus
from dedup_assets.lookups.explain import settings_in_force
from dedup_assets.lookups.groups import largest_groups
from dedup_assets.lookups.near import pairs_around
from dedup_assets.lookups.steady import steady
from dedup_assets.report import pictures
from dedup_assets.report.rendering import PAGES
from dedup_assets.storage.ledger import REFERENCE, STAGES
from dedup_assets.storage.workspace import Workspace
from dedup_assets.terminal.audit import outcome

if TYPE_CHECKING:
    from dedup_assets.checks.result import CheckResult

MOST_SHARDS = 1_000
"""Rows of the table of shards: the latest shards. The totals cover all, and the manifest lists all."""

GROUPS, MEMBERS = 12, 3
"""Groups shown, and removed records of each: a few minutes of reading."""

PAIRS = 12
"""Matches shown around the threshold."""

CHANGES = 50
"""Changed records listed; `output/changes` holds all."""

Rows = list[list[Any]]


@steady
def report_page(workspace: Workspace, checks: Sequence[CheckResult] = ()) -> str:
    """Render the page. Before the first publication it says what is missing.

    `checks` are the last results of the asset checks, as `automation.instance.recorded_checks` gives them.
    """
    try:
        manifest = read_manifest(workspace) if workspace.ledger.generation() else None
    except WorkspaceError:
        manifest = None
    return PAGES.get_template("page.html.j2").render(
        name=workspace.root.name,
        curation=manifest and _curation(workspace, manifest, checks),
        unfinished=_unfinished(workspace),
        most_shards=MOST_SHARDS,
        most_changes=CHANGES,
    )


def _curation(workspace: Workspace, manifest: Mapping[str, Any], checks: Sequence[CheckResult]) -> dict[str, Any]:
    """The values of the template of the same name."""
    corpus = Corpus(workspace)
    in_force = settings_in_force(corpus)
    if corpus.generation.number == manifest["generation"] and "outdated" in in_force:
        # The settings of the decisions, which may differ from curation.toml.
        deciding = {name: manifest[name] for name in ("threshold", "keep", "keeper_rule", "mode")}
        deciding["guards"] = manifest.get("guards", [])
        workspace = replace(workspace, settings=workspace.settings.changed(deciding))
        corpus = Corpus(workspace)
    settings, generation = workspace.settings, corpus.generation
    removals = measures.removals_by_threshold(workspace, generation)
    shards = sorted(manifest["shards"], key=lambda shard: shard["admission"])
    return {
        "settings": settings,
        "generation": generation.number,
        "published": manifest["generation"],
        "rows": manifest["totals"]["rows_in"],
        "totals": _totals(manifest),
        "removals": pictures.of_removals(removals, settings),
        "best_matches": pictures.of_best_matches(measures.best_matches(workspace, generation), settings),
        "curve": [
            [float(t), int(count), _percent(count, removals.records)]
            for t, count in zip(removals.thresholds, removals.removed, strict=True)
        ],
        "groups": largest_groups(corpus, measures.decided_admissions(workspace), GROUPS, MEMBERS),
        "pairs": pairs_around(workspace, None, PAIRS),
        "checks": checks,
        "check_rows": [
            [outcome(c), c.asset, c.name.replace("_", " "), c.summary, c.metadata.get("scope", "")] for c in checks
        ],
        "shards": shards,
        "shard_rows": [_shard(shard) for shard in shards[-MOST_SHARDS:]]
        + [_shard({**manifest["totals"], "admission": "", "shard": "all shards", "source": "", "fingerprint": ""})],
        "quarantine": _quarantine(shards),
        "changes": _changes(workspace),
        "retractions": [
            [r.number, r.shard, "—" if r.admission is None else r.admission, r.reason]
            for r in workspace.ledger.retractions()
        ],
        **_lineage(workspace, manifest, in_force),
    }


def _totals(manifest: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Name, CSS class and count of each outcome of the rows."""
    totals, guards = manifest["totals"], "".join(f", {guard}" for guard in manifest.get("guards", ()))
    counts = [
        ("kept", "kept", totals["kept"]),
        ("removed, the same text", "exact", totals["removed_exact"]),
        (f"removed, similarity ≥ {manifest['threshold']:g}{guards}", "removed", totals["removed_semantic"]),
        ("quarantined", "faint", totals["quarantined"]),
    ]
    references = totals.get("reference")
    return [*counts, ("reference, only compared with", "faint", references)] if references else counts


def _percent(count: int, rows: int) -> float:
    return round(100 * float(count) / max(1, rows), 2)


def _shard(shard: Mapping[str, Any]) -> list[Any]:
    """A row of the table of shards."""
    counts = [shard[name] for name in ("rows_in", "kept", "removed_exact", "removed_semantic", "quarantined")]
    name = shard["shard"] + (" (reference)" if shard.get("role") == REFERENCE else "")
    removed = _percent(counts[2] + counts[3], counts[0])
    return [shard["admission"], name, *counts, removed, shard["source"], shard["fingerprint"][:16]]


def _quarantine(shards: Sequence[Mapping[str, Any]]) -> Rows:
    """Reason, rows and shards, the most frequent first."""
    reasons: dict[str, list[int]] = {}
    for shard in shards:
        for reason, count in shard["quarantined_by_reason"].items():
            reasons.setdefault(reason, []).append(count)
    most_first = sorted(reasons.items(), key=lambda entry: (-sum(entry[1]), entry[0]))
    return [[reason, sum(counts), len(counts)] for reason, counts in most_first]


def _changes(workspace: Workspace) -> dict[str, Any] | None:
    """The changes of the last generation; None before the second."""
    files = sorted((workspace.output / "changes").glob("*.parquet"))
    if not files:
        return None
    changes = pq.read_table(files[-1])
    by = [name for name in ("before", "after", "why") if name in changes.column_names]
    counts = changes.group_by(by).aggregate([([], "count_all")])
    counts = counts.sort_by([("count_all", "descending"), *((key, "ascending") for key in by)])
    moved = changes.filter(pc.not_equal(changes["before"], changes["after"])).slice(0, CHANGES)
    heads = ["id", "shard", *by, "keeper_after", "similarity_after"]
    return {
        "generation": int(files[-1].stem),
        "file": files[-1].name,
        "records": changes.num_rows,
        "by": by,
        "counts": [[row[key] for key in (*by, "count_all")] for row in counts.to_pylist()],
        "heads": heads,
        "moved": [["" if row[name] is None else row[name] for name in heads] for row in moved.to_pylist()],
    }


def _lineage(workspace: Workspace, manifest: Mapping[str, Any], in_force: Mapping[str, Any]) -> dict[str, Any]:
    ledger, settings = workspace.ledger, workspace.settings
    books = sorted(ledger.codebooks().items())
    found: dict[str, Any] = {
        "facts": [
            *((name.replace("_", " "), value) for name, value in in_force.items()),
            ("text columns", settings.text_columns),
            ("id column", settings.id_column),
            ("model fingerprint", manifest["model_fingerprint"] or "—"),
            ("vectors", f"{ledger.meta('dimension') or '—'} × {settings.vector_dtype}"),
            ("versions", [f"{name} {version}" for name, version in sorted(manifest["versions"].items())]),
        ],
        "codebooks": [
            [c.number, c.cells, c.corpus_texts, c.stats.get("sample", ""), c.stats.get("fitted_with", ""), c.digest]
            for _, c in books
        ],
        "generations": [[g.number, g.mode, g.admissions, g.fingerprint[:16]] for g in ledger.generations()],
        "work": [_work(workspace, stage) for stage in STAGES],
    }
    if books:
        number, book = books[-1]
        live = [a for a in ledger.live_admissions() if workspace.cells(book, a).is_dir()]
        found["cells"] = pictures.of_cells(measures.cell_sizes(workspace, live, number))
    return found


def _work(workspace: Workspace, stage: str) -> list[Any]:
    done = workspace.ledger.completions(stage).values()
    records = sum(int(completion.stats.get("rows", 0)) for completion in done)
    seconds = sum(completion.seconds for completion in done)
    return [stage, len(done), records, round(seconds, 2), round(records / seconds) if seconds else 0]


def _unfinished(workspace: Workspace) -> Rows:
    """Shards that are registered and not published, with the reason where one is known."""
    ledger = workspace.ledger
    done, failures = ledger.completions(STAGES[-1]), ledger.failures()
    waiting = ("", "waits to be curated", "")
    return [
        [shard.key, shard.uri, *failures.get(shard.key, waiting)[:2]]
        for shard in ledger.shards()
        if shard.key not in done and shard.retracted is None
    ][:MOST_SHARDS]
