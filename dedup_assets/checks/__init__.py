"""Asset checks: what the contract promises, measured on what is published. See `asset_checks` for Dagster's view."""
