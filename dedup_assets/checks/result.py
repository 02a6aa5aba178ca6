"""The result of a check as Dagster recorded it, in plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dagster as dg


@dataclass(frozen=True)
class CheckResult:
    """The result of one asset check. A failed check of severity WARN reports cost or delay, no wrong result."""

    asset: str
    name: str
    passed: bool
    is_warning: bool
    summary: str
    metadata: dict[str, Any]

    @classmethod
    def of(cls, evaluation: dg.AssetCheckEvaluation) -> CheckResult:
        """From Dagster's event."""
        return cls(
            asset=evaluation.asset_key.to_user_string(),
            name=evaluation.check_name,
            passed=evaluation.passed,
            is_warning=evaluation.severity is dg.AssetCheckSeverity.WARN,
            summary=evaluation.description or "",
            metadata={name: value.value for name, value in evaluation.metadata.items()},
        )
