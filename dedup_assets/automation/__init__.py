"""Runs and what starts them: instance, jobs, sensors, schedules, server; agreement of Dagster with the ledger."""
