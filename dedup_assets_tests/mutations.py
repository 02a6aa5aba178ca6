"""Checks that the tests find wrong changes to the bounds in `compute/`.

`python -m dedup_assets_tests.mutations` applies one change at a time to a copy of the package, runs the tests named
with it, and prints a table. It takes about ten seconds for each change, so CI only checks that each still applies.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BOUNDS = "dedup_assets_tests/compute/test_bounds.py"
CELLS = "dedup_assets_tests/compute/test_cells.py"
DENSE = "dedup_assets_tests/compute/test_dense.py"
JOIN = "dedup_assets_tests/compute/test_join.py"


@dataclass(frozen=True)
class Mutation:
    """A text that occurs once in a file of `compute/`, and its wrong replacement."""

    what: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...] = (BOUNDS,)


MUTATIONS = (
    Mutation("products: r instead of 2r + r²", "similarity.py", "return 2 * r + r * r + acc", "return r + acc"),
    Mutation("products: without the input error", "similarity.py", "return 2 * r + r * r + acc", "return acc"),
    Mutation(
        "products: rounding of the output left out", "similarity.py", "_INPUT_ROUNDOFF[precision] * magnitude", "0.0"
    ),
    Mutation(
        "products: rounding of the output halved",
        "similarity.py",
        "_INPUT_ROUNDOFF[precision] * magnitude",
        "0.5 * _INPUT_ROUNDOFF[precision] * magnitude",
    ),
    Mutation("sums: error left out", "similarity.py", "return total / (1.0 - total)", "return 0.0"),
    Mutation(
        "sums: error a sixteenth", "similarity.py", "total = dimension * 2.0**-23", "total = dimension * 2.0**-27"
    ),
    Mutation(
        "similarity: clip left out",
        "similarity.py",
        "return min(1.0, max(-1.0, dot / np.sqrt(square_a * square_b)))",
        "return dot / np.sqrt(square_a * square_b)",
    ),
    Mutation(
        "similarity: zero rows divided",
        "similarity.py",
        "if square_a == 0.0 or square_b == 0.0:",
        "if square_a < 0.0:",
        ("dedup_assets_tests/compute/test_similarity.py",),
    ),
    Mutation(
        "brute force: slack left out",
        "audit.py",
        'np.float32(floor - proposal_slack("fp32", max(1, vectors.shape[1])))',
        "np.float32(floor)",
    ),
    Mutation(
        "ghosts: residual left out (CPU)",
        "cells.py",
        "reach = self.sine + _MARGIN + residual",
        "reach = self.sine + _MARGIN",
    ),
    Mutation(
        "ghosts: residual halved (CPU)",
        "cells.py",
        "reach = self.sine + _MARGIN + residual",
        "reach = self.sine + _MARGIN + residual / 2",
    ),
    Mutation(
        "ghosts: residual left out (device)",
        "device/cells.py",
        "reach = (residual + self.sine + self.margin)",
        "reach = (0 * residual + self.sine + self.margin)",
    ),
    Mutation(
        "ghosts: half angle 0.5 % too small",
        "cells.py",
        "return math.sqrt((1.0 - floor) / 2.0)",
        "return 0.995 * math.sqrt((1.0 - floor) / 2.0)",
    ),
    Mutation(
        "ghosts: reach halved",
        "cells.py",
        "reach = self.sine + _MARGIN + residual",
        "reach = self.sine / 2 + _MARGIN + residual",
    ),
    Mutation(
        "ghosts: slack of the distances left out",
        "distances.py",
        "np.maximum(squared, 0.0) + slack",
        "np.maximum(squared, 0.0)",
    ),
    Mutation("join: slack left out (CPU)", "cell_worker.py", "self.bound = floor - low.slack", "self.bound = floor"),
    Mutation(
        "join: slack halved (CPU)",
        "cell_worker.py",
        "self.bound = floor - low.slack",
        "self.bound = floor - low.slack / 2",
    ),
    Mutation(
        "join: slack left out (device)",
        "device/join.py",
        "torch.tensor(floor - low.slack, dtype",
        "torch.tensor(floor, dtype",
    ),
    Mutation(
        "join: slack halved (device)",
        "device/join.py",
        "torch.tensor(floor - low.slack, dtype",
        "torch.tensor(floor - low.slack / 2, dtype",
    ),
    Mutation(
        "dense cells: slack left out",
        "dense.py",
        "self.bound = walk.threshold - self.low.slack(self.residual)",
        "self.bound = walk.threshold",
        (DENSE, BOUNDS),
    ),
    Mutation(
        "dense cells: slack halved",
        "dense.py",
        "self.bound = walk.threshold - self.low.slack(self.residual)",
        "self.bound = walk.threshold - self.low.slack(self.residual) / 2",
        (DENSE, BOUNDS),
    ),
    Mutation(
        "rows: measured residual left out",
        "precision.py",
        "return low, math.sqrt(worst) + MEASURING if",
        "return low, MEASURING if",
    ),
    Mutation(
        "rows: bfloat16 truncated",
        "precision.py",
        "return (bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) >> np.int32(16)",
        "return bits >> np.int32(16)",
        ("dedup_assets_tests/compute/test_cells.py", JOIN, BOUNDS, "dedup_assets_tests/compute/test_similarity.py"),
    ),
    Mutation(
        "sketch: norm of the rest left out",
        "sketch.py",
        "np.float32(math.sqrt(max(0.0, 1.0 - taken + excess)))",
        "np.float32(0.0)",
        (JOIN,),
    ),
)


def apply(mutation: Mutation, root: Path) -> None:
    """Apply the change. Raises ValueError unless the right text occurs once."""
    path = root / "dedup_assets" / "compute" / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.right) != 1:
        raise ValueError(f"{mutation.what}: {mutation.right!r} stands {text.count(mutation.right)} times in {path}")
    path.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")


def is_found(mutation: Mutation) -> bool:
    """Whether a test fails with the change. Raises RuntimeError where the tests cannot run at all."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("dedup_assets", "dedup_assets_tests"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        apply(mutation, root)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *mutation.tests]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(
            f"{mutation.what}: pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.returncode == 1


def main() -> int:
    """Run the changes whose names contain a word, or all; exit status 1 if one is not found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("word", nargs="?", default="", help="only changes whose names hold this")
    word = parser.parse_args().word
    missed = 0
    for mutation in MUTATIONS:
        if word in mutation.what:
            found = is_found(mutation)
            missed += not found
            print(f"{'found' if found else 'NOT FOUND':10} {mutation.file:16} {mutation.what}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
