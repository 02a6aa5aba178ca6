"""Dagster runs and their triggers: instance, jobs, sensors, schedules, server, and agreement with the ledger."""
