"""Encoders of somebody's own: found, checked, known again by what they compute, and nothing of theirs on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import dedup_assets as da
from dedup_assets import credentials
from dedup_assets.encoder import models
from dedup_assets.encoder.foreign import FOREIGN_TEXTS
from dedup_assets.encoder.models import load_encoder, locate_model
from dedup_assets.errors import DedupError, SettingsError
from dedup_assets_tests.test_readme import fences, read

MODULE = """
import numpy as np

class Letters:
    seen = []
    wide = {wide}
    def encode(self, texts):
        self.seen.append(list(texts))
        return np.array([[t.count(c) + 0.1 for c in "abcdefghijklmnop"[: self.wide]] for t in texts]) ** {power}

class Given(Letters):
    def __init__(self, given):
        self.given = given
    def encode(self, texts):
        if isinstance(self.given, Exception):
            raise self.given
        return self.given(texts) if callable(self.given) else self.given

def fails():
    raise RuntimeError("no model here")

def nothing():
    return 7

number = 5
long = lambda: Given(lambda texts: np.ones((len(texts) + 1, 3)))
nan = lambda: Given(lambda texts: np.full((len(texts), 3), np.nan))
words = lambda: Given(lambda texts: [["a"]] * len(texts))
ragged = lambda: Given(lambda texts: [[1.0], [1.0, 2.0], [3.0]][: len(texts)])
flat = lambda: Given(lambda texts: np.ones(len(texts)))
breaks = lambda: Given(ValueError("the server said 500"))
changing = lambda: Given(lambda texts: np.ones((len(texts), len(texts))))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module of encoders and a shard of four texts, two of them near-copies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(models, "_encoders", {})
    write(tmp_path)
    texts = ["aab ccc", "aab ccd", "pppp ppp ppp", "", "aab ccc"]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "text": t}) + "\n" for n, t in enumerate(texts))
    )
    yield tmp_path
    forget()


def write(folder: Path, power: int = 1, wide: int = 16) -> None:
    (folder / "my_encoders.py").write_text(MODULE.replace("{power}", str(power)).replace("{wide}", str(wide)))


def forget() -> None:
    """As in another process."""
    for name in ("my_encoders", "endpoint"):
        sys.modules.pop(name, None)
    shutil.rmtree("__pycache__", ignore_errors=True)
    models._encoders.clear()


def refused(call: Any) -> str:
    with pytest.raises(DedupError) as caught:
        call()
    assert "\n" not in str(caught.value).strip()
    assert caught.value.__cause__ is None, "what others raise may repeat a key"
    return str(caught.value)


WRONG = {
    "no_such.module:make": "no such module on sys.path or in",
    "my_encoders:absent": "has no attribute 'absent'",
    "my_encoders:number": "is an int. Expected a function",
    "my_encoders:nothing": "gave an int. Expected an object with encode",
    "my_encoders:fails": r"RuntimeError: no model here (my_encoders.py, line",
    "my_encoders:Given": "missing 1 required positional argument: 'given'",
    "my_encoders:long": "of shape (4, 3) and dtype float64 for 3 texts",
    "my_encoders:flat": "of shape (3,)",
    "my_encoders:words": "dtype <U1",
    "my_encoders:ragged": "ValueError",
    "my_encoders:nan": "a vector that is not finite for",
    "my_encoders:breaks": "ValueError: the server said 500 (my_encoders.py, line",
}


def test_what_is_no_encoder_or_gives_no_vectors_is_refused_in_a_line(folder: Path) -> None:
    for name, message in WRONG.items():
        assert message in refused(lambda name=name: load_encoder(locate_model(name)).encode(["a", "b", "c"])), name
    encoder = load_encoder(locate_model("my_encoders:changing"), batch_size=2)
    assert "vectors of 2 and of 1 numbers" in refused(lambda: encoder.encode(["a", "b", "c"]))
    for option, message in (
        ({"pooling": "cls"}, "--pooling"),
        ({"max_length": 9}, "--max-length"),
        ({"precision": "bfloat16"}, "--precision"),
        ({"truncate_dim": 17}, "have 16 numbers"),
        ({"prompt": "query"}, "has no prompt 'query'. Its prompts: none"),
    ):
        assert message in refused(lambda option=option: load_encoder(locate_model("my_encoders:Letters"), **option))
    assert "Only models of the hub have revisions" in refused(lambda: locate_model("my_encoders:Letters", "main"))
    assert "no static model" in refused(lambda: locate_model("static:my_encoders:Letters"))


