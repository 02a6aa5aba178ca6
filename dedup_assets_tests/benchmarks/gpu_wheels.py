"""Gather the wheels that a machine with a GPU and without network needs for the run of `gpu`.

    python -m dedup_assets_tests.benchmarks.gpu_wheels            # both folders, .wheels/bare and .wheels/pipeline
    python3 -m pip install --no-index --no-deps --target /tmp/site .wheels/bare/*.whl    # on that machine

The machine has Python 3.12 and what `THERE` names. The first folder brings what the parts with torch alone lack, the
second Dask, Dagster and LanceDB for the seven assets. Each stays below `MOST_BYTES`; what does not fit is left out and
named. Git ignores the folders. Packages come from wherever this machine's pip takes them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MOST_BYTES = 64 * 10**6
"""Of one folder."""

PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64")

_NAMES = """
torch triton cupy-cuda13x transformers tokenizers safetensors huggingface-hub hf-xet pyarrow numba llvmlite numpy
scikit-learn scipy joblib threadpoolctl pandas fsspec filelock packaging pyyaml regex requests urllib3 certifi idna
charset-normalizer tqdm typing-extensions jinja2 markupsafe click rich markdown-it-py mdurl pygments attrs protobuf
grpcio psutil portalocker aiohttp aiosignal frozenlist multidict propcache yarl aiohappyeyeballs anyio sniffio h11
httpx httpcore sympy mpmath networkx setuptools six python-dateutil tabulate typer shellingham annotated-doc
cloudpickle toolz msgpack pytest hypothesis sortedcontainers sentence-transformers wrapt xxhash uvloop typing-
inspect cuda-bindings cuda-pathfinder cuda-toolkit nvidia-ml-py
"""

THERE = frozenset(_NAMES.split())
"""Packages of the machine, by their normalised names. CUDA's own libraries (`nvidia-*`) are there too."""

BARE = ("semhash", "rmm-cu13==26.10.*")
"""What the parts with torch alone can use beyond it; the model of the tests would fill the folder by itself."""

PIPELINE = (
    "dask==2026.7.1",
    "distributed==2026.7.1",
    "dagster==1.13.27",
    "dask-cuda==26.10.*",
    "cryptography>=42",
    "zstandard>=0.22",
    "lancedb>=0.30",
)
"""For the seven assets; the last is the largest, and is left out where the folder would be too large."""


def resolved(requirements: Sequence[str]) -> list[str]:
    """`name==version` of all that the requirements need there and the machine does not have."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"),
            *("--target", "none", "--only-binary=:all:", *_target(), *requirements),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"pip finds no wheels for {', '.join(requirements)}: {done.stderr.strip()[-500:]}")
    found = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    return sorted(f"{item['name']}=={item['version']}" for item in found if not is_there(item["name"]))


def is_there(name: str) -> bool:
    """Whether the machine has a package."""
    normal = name.lower().replace("_", "-").replace(".", "-")
    return normal in THERE or normal.startswith("nvidia-")


def _target() -> list[str]:
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    return ["--python-version", PYTHON, "--implementation", "cp", *platforms]


def gather(requirements: Sequence[str], folder: Path, most: int = MOST_BYTES) -> dict[str, str]:
    """Download wheels one requirement after the other, with what it needs; why each that is left out is."""
    folder.mkdir(parents=True, exist_ok=True)
    left_out: dict[str, str] = {}
    for requirement in requirements:
        fresh = folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        download(resolved([requirement]), fresh)
        wheels = [wheel for wheel in fresh.glob("*.whl") if not (folder / wheel.name).exists()]
        size = sum(wheel.stat().st_size for wheel in (*wheels, *folder.glob("*.whl")))
        if size < most:
            for wheel in wheels:
                wheel.replace(folder / wheel.name)
        else:
            left_out[requirement] = f"with it the folder has {size / 10**6:.0f} MB, of {most / 10**6:.0f} at most"
        shutil.rmtree(fresh, ignore_errors=True)
    return left_out


def download(pinned: Sequence[str], folder: Path) -> None:
    """The wheels of exactly these releases."""
    folder.mkdir(parents=True, exist_ok=True)
    if pinned:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *_target()]
        subprocess.run([*command, "--dest", str(folder), *pinned], check=True)


def main(arguments: list[str] | None = None) -> int:
    """Gather both folders and say what they hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".wheels"))
    options = parser.parse_args(arguments)
    for name, requirements in (("bare", BARE), ("pipeline", PIPELINE)):
        left_out = gather(requirements, options.folder / name)
        wheels = list((options.folder / name).glob("*.whl"))
        size = sum(wheel.stat().st_size for wheel in wheels) / 10**6
        print(f"{options.folder / name}: {len(wheels)} wheels, {size:.1f} MB")
        for requirement, why in left_out.items():
            print(f"  left out: {requirement}: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
