"""Deduplication of records in memory, in one call: no workspace, no files, no orchestrator, no worker processes."""
