"""A random walk of operations on a workspace, from the command line and in Dagster, after which one curation must bring
output, ledger and Dagster into agreement.

    python -m dedup_assets_tests.end_to_end.walk --seed 1 --steps 300

prints each step and the verdict. The steps depend on the seed alone, so a walk can be repeated by its seed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dedup_assets_tests.end_to_end.walk_steps import Apart

LIMIT = 120.0
"""Seconds within which the last curation must end."""

WEIGHTS = {
    "new file": 6,
    "changed file": 5,
    "removed file": 2,
    "broken file": 1,
    "curate": 5,
    "threshold": 2,
    "retract": 3,
    "retract a record": 2,
    "recurate": 1,
    "delete partition": 3,
    "add a stranger": 2,
    "wipe": 3,
    "launch": 6,
    "backfill": 2,
    "cancel": 4,
    "kill": 4,
    "daemon": 3,
    "look": 2,
    "other workspace": 2,
    "sync": 1,
}

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "dedup_assets.api",
        "dedup_assets.automation.runs",
        "dedup_assets.compute.join",
        "dagster_graphql.schema",
        "distributed",
        "dedup_assets_tests.end_to_end.walk_steps",
        "dedup_assets_tests.end_to_end.walk_verdict",
    ]
)
_FORK = multiprocessing.get_context("fork")


class Walk:
    """One walk in progress. Its draws depend only on its own state, never on the outcome of a step."""

    def __init__(
        self, root: Path, seed: int, real: bool, say: Callable[[str], object], apart: Callable[..., int | None]
    ) -> None:
        from dedup_assets_tests.end_to_end.walk_real import SETTINGS
        from dedup_assets_tests.end_to_end.walk_ui import INSTANCE, serve
        from dedup_assets_tests.end_to_end.walk_world import World

        self.root = root
        self.seed = seed
        self.real = real
        self.say = say
        self.apart = apart
        self.rng = np.random.default_rng(seed)
        self.home = root / "home"
        self.home.mkdir(parents=True)
        (self.home / "dagster.yaml").write_text(SETTINGS if real else INSTANCE)
        self.workspace = root / "ws"
        serve(self.workspace, self.home)
        self.world = World(root / "in", seed)
        self.other = World(root / "other", seed + 1)
        self.names: list[str] = []
        self.strangers: list[str] = []
        self.daemon_on = False

    def run(self, steps: int) -> list[str]:
        """Walk, and return the disagreements at the end."""
        import dedup_assets as da
        from dedup_assets.automation import sensors
        from dedup_assets_tests.end_to_end.walk_real import real_ui
        from dedup_assets_tests.end_to_end.walk_steps import Steps
        from dedup_assets_tests.end_to_end.walk_ui import Daemon, ui_of
        from dedup_assets_tests.end_to_end.walk_world import OPTIONS

        if not self.real:
            sensors.LAUNCH_SECONDS = 0  # steps are sequential, so no run is being launched
        for key in ("a", "b"):
            self._new(key)
        da.curate(self.world.folder, workspace=self.workspace, progress=False, **OPTIONS, watch_seconds=5)
        if self.seed % 2:
            da.watch(self.world.folder, workspace=self.workspace)
        with ExitStack() as stack:
            ui: Any
            daemon: Any
            if self.real:
                ui, daemon = stack.enter_context(real_ui(self.home, self.workspace))
            else:
                ui = stack.enter_context(ui_of(self.home))
                daemon = Daemon(ui, self.workspace)
            act = Steps(self.world, self.other, self.workspace, ui, daemon, self.apart)
            for number in range(steps):
                name, arguments = self.draw()
                began = time.monotonic()
                try:
                    came = act(name, **arguments)
                    if self.daemon_on:
                        came = f"{came}; daemon: {daemon.look()}"
                except BaseException:
                    self.say(f"{number:3d} {name} {arguments}: \n{traceback.format_exc()}")
                    return [f"step {number}, {name}, raised: {traceback.format_exc().splitlines()[-1]}"]
                self.say(f"{number:3d} {name} {arguments}: {came} ({time.monotonic() - began:.1f} s)")
            daemon.end_lost()
            sensors.LAUNCH_SECONDS = 0
            return self._judge(ui)

    def _judge(self, ui: Any) -> list[str]:
        import dedup_assets as da
        from dedup_assets_tests.end_to_end.walk_verdict import faults

        began = time.monotonic()
        if not self.world.now:
            self._new("z")
        last = da.curate(self.world.folder, workspace=self.workspace, check=False, progress=False)
        took = time.monotonic() - began
        found = [f"the last curation took {took:.0f} s"] if took > LIMIT else []
        return found + list(faults(self.world, self.workspace, ui, last, self.root / "fresh"))

    # -- drawing --------------------------------------------------------------------------------------

    def draw(self) -> tuple[str, dict[str, Any]]:
        """The next step and its arguments."""
        names = list(WEIGHTS)
        weights = np.array(list(WEIGHTS.values()), dtype=float)
        name = str(self.rng.choice(names, p=weights / weights.sum()))
        return name, getattr(self, "_" + name.replace(" ", "_"), dict)()

    def _one(self, among: Sequence[str]) -> str:
        return str(among[int(self.rng.integers(0, len(among)))])

    def _new(self, key: str) -> None:
        self.names.append(key)
        self.world.write(key, self.rng)

    def _new_file(self) -> dict[str, Any]:
        # Some sort before all others, and some return.
        gone = [key for key in self.names if key not in self.world.now]
        if gone and self.rng.random() < 0.5:
            key = self._one(gone)
            self.world.write(key, self.rng)
        else:
            key = f"{self._one('agmtz')}{len(self.names):02d}"
            self._new(key)
        return {"key": key}

    def _changed_file(self) -> dict[str, Any]:
        key = self._one(sorted(self.world.now) or self.names)
        self.world.write(key, self.rng)
        return {"key": key}

    def _broken_file(self) -> dict[str, Any]:
        key = self._one(sorted(self.world.now) or self.names)
        self.world.write(key, self.rng, broken=True)
        return {"key": key}

    def _removed_file(self) -> dict[str, Any]:
        key = self._one(self.names)
        if len(self.world.now) > 2:
            self.world.remove(key)
        return {"key": key}

    def _curate(self) -> dict[str, Any]:
        some = sorted(self.world.now)
        picked = [key for key in some if self.rng.random() < 0.4]
        return {"keys": picked if self.rng.random() < 0.3 else None}

    def _threshold(self) -> dict[str, Any]:
        return {"threshold": float(self.rng.choice([0.82, 0.86, 0.9, 0.95]))}

    def _retract(self) -> dict[str, Any]:
        vanished = self.rng.random() < 0.7
        return {"key": self._one(self.names), "reason": "vanished" if vanished else "takedown"}

    def _retract_a_record(self) -> dict[str, Any]:
        key = self._one(sorted(self.world.now) or self.names)
        return {"key": key, "row": int(self.rng.integers(0, 3))}

    def _recurate(self) -> dict[str, Any]:
        return {}

    def _delete_partition(self) -> dict[str, Any]:
        return {"key": self._one(self.names + self.strangers)}

    def _add_a_stranger(self) -> dict[str, Any]:
        key = f"s{self._one('tuv')}ranger{len(self.strangers)}"
        self.strangers.append(key)
        return {"key": key}

    def _wipe(self) -> dict[str, Any]:
        from dedup_assets.storage.ledger import STAGES

        return {"asset": self._one(STAGES)}

    def _launch(self) -> dict[str, Any]:
        from dedup_assets.storage.ledger import STAGES

        job = str(
            self.rng.choice(["selection", "curate_new_shards", "redecide", "recurate_corpus"], p=[0.5, 0.3, 0.15, 0.05])
        )
        first, last = sorted(self.rng.integers(0, len(STAGES), 2).tolist())
        some = [STAGES[n] for n in range(first, last + 1) if self.rng.random() < 0.9] or [STAGES[first]]
        keys = self.names + self.strangers
        return {"job": job, "assets": some, "first": self._one(keys), "last": self._one(keys)}

    def _backfill(self) -> dict[str, Any]:
        launch = self._launch()
        keys = [key for key in self.names if self.rng.random() < 0.6] or self.names[:1]
        return {"assets": launch["assets"], "keys": keys}

    def _interrupted(self) -> dict[str, Any]:
        what = self._one(["curate", "curate", "launch", "launch", "retract", "threshold", "recurate"])
        return {
            "what": what,
            "arguments": getattr(self, f"_{what}")(),
            "after": int(self.rng.choice([5, 30, 120]) * self.rng.random()) + 1,
        }

    _cancel = _kill = _interrupted

    def _daemon(self) -> dict[str, Any]:
        self.daemon_on = not self.daemon_on
        return {"on": self.daemon_on}

    def _other_workspace(self) -> dict[str, Any]:
        if not self.other.now or self.rng.random() < 0.6:
            key = f"other{len(self.other.now)}"
        else:
            key = self._one(sorted(self.other.now))
        self.other.write(key, self.rng)
        return {"key": key}


@contextmanager
def _zygote() -> Iterator[Apart]:
    """Call functions in separate processes, forked from one that stays in the current state of this one: everything
    imported and nothing computed."""
    mine, theirs = _FORK.Pipe()
    zygote = _FORK.Process(target=_breed, args=(theirs, mine))
    zygote.start()
    theirs.close()

    def apart(*call: Any) -> int | None:
        mine.send(call)
        return mine.recv()

    try:
        yield apart
    finally:
        mine.close()
        zygote.join()


def _breed(calls: Connection, others: Connection) -> None:
    others.close()
    while True:
        try:
            target, *arguments = calls.recv()
        except EOFError:
            return
        child = _FORK.Process(target=target, args=arguments)
        child.start()
        child.join(LIMIT)
        calls.send(child.exitcode)
        if child.is_alive():
            child.kill()
            child.join()


def walk(root: Path, seed: int, steps: int, real: bool, log: Path) -> None:
    """Walk in this process; steps and verdict are in `log`."""
    with log.with_suffix(".stderr").open("wb") as errors:
        os.dup2(errors.fileno(), 2)  # Dagster's log of every run
    with log.open("w") as stream, _zygote() as apart:

        def say(line: str) -> None:
            stream.write(line + "\n")
            stream.flush()

        began = time.monotonic()
        try:
            found = Walk(root, seed, real, say, apart).run(steps)
        except BaseException:
            say(traceback.format_exc())
            raise
        for fault in found:
            say(f"FAULT {fault}")
        took = f"{time.monotonic() - began:.0f} s, {time.process_time():.0f} of them on a processor here"
        say(f"seed {seed}, {steps} steps, {took}: {len(found)} faults")
    if found:
        sys.exit(1)


def walked(seed: int, steps: int, folder: Path, real: bool = False) -> str:
    """Walk in a separate process; returns the log. Raises AssertionError with it if there are disagreements."""
    root, log = folder / f"walk-{seed}", folder / f"walk-{seed}.log"
    process = _CONTEXT.Process(target=walk, args=(root, seed, steps, real, log))
    process.start()
    process.join()
    said = log.read_text() if log.exists() else ""
    if process.exitcode:
        raise AssertionError(f"seed {seed}, exit {process.exitcode}; everything lies in {root}\n{said}")
    shutil.rmtree(root, ignore_errors=True)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--walks", type=int, default=1, help="number of walks, with consecutive seeds")
    parser.add_argument("--real", action="store_true", help="with Dagster's own webserver and daemon: slower")
    parser.add_argument("--folder", type=Path, default=None, help="where the workspaces and logs are put")
    parser.add_argument("--quiet", action="store_true", help="print the verdicts alone")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="walk-"))
    folder.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for seed in range(options.seed, options.seed + options.walks):
        try:
            said = walked(seed, options.steps, folder, options.real)
        except AssertionError as problem:
            said, wrong = str(problem), wrong + 1
        lines = said.splitlines()
        told = [line for line in lines if line.startswith(("FAULT", "seed"))] if options.quiet else lines
        print("\n".join(told), flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
