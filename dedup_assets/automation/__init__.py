"""Runs and what starts them: the instance, jobs, sensors, schedules, the server, agreement of Dagster with the ledger."""
