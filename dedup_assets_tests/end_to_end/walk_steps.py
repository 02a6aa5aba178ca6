"""The steps of a random walk: each does one operation of a user or machine, and returns its outcome in words."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage

import dedup_assets as da
from dedup_assets.errors import DedupError, UnexpectedError
from dedup_assets.storage import publish
from dedup_assets.storage.ledger import STAGES, Ledger
from dedup_assets_tests.end_to_end.walk_real import RealUi
from dedup_assets_tests.end_to_end.walk_ui import Daemon, Ui, serve, ui_of
from dedup_assets_tests.end_to_end.walk_world import OPTIONS, World

Apart = Callable[..., int | None]
"""Calls a function in a separate process; returns the exit code, None if it does not end."""


class Steps:
    """Calls of steps by name."""

    def __init__(
        self, world: World, other: World, workspace: Path, ui: Ui, daemon: Daemon, apart: Callable[..., int | None]
    ) -> None:
        self._world = world
        self._other = other
        self._workspace = workspace
        self._ui = ui
        self._daemon = daemon
        self._daemon_on = False
        self._start = apart

    def __call__(self, name: str, **arguments: Any) -> str:
        try:
            return getattr(self, name.replace(" ", "_"))(**arguments)
        except UnexpectedError:
            raise
        except DedupError as problem:
            return f"refused: {' '.join(str(problem).split())[:160]}"

    # -- files: they were written when the step was drawn ----------------------------------------------

    def new_file(self, key: str) -> str:
        return "written"

    changed_file = broken_file = new_file

    def removed_file(self, key: str) -> str:
        return "removed" if key not in self._world.now else "left, as one of the last"

    # -- from the command line -------------------------------------------------------------------------

    def curate(self, keys: Sequence[str] | None) -> str:
        return act("curate", self._workspace, self._world.folder, {"keys": keys})

    def threshold(self, threshold: float) -> str:
        return act("threshold", self._workspace, self._world.folder, {"threshold": threshold})

    def retract(self, key: str, reason: str) -> str:
        return act("retract", self._workspace, self._world.folder, {"key": key, "reason": reason})

    def retract_a_record(self, key: str, row: int) -> str:
        da.retract(f"{key}:{row}", workspace=self._workspace, progress=False)
        return "taken down"

    def recurate(self) -> str:
        return act("recurate", self._workspace, self._world.folder, {})

    def sync(self) -> str:
        return str(da.sync(workspace=self._workspace))

    # -- from the UI -----------------------------------------------------------------------------------

    def delete_partition(self, key: str) -> str:
        return self._ui.delete(key)

    def add_a_stranger(self, key: str) -> str:
        return self._ui.add(key)

    def wipe(self, asset: str) -> str:
        return self._ui.wipe(asset)

    def launch(self, **what: Any) -> str:
        return launch(self._ui, **what)

    def backfill(self, assets: Sequence[str], keys: Sequence[str]) -> str:
        return self._ui.backfill(assets, keys)

    def look(self) -> str:
        shown = {stage: self._ui.statuses(stage) for stage in STAGES}
        return " ".join(f"{len(s.green)}+{len(s.red)}-{len(s.under_way)}?" for s in shown.values())

    def daemon(self, on: bool) -> str:
        self._daemon.switch(on)
        self._daemon_on = on
        return "on" if on else "off"

    # -- others in the instance, and what does not come to its end ---------------------------------------

    def other_workspace(self, key: str) -> str:
        result = da.curate(
            self._other.folder, workspace=self._workspace.with_name("ws-of-others"), progress=False, **OPTIONS
        )
        return f"{result.summary['shards']} shards"

    def kill(self, what: str, arguments: dict[str, Any], after: int) -> str:
        return self._apart(what, arguments, after, deadly=True)

    def cancel(self, what: str, arguments: dict[str, Any], after: int) -> str:
        return self._apart(what, arguments, after, deadly=False)

    def _apart(self, what: str, arguments: dict[str, Any], after: int, deadly: bool) -> str:
        """Do an operation in a separate process that is killed or interrupted at a moment of its work."""
        run_id = ""
        if what == "launch":
            run_id = launch(self._ui, **arguments)
            if len(run_id.split()) != 1 or not self._ui.instance.get_run_by_id(run_id):
                return run_id
            if isinstance(self._ui, RealUi):
                return self._ui.end(run_id, after * 0.05, deadly, self._daemon_on)
        log = self._workspace.with_name("child.log")
        log.write_text("")
        home = Path(os.environ["DAGSTER_HOME"])
        code = self._start(
            interrupted, what, arguments, run_id, self._workspace, self._world.folder, home, after, deadly, log
        )
        if code is None:
            raise AssertionError(f"{what} {arguments} did not end: {log.read_text()}")
        said = log.read_text()
        if "Traceback" in said:
            raise AssertionError(said)
        return f"exit {code}: {said.strip()}"


def act(what: str, workspace: Path, folder: Path, arguments: dict[str, Any]) -> str:
    """Run an operation of the command line on a workspace."""
    if what == "curate":
        keys = arguments["keys"]
        sources = [folder] if keys is None else [folder / f"{key}.jsonl" for key in keys]
        result = da.curate(*sources, workspace=workspace, check=False, progress=False)
        if result.failed_checks:
            raise AssertionError(f"checks failed: {result.failed_checks}")
        return f"{len(result.summary['run_ids'])} runs, {result.summary['shards']} shards" + (
            f", failed: {sorted(result.failures)}" if result.failures else ""
        )
    if what == "threshold":
        da.rethreshold(arguments["threshold"], workspace=workspace, progress=False)
    elif what == "retract":
        da.retract(arguments["key"], workspace=workspace, reason=arguments["reason"], progress=False)
    else:
        da.recurate(workspace=workspace, progress=False)
    return "done"


def launch(ui: Ui, job: str, assets: Sequence[str], first: str, last: str) -> str:
    """Launch a job, or a selection of assets, over a range as the UI does."""
    tags = {"dedup-assets/recurate": "true"} if job == "recurate_corpus" else {}
    if job == "selection":
        return ui.launch("__ASSET_JOB", [first, last], assets)
    return ui.launch(job, [first, last], **tags)


# -- in a child --------------------------------------------------------------------------------------


def interrupted(
    what: str,
    arguments: dict[str, Any],
    run_id: str,
    workspace: Path,
    folder: Path,
    home: Path,
    after: int,
    deadly: bool,
    log: Path,
) -> None:
    """Do an operation in this process, and end the process at a moment given by a number."""
    serve(workspace, home)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if what != "launch":
            _count(after, deadly, log, lambda: None)
            log.write_text(log.read_text() + act(what, workspace, folder, arguments))
            return
        with ui_of(home) as ui:
            run = ui.instance.get_run_by_id(run_id)
            assert run is not None

            def canceling() -> None:
                now = ui.instance.get_run_by_id(run_id)
                if now is not None and not now.is_finished:
                    ui.instance.report_run_canceling(now)

            _count(after, deadly, log, canceling)
            ui.instance.launch_run(run_id, ui.context.create_request_context())
            log.write_text(log.read_text() + str(ui.instance.get_run_by_id(run_id).status.value))  # type: ignore[union-attr]
    except KeyboardInterrupt:
        log.write_text(log.read_text() + " interrupted")
    except UnexpectedError:
        log.write_text(traceback.format_exc())
    except DedupError as problem:
        log.write_text(f"{log.read_text()} refused: {' '.join(str(problem).split())[:160]}")
    except BaseException:
        log.write_text(traceback.format_exc())


def _count(after: int, deadly: bool, log: Path, before: Callable[[], None]) -> None:
    """End this process at its n-th durable write: an event of Dagster's, a transaction of the ledger, or a file."""
    left, busy = after, False

    def reached(name: str) -> None:
        nonlocal left, busy
        if busy:
            return
        left -= 1
        if left == 0:
            log.write_text(f"{'killed' if deadly else 'cancelled'} at {name}; ")
            if deadly:
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()
            busy = True
            before()
            busy = False
            os.kill(os.getpid(), signal.SIGINT)

    def around(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def wrapped(*given: Any, **named: Any) -> Any:
            reached(f"before {name}")
            result = inner(*given, **named)
            reached(f"after {name}")
            return result

        setattr(owner, name, wrapped)

    around(SqliteEventLogStorage, "store_event")
    around(SqlEventLogStorage, "store_asset_event")
    around(publish, "sync_folder")
    for name in ("complete", "admit", "add_codebook", "add_generation", "retract_shard", "register", "fail"):
        around(Ledger, name)
