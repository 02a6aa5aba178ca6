"""The output of an audit: one line for each check, then the problems and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dedup_assets.display_text import counted, visible

if TYPE_CHECKING:
    from dedup_assets.checks.result import CheckResult

_STYLES = {"passed": "green", "warning": "yellow", "FAILED": "bold red"}


def outcome(check: CheckResult) -> str:
    """The outcome of a check in one word."""
    if check.passed:
        return "passed"
    return "warning" if check.is_warning else "FAILED"


def print_audit(console: Console, checks: Sequence[CheckResult]) -> None:
    """The table of all checks, then the details of those that did not pass."""
    table = Table(box=None, pad_edge=False)
    for name in ("result", "check", "found"):
        table.add_column(name, overflow="fold")
    asset = ""
    for check in checks:
        if check.asset != asset:
            asset = check.asset
            table.add_row("", Text(asset, style="bold"))
        word = outcome(check)
        table.add_row(Text(word, style=_STYLES[word]), check.name, Text(visible(check.summary)))
    console.print(table)
    for check in checks:
        if check.passed:
            continue
        console.print()
        console.print(Text(f"{check.asset}: {check.name}", style="bold"))
        for entry in check.metadata.get("offending", ()):
            console.print(Text(f"  {visible(entry)}"))
        console.print(Text(f"  What to do: {visible(check.metadata.get('what_to_do', ''))}"))
    failed = sum(outcome(check) == "FAILED" for check in checks)
    warnings = sum(outcome(check) == "warning" for check in checks)
    console.print()
    console.print(Text(f"{counted(len(checks), 'check')}, {failed} failed, {counted(warnings, 'warning')}"))


def audit_as_json(checks: Sequence[CheckResult]) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "passed": not any(outcome(check) == "FAILED" for check in checks),
        "checks": [
            {
                "asset": check.asset,
                "check": check.name,
                "result": outcome(check).lower(),
                **check.metadata,
            }
            for check in checks
        ],
    }
