"""Runs launched in the real UI and cancelled there at random moments.

`python -m dedup_assets_tests.end_to_end.cancelling COUNT [SEED]` prints the outcome of each, and a table. Every try
launches `curate_new_shards` over shards with new content, waits for a random time, calls `terminateRun` as the UI does,
and checks how the run ends.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dedup_assets as da
from dedup_assets_tests.assets.corpora import corpus, write_shards
from dedup_assets_tests.end_to_end.served import Served, served_ui, shorten_queue

TERMINATE = """
mutation Terminate($id: String!) {
  terminateRun(runId: $id) {
    __typename
    ... on TerminateRunFailure { message }
    ... on RunNotFoundError { message }
    ... on PythonError { message }
  }
}"""

EVENTS = """
query Events($id: ID!) {
  logsForRun(runId: $id) { ... on EventConnection { events { __typename ... on MessageEvent { stepKey } } } }
}"""

ENDED = ("SUCCESS", "FAILURE", "CANCELED")
SOON = 20.0
"""Seconds within which a cancelled run must end on a busy machine."""

SIZES = [40, 60, 50]
EVERY = 20
"""After this many tries a `curate` finishes the remaining work, and an audit follows."""


@dataclass(frozen=True)
class Try:
    """One run and its end.

    `moment` is a share of the time of a whole run, negative in the queue; `at` is the step at the cancellation; `over`
    says that `terminateRun` was refused because the run had ended.
    """

    moment: float
    at: str
    over: bool
    status: str
    seconds: float

    @property
    def missed(self) -> bool:
        return self.status != ("SUCCESS" if self.over else "CANCELED")


class Corpus:
    """Shards whose content can be changed, and their workspace."""

    def __init__(self, folder: Path) -> None:
        self.shards, self.workspace = folder / "shards", folder / "ws"
        self._content = 0
        self.change()
        self.curate()

    def change(self) -> None:
        """Give every shard new content."""
        self._content += 1
        write_shards(self.shards, corpus("clustered", SIZES, seed=self._content))

    def curate(self) -> None:
        """Finish the remaining work, and audit all of it."""
        options = {"embedding_column": "vector", "changed_shards": "replace", "progress": False}
        assert da.curate(self.shards, workspace=self.workspace, **options).summary["shards"] == len(SIZES)
        failed = [check.name for check in da.audit(workspace=self.workspace) if not check.passed]
        assert not failed, failed


@contextmanager
def cancelling(folder: Path) -> Iterator[tuple[Corpus, Served]]:
    """A curated corpus in the UI, with a short interval of the queue."""
    shards = Corpus(folder)
    shorten_queue(shards.workspace)
    with served_ui(shards.workspace, folder) as ui:
        yield shards, ui


def launched(shards: Corpus, ui: Served) -> str:
    """A run over shards with new content."""
    shards.change()
    return ui.launch("curate_new_shards", "s00", f"s{len(SIZES) - 1:02d}")


def wait(ui: Served, run: str, statuses: tuple[str, ...], seconds: float) -> str:
    """The status of a run as soon as it is one of some, or after a number of seconds."""
    until = time.monotonic() + seconds
    while (status := ui.run_status(run)) not in statuses and time.monotonic() < until:
        time.sleep(0.03)
    return status


def cancelled(ui: Served, run: str) -> bool:
    """Cancel a run, repeatedly while Dagster refuses because it starts; returns whether it was in progress."""
    until = time.monotonic() + 60
    while (asked := ui.graphql(TERMINATE, id=run)["terminateRun"])["__typename"] != "TerminateRunSuccess":
        assert asked["__typename"] == "TerminateRunFailure" and time.monotonic() < until, asked
        if asked["message"].endswith("status SUCCESS."):
            return False
        assert asked["message"].endswith("status STARTING."), asked
        time.sleep(0.03)
    return True


def whole_run(shards: Corpus, ui: Served) -> float:
    """Seconds of a run from its start to its end."""
    run = launched(shards, ui)
    wait(ui, run, ("STARTED",), 60)
    started = time.monotonic()
    assert wait(ui, run, ENDED, 120) == "SUCCESS"
    return time.monotonic() - started


def tries(shards: Corpus, ui: Served, count: int, seed: int, whole: float) -> Iterator[Try]:
    """Cancel runs at random moments: most while they work, some in the queue, some at the end or after it. `whole` are
    the seconds that a run takes."""
    rng = random.Random(seed)
    for number in range(count):
        moment = rng.choice([-rng.random(), *(rng.random() for _ in range(7)), *(rng.uniform(0.9, 1.02) for _ in "12")])
        run = launched(shards, ui)
        if moment > 0:
            wait(ui, run, ("STARTED",), 60)
        time.sleep(abs(moment) * whole)
        under_way, since = cancelled(ui, run), time.monotonic()
        status = wait(ui, run, ENDED, SOON)
        yield Try(round(moment, 3), _step(ui, run), not under_way, status, round(time.monotonic() - since, 2))
        assert wait(ui, run, ENDED, 120) in ENDED
        if number % EVERY == EVERY - 1:
            shards.curate()


def _step(ui: Served, run: str) -> str:
    """The step of a run at its cancellation."""
    at = "before the first step"
    for event in ui.graphql(EVENTS, id=run)["logsForRun"]["events"]:
        match event["__typename"]:
            case "RunCancelingEvent":
                break
            case "ExecutionStepStartEvent":
                at = event["stepKey"]
            case "ExecutionStepSuccessEvent":
                at = f"after {event['stepKey']}"
            case "RunSuccessEvent":
                at = "over"
    return at


def table(done: list[Try]) -> str:
    """Counts by moment, times to the end, and missed cancellations."""
    places, missed = Counter(entry.at for entry in done), Counter(entry.at for entry in done if entry.missed)
    took = [entry.seconds for entry in done if not entry.over]
    lines = [f"{'where the run was':<32}{'tries':>6}{'missed':>8}"]
    lines += [f"{at:<32}{count:>6}{missed[at]:>8}" for at, count in sorted(places.items())]
    lines.append(f"{len(took)} cancelled, {len(done) - len(took)} over before, {missed.total()} missed")
    if took:
        lines.append(f"seconds to the end: median {statistics.median(took):.2f}, at most {max(took):.2f}")
    return "\n".join(lines)


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    done: list[Try] = []
    with tempfile.TemporaryDirectory() as folder, cancelling(Path(folder)) as (shards, ui):
        for entry in tries(shards, ui, count, seed, whole_run(shards, ui)):
            done.append(entry)
            print(len(done), entry, "MISSED" if entry.missed else "", flush=True)
        shards.curate()
    print(table(done))
    sys.exit(any(entry.missed for entry in done))


if __name__ == "__main__":
    main()
