"""What holds for every test: no model hub, no telemetry, nothing of the caller's own Dagster."""

from __future__ import annotations

import os

# Before anything is imported that reads them.
os.environ.update(HF_HUB_OFFLINE="1", DAGSTER_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
for name in ("DAGSTER_HOME", "DEDUP_ASSETS_WORKSPACE", "DEDUP_ASSETS_SCHEDULER"):
    os.environ.pop(name, None)
