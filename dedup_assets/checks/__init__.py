"""Asset checks: the contract, measured on the published result. See `asset_checks` for Dagster's side."""
