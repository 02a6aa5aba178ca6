"""Shared by the tests of the checks: runs all checks on a workspace, and tampers with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dedup_assets.checks.asset_checks import CHECKS, evaluated
from dedup_assets.checks.finding import Finding
from dedup_assets.checks.recall import BruteForce
from dedup_assets.checks.scope import Scope
from dedup_assets.corpus.output import published_generation
from dedup_assets.storage.workspace import Workspace

THRESHOLD = 0.9
SIZES = (60, 40, 50)
SHARDS = ["s00", "s01", "s02"]

Findings = dict[str, Finding]


def examine(space: Workspace, shards: list[str] | None = None, sample: int = 0) -> Findings:
    """All checks by `asset: name`."""
    scope = Scope(Workspace.open(space.root), shards, sample)
    brute_force = BruteForce(scope)
    return {f"{check.asset}: {check.name}": evaluated(check, scope, brute_force) for check in CHECKS}


def failed(findings: Findings) -> set[str]:
    """Names of the checks that did not pass."""
    return {name for name, finding in findings.items() if not finding.passed}


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a Parquet file in place. Published files may be hard links: the other name keeps its content."""
    table = change(pq.read_table(path))
    path.unlink()
    pq.write_table(table, path)


def published(space: Workspace, part: str, shard: str) -> Path:
    return space.output_generation(published_generation(space) or 0) / part / f"{shard}.parquet"


def decisions(space: Workspace, shard: str) -> Path:
    return space.decisions(published_generation(space) or 0, "records", shard)


def without(row: int) -> Callable[[pa.Table], pa.Table]:
    return lambda table: pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


def with_value(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    """The table with one value changed."""
    values = table.column(name).to_pylist()
    values[row] = value
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def semantic(space: Workspace, shard: str) -> tuple[int, dict[str, object]]:
    """A record of a shard that was removed by similarity, with its row in the published file."""
    rows = pq.read_table(published(space, "duplicates", shard)).to_pylist()
    return next((at, row) for at, row in enumerate(rows) if row["kind"] == "semantic")
