"""Six short random walks: whatever is done, one curation brings output, ledger and Dagster into line. A seed that fails
is walked again by `python -m dedup_assets_tests.end_to_end.walk --seed SEED --steps STEPS`."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedup_assets_tests.end_to_end.walk import walked

STEPS = 40


@pytest.mark.parametrize("seed", range(1, 7))
def test_after_a_random_walk_one_curation_brings_output_ledger_and_dagster_into_line(tmp_path: Path, seed: int) -> None:
    said = walked(seed, STEPS, tmp_path)
    assert said.splitlines()[-1].endswith(": 0 faults")
    assert len(said.splitlines()) == STEPS + 1
