"""Checks the workers of an external cluster: they need the same software, and the same files under the same path.

All current workers are checked before work begins; a later one checks itself before its first task.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from dedup_assets.errors import ClusterError
from dedup_assets.resources.worker_device import worker_device
from dedup_assets.storage.publish import temporary_folder

SHARED = ("dask", "distributed", "dedup-assets")
"""Packages that the scheduler also needs, because it unpacks messages."""

COMPUTING = (*SHARED, "numpy", "torch", "transformers", "numba", "pyarrow", "lancedb")
"""Packages whose other versions may give different numbers or fail to read files written here."""

PROBE = "probe"


@dataclass(frozen=True)
class WorkerRequirements:
    """The requirements for a worker: versions by package, the content of a file in a folder of the workspace, and a GPU
    if the others have one."""

    versions: tuple[tuple[str, str], ...]
    folder: str
    content: str
    device: str = "cpu"


@contextmanager
def requirements_for(workspace: Path) -> Iterator[WorkerRequirements]:
    """The requirements from this process, with a probe file in the workspace inside the block."""
    with temporary_folder(workspace) as folder:
        folder.mkdir()
        content = secrets.token_hex(16)
        (folder / PROBE).write_text(content)
        yield WorkerRequirements(tuple(sorted(versions().items())), str(folder), content)


def versions(report: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Versions of Python and the relevant packages, without build tags: those that a Dask process reports, or those
    here."""
    if report is None:
        from distributed.versions import get_versions

        report = get_versions(packages=COMPUTING)
    packages = report["packages"]
    return {
        "Python": _python(report["host"]["python"]),
        **{name: _release(packages.get(name) or "") for name in COMPUTING},
    }


def _python(text: str) -> str:
    return ".".join(text.split(".")[:2])  # patch releases change neither bytecode nor pickle


def _release(text: str) -> str:
    return text.partition("+")[0]  # 2.13.0+cpu here and 2.13.0+cu130 there are one release


def differences(wanted: Mapping[str, str], found: Mapping[str, str], names: Sequence[str]) -> str:
    """Description of the versions that differ; empty if none."""
    return ", ".join(
        f"{name} {found[name] or 'missing'} (here {wanted[name] or 'missing'})"
        for name in ("Python", *names)
        if found[name] != wanted[name]
    )


def require_versions(reports: Mapping[str, Any], terms: WorkerRequirements) -> None:
    """Raise ClusterError if the scheduler or a worker has other versions; `reports` is the result of
    `Client.get_versions`."""
    wanted = dict(terms.versions)
    found = {"the scheduler": differences(wanted, versions(reports["scheduler"]), SHARED)}
    for name, report in reports["workers"].items():
        found[f"worker {name}"] = differences(wanted, versions(report), COMPUTING)
    differing = {name: text for name, text in found.items() if text}
    if differing:
        raise ClusterError(
            f"Dask processes have other versions than this one: {_listed(differing)}. Install the same there and here."
        )


def require_files(answers: Mapping[str, Any], terms: WorkerRequirements) -> None:
    """Raise ClusterError if a worker does not see the workspace; `answers` holds the result of `see_files`, or its
    exception, by worker."""
    blind = {f"worker {name}": str(answer) for name, answer in answers.items() if answer}
    for name, answer in answers.items():
        if not answer and not Path(terms.folder, _mark(name)).is_file():
            blind[f"worker {name}"] = f"what it writes to {terms.folder} does not arrive here"
    if blind:
        raise ClusterError(
            f"Dask workers do not see the workspace's files: {_listed(blind)}. Every worker needs the same shared file "
            "system under the same path, with the right to write."
        )


def _listed(found: Mapping[str, str]) -> str:
    shown = "; ".join(f"{name}: {text}" for name, text in list(found.items())[:3])
    return shown if len(found) <= 3 else f"{shown}; and {len(found) - 3} more"


def _mark(worker: str) -> str:
    return "seen-" + "".join(c if c.isalnum() else "-" for c in worker)


def is_open(address: str) -> bool:
    """Whether an address leads to other machines without encryption."""
    protocol, _, host = address.rpartition("://")
    host = host.rpartition(":")[0].strip("[]") or host
    if protocol not in ("", "tcp", "ws"):
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


# -- on a worker -------------------------------------------------------------------------------------


def see_files(folder: str, content: str, dask_worker: Any) -> str:
    """Read the probe and write a mark beside it; returns the problem, or an empty string."""
    try:
        found = Path(folder, PROBE).read_text()
        Path(folder, _mark(dask_worker.address)).touch()
    except (OSError, UnicodeDecodeError) as problem:
        return str(problem)
    return "" if found == content else f"{folder} holds other files there"


@lru_cache(maxsize=8)
def _unfit(terms: WorkerRequirements, process: int) -> str:
    """The problem of this worker, or an empty string."""
    from distributed import get_worker

    worker = get_worker()
    differing = differences(dict(terms.versions), versions(), COMPUTING)
    if differing:
        return f"Dask worker {worker.address} has other versions: {differing}. Install the same there and here."
    blind = see_files(terms.folder, terms.content, worker)
    if blind:
        return f"Dask worker {worker.address} does not see the workspace's files: {blind}."
    if terms.device != "cpu" and worker_device("auto") == "cpu":
        return (
            f"Dask worker {worker.address}, which came later, finds no usable GPU, and the others have one. End it, or "
            "use --device cpu: the decisions are the same."
        )
    return ""


def run_if_fit(terms: WorkerRequirements, task: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task if this worker fits; otherwise raise ClusterError."""
    problem = _unfit(terms, os.getpid())
    if problem:
        raise ClusterError(problem)
    return task(*arguments)
