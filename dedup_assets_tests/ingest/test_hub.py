"""Data sets on the Hugging Face Hub, by `hf://` URLs: a small server stands for the hub."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import HfFileSystem, constants

from dedup_assets.errors import SourceError
from dedup_assets.ingest.listing import list_source
from dedup_assets.ingest.readers import read_shard
from dedup_assets.ingest.source_files import file_state
from dedup_assets.ingest.sources import discover

Revisions = dict[str, dict[str, bytes]]


class Hub(BaseHTTPRequestHandler):
    """What `HfFileSystem` asks for: whether a revision is there, its tree, and ranges of its files."""

    revisions: ClassVar[Revisions] = {}

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        parts = re.fullmatch(
            r"(?:/api)?/datasets/org/name(?:/(revision|tree|resolve)/([^/]+)/?(.*))?", unquote(address.path)
        )
        if parts is None:
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
        what, revision, path = parts.groups()
        files = self.revisions.get(revision or "main")
        if files is None:
            return self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
        if what == "tree":
            whole = parse_qs(address.query).get("recursive", ["False"])[0].lower() == "true"
            return self.tree(files, f"{path}/" if path else "", whole)
        if what == "resolve":
            found = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("range") or "")
            data = files[path]
            if found is not None:
                return self.answer(206, data[int(found[1]) : int(found[2]) + 1])
            return self.answer(200, data)
        return self.answer(200, json.dumps({"id": "org/name", "sha": "0" * 40, "siblings": []}).encode())

    def tree(self, files: dict[str, bytes], root: str, whole: bool) -> None:
        below = {name: data for name, data in files.items() if name.startswith(root)}
        if not below:
            return self.answer(404, b"{}", X_Error_Code="EntryNotFound")
        folders = {root + name[len(root) :].split("/")[0] for name in below if "/" in name[len(root) :]}
        told = [{"type": "directory", "path": folder, "size": 0, "oid": "0"} for folder in sorted(folders)]
        told += [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in below.items()
            if whole or "/" not in name[len(root) :]
        ]
        return self.answer(200, json.dumps(told).encode())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Revisions]:
    """The revisions of the data set org/name, to be changed."""
    main = {"data/train-0.jsonl": b'{"text": "a"}\n', "data/test-0.jsonl": b'{"text": "b"}\n', "README.md": b"x"}
    Hub.revisions = {"main": main, "v1": {"data/train-0.jsonl": b'{"text": "c"}\n'}}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    here = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + "/{repo_id}/resolve/{revision}/{filename}")
    HfFileSystem.clear_instance_cache()
    yield Hub.revisions
    HfFileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def texts(url: str) -> dict[str, list[str]]:
    return {
        file.uri: [text for batch in read_shard(file).batches for text in batch.table["text"].to_pylist()]
        for file in discover([url])
    }


def test_folders_globs_and_files_of_the_hub_are_read_at_the_revision_that_is_named(hub: Revisions) -> None:
    base = "hf://datasets/org/name"
    both = {f"{base}/data/test-0.jsonl": ["b"], f"{base}/data/train-0.jsonl": ["a"]}
    assert texts(base) == texts(f"{base}/data") == texts(f"{base}/data/*.jsonl") == both
    assert texts(f"{base}/data/test-0.jsonl") == {f"{base}/data/test-0.jsonl": ["b"]}
    old = {f"{base}@v1/data/train-0.jsonl": ["c"]}
    assert texts(f"{base}@v1") == texts(f"{base}@v1/data/*.jsonl") == texts(f"{base}@v1/data/train-0.jsonl") == old
    assert [(file.name, file.reason) for file in list_source(base).unread] == [("README.md", "unknown ending")]
    for url in (f"{base}@v2", f"{base}/data/none.jsonl", "hf://datasets/org/none"):
        with pytest.raises(SourceError, match="does not exist"):
            discover([url])


def test_a_change_on_the_hub_is_seen_by_a_process_that_goes_on(hub: Revisions) -> None:
    """New files, and files of the same size with other content."""
    base = "hf://datasets/org/name/data"

    def marks() -> dict[str, str]:
        found = {file.name: file_state(file.uri, file.info).marks for file in list_source(base).files}
        assert found == {name: file_state(f"{base}/{name}").marks for name in found}
        return found

    before = marks()
    hub["main"]["data/test-0.jsonl"] = b'{"text": "z"}\n'
    hub["main"]["data/test-1.jsonl"] = b'{"text": "y"}\n'
    after = marks()
    assert list(after) == ["test-0.jsonl", "test-1.jsonl", "train-0.jsonl"]
    assert [name for name in before if before[name] != after[name]] == ["test-0.jsonl"]
