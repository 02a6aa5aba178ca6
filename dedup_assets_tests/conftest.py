"""For every test: no model hub, no telemetry, and no Dagster settings of the caller."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before any import that reads them.
os.environ.update(HF_HUB_OFFLINE="1", DAGSTER_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
for name in ("DAGSTER_HOME", "DEDUP_ASSETS_WORKSPACE", "DEDUP_ASSETS_SCHEDULER"):
    os.environ.pop(name, None)


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 256 KiB, or of the size in the parameter; it needs root and a machine that allows mounts."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = getattr(request, "param", "256k")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests() -> Iterator[None]:
    """Passwords of one test, such as `word`, must not be hidden in the messages of the next."""
    from dedup_assets import credentials

    known, secrets = dict(credentials._known), set(credentials._secrets)
    yield
    credentials._known.clear()
    credentials._known.update(known)
    credentials._secrets.clear()
    credentials._secrets.update(secrets)