def test_texts_come_in_bounded_batches_without_blank_ones_behind_a_prompt_and_cut(folder: Path) -> None:
    encoder = load_encoder(locate_model("my_encoders:Letters"))
    seen = sys.modules["my_encoders"].Letters.seen  # type: ignore[attr-defined]
    texts = [*["abc", " ", ""], *[f"a{n}" for n in range(FOREIGN_TEXTS)]]
    encoded = encoder.encode(texts)
    assert [len(part) for part in seen] == [FOREIGN_TEXTS, 1] and not {"", " "} & {t for part in seen for t in part}
    assert encoded.unknown.tolist() == [0, 1, 1] + [0] * FOREIGN_TEXTS and not encoded.vectors[1:3].any()
    assert np.allclose(np.linalg.norm(encoded.vectors[[0, *range(3, 515)]], axis=1), 1, atol=1e-6)
    del seen[:]
    load_encoder(locate_model("my_encoders:Letters"), batch_size=2, prompt="p: ", truncate_dim=3).encode(["a", "", "b"])
    assert [part for part in seen if part[0].startswith("p: ")] == [["p: a", "p: "], ["p: b"]]
    short = load_encoder(locate_model("my_encoders:Letters"), truncate_dim=3).encode(["aab"]).vectors
    assert np.allclose(short, np.array([[2.1, 1.1, 0.1]]) / np.linalg.norm([2.1, 1.1, 0.1]))


def test_a_workspace_goes_on_with_the_same_factory_and_refuses_what_it_has_become(folder: Path) -> None:
    first = da.curate("a.jsonl", workspace="ws", model="my_encoders:Letters", keep_empty=True, threshold=0.9)
    assert [row["id"] for row in first.kept.head()] == ["0", "2", "3"]
    assert first.search("ppp", 1)[0]["id"] == "2"
    forget()
    (folder / "b.jsonl").write_text('{"id": "b", "text": "ppp pppp"}\n')
    write(folder, power=9)
    for call in (lambda: da.curate("b.jsonl", workspace="ws"), lambda: da.open_curation("ws").search("ppp", 1)):
        forget()
        assert re.search("stands for another model now", refused(call))
    write(folder, wide=5)
    forget()
    assert "(16 numbers then, 5 now)" in refused(lambda: da.curate("b.jsonl", workspace="ws"))
    write(folder)
    forget()
    assert da.curate("b.jsonl", workspace="ws").summary["kept"] == 3
    with pytest.raises(SettingsError, match="asked for 'my_encoders:nothing'"):
        da.curate("b.jsonl", workspace="ws", model="my_encoders:nothing")


def test_a_workspace_from_elsewhere_and_a_module_in_another_folder_run_nothing_unasked(folder: Path) -> None:
    da.curate("a.jsonl", workspace="ws", model="my_encoders:Letters")
    shutil.copytree("ws", "copy", symlinks=True)
    other = folder / "other"
    other.mkdir()
    (other / "my_encoders.py").write_text("raise SystemExit('it was run')")
    (folder / "b.jsonl").write_text('{"id": "b", "text": "bbbb"}\n')
    calls = [
        lambda ws: da.curate(folder / "b.jsonl", workspace=ws),
        lambda ws: da.open_curation(ws).search("a", 1),
        lambda ws: da.deduplicate(["a"], against=ws),
    ]
    for call in calls:
        forget()
        assert "nobody asked for on this machine" in refused(lambda call=call: call(folder / "copy"))
        assert "my_encoders" not in sys.modules
    sys.path[:] = [path for path in sys.path if path != str(folder)]
    os.chdir(other)
    for call in calls:
        assert str(other / "my_encoders.py") in refused(lambda call=call: call(folder / "ws"))
    os.chdir(folder)
    assert da.curate("a.jsonl", workspace="copy", model="my_encoders:Letters").summary["kept"] == 4
    assert len(da.open_curation("copy").search("a", 1)) == 1


