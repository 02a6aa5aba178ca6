"""The promise of `ui`: the seven assets and their partitions are there, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import dedup_assets as da
from dedup_assets.assets.stage import STAGES
from dedup_assets.automation.serve import serve
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.cli.commands import SCRIPT, Call, heed_interrupts, write_corpus, write_jsonl
from dedup_assets_tests.ports import free_port

QUERY = """{ assetNodes { isMaterializable assetKey { path } partitionKeys assetMaterializations { partition } } }"""


def graphql(port: int, query: str) -> Any:
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def processes_with(text: str) -> list[str]:
    """Command lines or environments of running processes that hold a text; none where /proc is not."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            known = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in known and folder.name != str(os.getpid()):
            found.append((folder / "cmdline").read_bytes().decode(errors="replace"))
    return found


def test_the_ui_shows_the_workspace_until_it_is_interrupted(tmp_path: Path, call: Call) -> None:
    shards, ws = write_corpus(tmp_path / "shards"), tmp_path / "ws"
    da.curate(shards / "a.jsonl", workspace=ws, embedding_column="v")
    da.register(shards / "b.jsonl", workspace=ws)
    port = free_port()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        refused = call("ui", "-w", ws, "--port", str(port))
    assert refused.status == 1 and f"Cannot listen on 127.0.0.1:{port}" in refused.err
    assert "Choose another --port" in refused.err

    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*SCRIPT, "ui", "-w", str(ws), "--port", str(port)],
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )
    try:
        until = time.monotonic() + 120
        nodes: list[Any] = []
        while not nodes and time.monotonic() < until:
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5):
                    nodes = graphql(port, QUERY)["data"]["assetNodes"]
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        nodes = [node for node in nodes if node["isMaterializable"]]  # without the sources that stand before them
        assert {node["assetKey"]["path"][-1] for node in nodes} == set(STAGES)
        assert all(node["partitionKeys"] == ["a", "b"] for node in nodes)
        assert all({m["partition"] for m in node["assetMaterializations"]} == {"a"} for node in nodes)
        while "Ctrl-C ends it" not in (tmp_path / "log").read_text() and time.monotonic() < until:
            time.sleep(0.1)
        os.kill(server.pid, signal.SIGINT)
        assert server.wait(timeout=60) == 0
    finally:
        if server.poll() is None:
            server.kill()
    assert f"http://127.0.0.1:{port}" in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
    until = time.monotonic() + 20
    while processes_with(str(ws)) and time.monotonic() < until:
        time.sleep(0.2)
    assert processes_with(str(ws)) == []
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        pass


@pytest.mark.parametrize(
    ("host", "warned"), [("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("localhost", False)]
)
def test_an_address_that_others_reach_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, warned: bool
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt  # before any server starts

    write_jsonl(tmp_path / "s.jsonl", [])
    da.register(tmp_path / "s.jsonl", workspace=tmp_path / "ws")
    monkeypatch.setattr(subprocess, "Popen", interrupted)
    said: list[object] = []
    serve(Workspace.open(tmp_path / "ws"), host, free_port(), said.append)
    assert [str(line).startswith("Warning: the UI has no login.") for line in said] == (
        [True, False] if warned else [False]
    )
