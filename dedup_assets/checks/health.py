"""Checks of drift and freshness. Their findings are warnings: the result is correct, but work costs more or is late."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from dedup_assets.checks.finding import Finding, judged
from dedup_assets.checks.scope import Scope
from dedup_assets.compute.audit import gini
from dedup_assets.corpus.changes import unfinished_shards
from dedup_assets.storage.cells import ShardCells
from dedup_assets.storage.ledger import Admission, Codebook

GHOST_DRIFT = 2.0
"""A refit pays from this ratio of entries per text (its home and its ghosts), new texts to those of the fit: a join
compares the home rows of a cell with all its entries, so its work grows with them."""

SKEW = 8.0
"""A refit may pay from this ratio of comparisons inside cells to those of cells of equal size. Measured on 50,000
vectors with the spectrum of real text: 1.4 (largest cell 4.5 × mean, Gini 0.31); where half of them are near-copies of
ten templates, which no refit can spread: 7.1. Few texts are not significant, see `SKEW_TEXTS`."""

SKEW_TEXTS = 100
"""Texts per cell from which their spread is significant: with fewer, cells are uneven by chance."""

UNKNOWN_SHARE = 0.01
"""The check warns from this share of texts that the model cannot read, because near-copies among them stay."""

CUT_SHARE = 0.1
"""The check warns from this share of texts longer than the model's window: texts that differ only beyond the window
have the same vector and are removed as duplicates."""

MOST_SHARDS = 64
"""Number of shards whose cells are examined after a run; an audit examines all."""

WAITING = timedelta(days=1)
"""How long a registered shard may wait: runs take minutes, a backfill takes hours."""

OVERDUE = 2
"""Periods of `recurate_cron` after which a re-curation is overdue."""


def codebook_fits(scope: Scope) -> Finding:
    """Whether the current centroids still fit the shards that were admitted since."""
    ledger = scope.workspace.ledger
    codebook = ledger.codebook()
    if codebook is None:
        return Finding(True, "There are no centroids yet.")
    # Shards admitted under newer centroids have no cells under these.
    live = [a for a in ledger.live_admissions() if a.codebook <= codebook.number]
    if not live:
        return Finding(True, "There are no centroids yet.")
    fitted, since = _fitted_with(codebook, live)
    looked_at = [a for a in since if a.shard in scope] or fitted
    if not scope.is_whole:
        fitted, looked_at = fitted[-MOST_SHARDS:], looked_at[-MOST_SHARDS:]
    before, now = (_ghosts_per_text(scope, codebook, admissions) for admissions in (fitted, looked_at))
    counts = _home_counts(scope, codebook, live if scope.is_whole else live[-MOST_SHARDS:])
    texts = int(counts.sum())
    mean = texts / len(counts)
    factor = float((counts.astype(np.float64) ** 2).sum() / (mean * texts)) if texts else 1.0
    drifted = []
    if 1 + now > GHOST_DRIFT * (1 + before):
        drifted.append(f"new texts have {now:.1f} ghosts each, those of the fit {before:.1f}")
    if factor > SKEW and mean >= SKEW_TEXTS:
        drifted.append(f"cells are uneven: {factor:.1f} times the comparisons of cells of one size")
    return judged(
        f"{now:.2f} ghosts a text, {before:.2f} when fitted; largest cell {counts.max() / max(mean, 1e-9):.1f} × mean.",
        {
            "codebook": codebook.number,
            "cells": codebook.cells,
            "fitted_for_texts": codebook.corpus_texts,
            "ghosts_per_text_when_fitted": round(before, 3),
            "ghosts_per_text_now": round(now, 3),
            "largest_cell_over_mean": round(float(counts.max() / max(mean, 1e-9)), 3),
            "gini_of_cells": round(gini(counts), 4),
            "comparisons_over_even_cells": round(factor, 3),
        },
        drifted,
        "No result suffers, joins take longer than they need. A refit is automatic when the corpus has doubled; "
        "`dedup-assets recurate` refits now and decides everything again in one order, and "
        "`dedup-assets curate --clusters N` with another N refits and changes no decision.",
    )


def _fitted_with(codebook: Codebook, live: Sequence[Admission]) -> tuple[list[Admission], list[Admission]]:
    """Live admissions from before the fit of the codebook, judged by the number of texts, and those since."""
    ends = np.cumsum([a.texts for a in live])
    count = max(1, int(np.searchsorted(ends, codebook.corpus_texts, side="right")))
    return list(live[:count]), list(live[count:])


def _ghosts_per_text(scope: Scope, codebook: Codebook, admissions: Sequence[Admission]) -> float:
    ghosts = texts = 0
    for a in admissions:
        cells = ShardCells.read(scope.workspace.cells(codebook, a))
        ghosts += int(cells.ghost_offsets[-1])
        texts += int(cells.home_offsets[-1])
    return ghosts / texts if texts else 0.0


def _home_counts(scope: Scope, codebook: Codebook, admissions: Sequence[Admission]) -> np.ndarray:
    """Texts at home in each cell: (k,) int64."""
    counts = np.zeros(codebook.cells, np.int64)
    for a in admissions:
        counts += ShardCells.read(scope.workspace.cells(codebook, a)).home_counts
    return counts


def texts_fit_the_window(scope: Scope) -> Finding:
    """How many texts are longer than the model's window."""
    embedded, cut, share = _embedded(scope, "texts_over_window")
    return judged(
        f"{cut} of {embedded} embedded texts are longer than the model's window ({share:.1%}).",
        {"embedded": embedded, "texts_over_window": cut, "share": round(share, 4), "limit": CUT_SHARE},
        [f"{cut} of {embedded} texts were truncated"] if share > CUT_SHARE else [],
        "The model reads only the beginning of these: texts that differ later count as one. Curate into a new "
        "workspace with a model of a longer window (--model, --max-length), or with texts split into passages.",
    )


