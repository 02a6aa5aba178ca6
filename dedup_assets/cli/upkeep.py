"""Commands that look after a workspace: audit."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from dedup_assets.cli.options import json_option, print_json, workspace_option


@click.command(short_help="Measure on what is published what the contract promises.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Records, and removals, in each sample.  [default: 1000]",
)
@workspace_option
@json_option
def audit(sample: int | None, workspace: str, as_json: bool) -> None:
    """Measure what is promised on what is published, and change nothing.

    Recounts rows from the published files. Compares N records with the whole corpus by brute force: every match
    found must be on record, and none may be between two kept records. Computes the similarity of N removed records
    to their keepers anew. Warns where a refit would save time or shards wait. The checks are those that the UI
    shows after each run; here they look at everything, and the result is in the UI too.

    Exit status 1 if a check fails; warnings are none.

    \b
    Examples:
      dedup-assets audit --workspace ws
      dedup-assets audit --sample 5000 --json --workspace ws | jq .passed
    """
    from dedup_assets import api
    from dedup_assets.report.audit import audit_as_json, outcome, print_audit

    checks = api.audit(workspace=workspace, sample=sample or 0)
    if as_json:
        print_json(audit_as_json(checks))
    else:
        print_audit(Console(), checks)
    if any(outcome(check) == "FAILED" for check in checks):
        sys.exit(1)
