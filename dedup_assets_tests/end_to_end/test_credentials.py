"""Credentials in URLs serve the process that they were named in, and are seen and stored nowhere."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import dedup_assets as da
from dedup_assets.credentials import scrubbed, with_credentials, without_credentials
from dedup_assets.errors import SettingsError, SourceError
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.cli.commands import Call, call  # noqa: F401

USER, PASSWORD, TOKEN = "quentin", "pw%2Fof-quentin", "Tok3nOfQuentin"
SECRETS = (PASSWORD, "pw/of-quentin", TOKEN)
ROWS = [{"id": str(i), "text": f"text {i}", "v": [1.0, float(i)]} for i in range(3)]


class Guarded(BaseHTTPRequestHandler):
    """Gives one file, to those who know the password and the token."""

    def do_GET(self) -> None:
        data = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
        login = "Basic " + base64.b64encode(f"{USER}:pw/of-quentin".encode()).decode()
        if self.headers.get("Authorization") != login or f"token={TOKEN}" not in self.path:
            return self.send_error(403, f"no entry to {self.path}")
        if not self.path.startswith("/corpus.jsonl"):
            return self.send_error(404, f"no {self.path}")
        first, last = 0, len(data) - 1
        if wanted := self.headers.get("Range"):
            first, last = (int(part or last) for part in wanted.removeprefix("bytes=").split("-"))
            last = min(last, len(data) - 1)
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[first : last + 1])
        return None

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def leaks(folder: Path) -> list[tuple[Path, str]]:
    """Files that hold a secret, by their content or their name."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        found += [(path, secret) for secret in SECRETS if secret.encode() in data or secret in str(path)]
    return found


def command(*arguments: object) -> str:
    """What a command says on both streams."""
    done = subprocess.run(
        [Path(sys.executable).with_name("dedup-assets"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "400"},
        timeout=120,
    )
    return done.stdout + done.stderr


def test_no_file_and_no_output_holds_the_credentials_of_a_url(host: str, tmp_path: Path, call: Call) -> None:  # noqa: F811
    ws = tmp_path / "ws"

    def here(*arguments: str) -> str:
        """What a command says in this process, which saves the start of another one."""
        called = call(*arguments, "-w", ws, columns=400)
        return called.out + called.err

    url = f"http://{USER}:{PASSWORD}@{host}/corpus.jsonl?token={TOKEN}&v=1"
    said = command("curate", url, "-w", ws, "--embedding-column", "v", "--json")
    assert json.loads(said.splitlines()[-1])["kept"] == 3, said
    (shard,) = Workspace.open(ws).ledger.shards()
    assert (shard.key, shard.uri) == ("corpus", f"http://***@{host}/corpus.jsonl?***")
    # Another process does not know them: what is read stays, and what would be read again says so.
    said += command("curate", "-w", ws, "--verbose")
    for words in (["history", "corpus"], ["explain", "1"], ["report"], ["audit"]):
        said += here(*words)
    for wrong in (url.replace(f"token={TOKEN}", f"token=x{TOKEN}"), url.replace("corpus", "other")):
        failed = here("curate", wrong, "--verbose")
        assert "Error: " in failed and "***" in failed
        said += failed
    said += here("watch", url)
    assert "holds credentials" in said
    assert not any(secret in said for secret in SECRETS), said
    assert leaks(tmp_path) == []


def test_a_shard_whose_credentials_are_forgotten_says_so_and_is_read_once_they_are_named(
    host: str, tmp_path: Path
) -> None:
    url = f"http://{USER}:{PASSWORD}@{host}/corpus.jsonl?token={TOKEN}"
    command("register", url, "-w", tmp_path / "ws", "--embedding-column", "v")
    said = command("curate", "-w", tmp_path / "ws")
    assert "was named with credentials, which are stored nowhere" in said
    assert da.curate(url, workspace=tmp_path / "ws", progress=False).summary["kept"] == 3
    assert leaks(tmp_path) == []
    with pytest.raises(SourceError, match=r"differ only .*127.0.0.1:\d+/corpus.jsonl\?\*\*\*"):
        da.curate(url, url + "2", workspace=tmp_path / "ws")
    with pytest.raises(SettingsError, match="holds credentials"):
        da.curate(workspace=tmp_path / "ws", sources=[url])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a.jsonl", "https://host/a.jsonl"),
        ("https://host/a.jsonl?sig=abcd", "https://host/a.jsonl?***"),
        ("https://token@host/a.jsonl", "https://***@host/a.jsonl"),
        ("ftp://me@host/a.jsonl", "ftp://me@host/a.jsonl"),
        ("sftp://me:word@host/a.jsonl", "sftp://***@host/a.jsonl"),
        ("zip://a.jsonl::https://me:word@host/a.zip?x=1", "zip://a.jsonl::https://***@host/a.zip?***"),
        ("s3://bucket/part-?.parquet", "s3://bucket/part-?.parquet"),
        ("s3://bucket/a.parquet?X-Amz-Signature=12", "s3://bucket/a.parquet?***"),
        ("abfs://container@account.dfs.core.windows.net/a", "abfs://container@account.dfs.core.windows.net/a"),
        ("github://org:repo@main/a.jsonl", "github://org:repo@main/a.jsonl"),
        ("/a/b?c=d", "/a/b?c=d"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert without_credentials(url) == shown == without_credentials(shown)
    assert with_credentials(shown) == url
    assert url == shown or scrubbed(f"error at {url}") != f"error at {url}"


def test_a_new_workspace_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    before = os.umask(0o002)
    try:
        da.register(tmp_path / "a.jsonl", workspace=tmp_path / "new" / "ws", embedding_column="v")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "ws").stat().st_mode) == 0o700
