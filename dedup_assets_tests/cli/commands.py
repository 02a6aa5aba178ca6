"""Calls the command line in this process, and writes small shards with vectors."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dedup_assets import cli
from dedup_assets.errors import VERBOSE

SCRIPT = [sys.executable, "-c", "from dedup_assets.cli import run; run()"]
"""The command as a separate process; its start takes seconds, so most tests call it in their own process."""

CORPUS = [
    [
        {"id": "a0", "text": "the first text", "v": [1.0, 0.0, 0.0]},
        {"id": "a1", "text": "very like the first", "v": [1.0, 0.1, 0.0]},
        {"id": "a2", "text": "something else", "v": [0.0, 1.0, 0.0]},
        {"id": "a3", "text": "  ", "v": [0.0, 0.0, 1.0]},
    ],
    [
        {"id": "b0", "text": "the first text", "v": [1.0, 0.0, 0.0]},
        {"id": "b1", "text": "a third thing", "v": [0.0, 0.0, 1.0]},
        {"id": "b2", "text": "rather like the third thing", "v": [0.3, 0.0, 1.0]},
        {"id": "b1", "text": "an id that is taken", "v": [1.0, 1.0, 1.0]},
    ],
]
"""At 0.95: kept a0, a2, b1; removed a1 (0.995), b0 (exact), b2 (0.958); quarantined a3 and the second b1."""


@dataclass
class Called:
    """The outcome of a call."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON value that is all of standard output."""
        assert self.out.endswith("\n") and self.out.count("\n") == 1, self.out
        return json.loads(self.out)


Call = Callable[..., Called]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call `dedup-assets` with arguments, on a terminal of some width."""

    def called(*arguments: str | Path, columns: int = 100) -> Called:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv(VERBOSE, "")  # `--verbose` sets it for the process, which runs other tests afterwards
        monkeypatch.setattr(sys, "argv", ["dedup-assets", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            cli.run()
        except SystemExit as end:
            status = int(end.code or 0)
        return Called(status, *capfd.readouterr())

    return called


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A JSON lines shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_corpus(folder: Path) -> Path:
    """The corpus above as two shards, `a` and `b`."""
    for name, rows in zip("ab", CORPUS, strict=True):
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def published(workspace: Path) -> dict[str, bytes]:
    """Every file of the current generation by its relative path."""
    current = (workspace / "output" / "current").resolve()
    return {str(path.relative_to(current)): path.read_bytes() for path in current.rglob("*") if path.is_file()}


def heed_interrupts() -> None:
    """For a child that will be interrupted: a shell starts background processes with Ctrl-C ignored, and children
    inherit ignored signals."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def on_a_terminal(code: str, columns: int) -> str:
    """The output of a Python program on a terminal of some width."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        os.execve(sys.executable, [sys.executable, "-c", code], {**environment, "TERM": "xterm"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    received = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            received += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", received.decode())