def texts_are_understood(scope: Scope) -> Finding:
    """How many texts have too few tokens known to the model, and match only their copies."""
    embedded, odd, share = _embedded(scope, "texts_not_understood")
    return judged(
        f"{odd} of {embedded} embedded texts have too few tokens that the model knows ({share:.1%}).",
        {"embedded": embedded, "texts_not_understood": odd, "share": round(share, 4), "limit": UNKNOWN_SHARE},
        [f"{odd} of {embedded} texts are compared by their characters only"] if share > UNKNOWN_SHARE else [],
        "The vocabulary of the model lacks their script: only their exact copies are removed. Curate into a new "
        "workspace with a multilingual model (--model), or with vectors of your own (--embedding-column).",
    )


def _embedded(scope: Scope, kind: str) -> tuple[int, int, float]:
    """Embedded texts, those of a kind among them, and their share."""
    done = [entry.stats for shard, entry in scope.workspace.ledger.completions("embeddings").items() if shard in scope]
    embedded = sum(int(stats["embedded"]) for stats in done)
    found = sum(int(stats.get(kind, 0)) for stats in done)
    return embedded, found, found / embedded if embedded else 0.0


def nothing_waits(scope: Scope, now: datetime | None = None) -> Finding:
    """Whether registered shards have been curated, and the scheduled re-curation has run."""
    workspace = scope.workspace
    now = now or datetime.now(UTC)
    waiting = unfinished_shards(workspace)
    registered = {shard.key: _time(shard.registered) for shard in workspace.ledger.shards()}
    oldest = min((registered[key] for key in waiting), default=now)
    failures = {key: failure for key, failure in workspace.ledger.failures().items() if key in set(waiting)}
    late = [
        f"{key}: registered {registered[key]:%Y-%m-%d %H:%M} UTC and not curated"
        for key in waiting
        if now - registered[key] > WAITING and key not in failures
    ]
    late += [f"{key}: failed in {stage}: {message}" for key, (stage, message, _) in failures.items()]
    numbers: dict[str, int | float | str] = {
        "registered": len(registered),
        "not_curated": len(waiting),
        "failed": len(failures),
        "oldest_waits_hours": round((now - oldest) / timedelta(hours=1), 2),
    }
    cron = workspace.settings.recurate_cron
    if cron:
        last = workspace.ledger.last_rebuild()
        numbers["last_recuration"] = last or "never"
        since = _time(last) if last else min(registered.values(), default=now)
        if now - since > OVERDUE * _period(cron, now):
            late.append(f"the re-curation of {cron!r} is overdue: the last one was {last or 'never'}")
    return judged(
        f"{len(waiting)} of {len(registered)} registered shards are not curated yet.",
        numbers,
        late,
        "`dedup-assets curate` without sources finishes what is registered; a failed shard needs its file corrected. "
        "If folders are watched, check that the Dagster daemon runs (`dedup-assets ui`) and that the sensor "
        "and the schedule are switched on.",
    )


def _time(text: str) -> datetime:
    """Parse a time of the ledger."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _period(cron: str, now: datetime) -> timedelta:
    """Time between the next two times of a cron expression."""
    from dagster._utils.schedules import cron_string_iterator  # the library that Dagster's schedules use

    times = cron_string_iterator(now.timestamp(), cron, "UTC")
    first, second = next(times), next(times)
    return second - first