def test_an_object_is_used_in_memory_and_in_this_process_for_a_workspace(folder: Path) -> None:
    sys.path.append(str(folder))
    import my_encoders  # type: ignore[import-not-found]

    texts = ["aab ccc", "aab ccd", "pppp"]
    expected = da.deduplicate(texts, model="my_encoders:Letters", threshold=0.9, progress=False).selected
    assert da.deduplicate(texts, model=my_encoders.Letters(), threshold=0.9, progress=False).selected == expected
    assert expected == ["aab ccc", "pppp"]
    cut = da.deduplicate(texts, model=my_encoders.Letters(), threshold=0.9, truncate_dim=2, progress=False)
    assert cut.selected == texts[:1], "of a and b alone the third has little, and is like the others"
    encoder = my_encoders.Letters()
    made = da.curate("a.jsonl", workspace="ws", model=encoder, threshold=0.9)
    assert made.summary["kept"] == 2 and made.search("ppp", 1)[0]["id"] == "2"
    assert da.curate(workspace="ws", model=encoder).summary["kept"] == 2
    for more in ({"workers": 2}, {"scheduler": "tcp://127.0.0.1:1"}):
        call = partial(da.curate, "a.jsonl", workspace=f"with-{next(iter(more))}", model=encoder, **more)
        assert "to which no objects are sent" in refused(call)
    code = "import dedup_assets as da; da.open_curation('ws').search('a', 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "is a Python object, which only the process has" in done.stderr
    # Another object of the class is another model: it is compared with the vectors, not with the name.
    other = my_encoders.Letters()
    other.encode = lambda texts: my_encoders.Letters().encode(texts) ** 9
    (folder / "b.jsonl").write_text('{"id": "b", "text": "new"}\n')
    assert "stands for another model now" in refused(lambda: da.curate("b.jsonl", workspace="ws", model=other))
    # A class or function of a module is known by its name.
    da.curate("a.jsonl", workspace="named", model=my_encoders.Letters)
    assert 'model = "my_encoders:Letters"' in Path("named/curation.toml").read_text()
    nameless = type("Nameless", (), {"__module__": "__main__", "encode": None})
    for wrong, message in ((lambda: 1, "no other process can import"), (nameless, "__main__"), (5, "model is an int")):
        assert message in refused(partial(da.curate, "a.jsonl", workspace="x", model=wrong))


def test_no_object_is_pickled_and_workers_import_a_factory_themselves(folder: Path) -> None:
    made = da.curate("a.jsonl", workspace="ws", model="my_encoders:Letters", threshold=0.9, workers=2)
    assert made.summary["kept"] == 2


# -- the example -------------------------------------------------------------------------------------

KEY = "sk-test-0123456789abcdef"


class Endpoint(BaseHTTPRequestHandler):
    """`/v1/embeddings`: the letters of each text, in another order, to who has the key."""

    asked: ClassVar[list[dict[str, Any]]] = []
    status = 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        right = self.path == "/v1/embeddings" and self.headers["Authorization"] == f"Bearer {KEY}"
        status = self.status if right else 401
        rows = [
            {"index": n, "embedding": [text.count(c) + 0.1 for c in "abcp"]} for n, text in enumerate(body["input"])
        ]
        answer = {"data": rows[::-1]} if status == 200 else {"error": f"{KEY} is no key"}
        self.send_response(status, f"not with {KEY}" if status != 200 else None)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{served.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("EMBEDDING_MODEL", "letters")
    monkeypatch.setattr(credentials, "_secrets", set())
    monkeypatch.setattr(Endpoint, "asked", [])
    yield served
    served.shutdown()
    served.server_close()


def test_the_endpoint_of_the_page_is_asked_and_its_key_is_nowhere(
    folder: Path, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = fences(read("dedup_assets/encoder/README.md"), "python")
    assert len([line for line in example.splitlines() if line.strip() and not line.startswith("import")]) <= 10
    (folder / "endpoint.py").write_text(example)
    made = da.curate("a.jsonl", workspace="ws", model="endpoint:Endpoint", threshold=0.9)
    assert made.summary["kept"] == 2 and made.search("pp", 1)[0]["id"] == "2"
    assert {body["model"] for body in Endpoint.asked} == {"letters"}
    (folder / "b.jsonl").write_text('{"id": "b", "text": "bbbb"}\n')
    monkeypatch.setattr(Endpoint, "status", 503)
    for option in ([], ["--verbose"]):
        command = [Path(sys.executable).with_name("dedup-assets"), *option, "curate", "b.jsonl", "--workspace", "ws"]
        done = subprocess.run(command, capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode == 1 and "HTTPError: HTTP Error 503" in said and "endpoint.py, line" in said
        assert KEY not in said and ("Traceback" in said) <= bool(option)
    assert "HTTP Error 503: not with ***" in refused(lambda: da.curate("b.jsonl", workspace="ws"))
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        assert KEY.encode() not in path.read_bytes(), path
    monkeypatch.setattr(Endpoint, "status", 200)
    assert da.curate("b.jsonl", workspace="ws").summary["kept"] == 3, "the same command goes on"
