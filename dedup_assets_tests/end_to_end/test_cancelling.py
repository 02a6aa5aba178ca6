"""`terminateRun` in the real UI at some random moments. `cancelling` tries it hundreds of times."""

from __future__ import annotations

from pathlib import Path

from dedup_assets_tests.end_to_end.cancelling import cancelling, table, tries

TRIES, SECONDS = 3, 3.0


def test_a_run_that_is_cancelled_in_the_ui_ends_cancelled_and_the_next_one_finishes(tmp_path: Path) -> None:
    with cancelling(tmp_path) as (shards, ui):
        done = list(tries(shards, ui, TRIES, 0, SECONDS))
        assert not any(entry.missed for entry in done), f"{done}\n{table(done)}"
        shards.curate()
