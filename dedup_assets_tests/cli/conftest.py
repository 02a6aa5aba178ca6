"""Fixtures of the command line's tests."""

from dedup_assets_tests.cli.commands import call

__all__ = ["call"]
