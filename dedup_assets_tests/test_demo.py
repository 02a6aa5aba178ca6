"""The demo corpus is real, spread over packages, the same each time, and never changes under a workspace."""

import gzip
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from dedup_assets import demo
from dedup_assets.errors import SourceError, WorkspaceError

LIMIT = 300


@pytest.fixture(scope="module")
def records() -> list[dict]:
    return list(demo.gather_docstrings(LIMIT))


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode("utf-8").splitlines()]


def install(site: Path, files: dict[str, str]) -> None:
    """Lay out an installed distribution as pip does: sources and a RECORD that lists them."""
    for name, source in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(source, encoding="utf-8")
    info = site / "fixture_package-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fixture-package\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))


@pytest.fixture
def only_fixture_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter without a standard library and with one empty folder of packages."""
    (tmp_path / "lib").mkdir()
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.setattr(demo.sysconfig, "get_path", lambda name: str(tmp_path / "lib"))
    monkeypatch.setattr(sys, "path", [str(site)])
    return site


def test_the_limit_is_met_with_unique_ids_and_real_text(records: list[dict]) -> None:
    assert len(records) == LIMIT
    assert len({record["id"] for record in records}) == LIMIT
    for record in records:
        assert set(record) == {"id", "text", "package", "kind", "line"}
        assert len(record["text"]) >= demo.MIN_CHARACTERS
        assert record["text"] == record["text"].strip()
        assert record["kind"] in {"module", "class", "function"}
        assert record["id"].startswith(record["package"])
        assert record["line"] >= 1


def test_a_small_corpus_is_spread_over_packages(records: list[dict]) -> None:
    packages = Counter(record["package"] for record in records)
    assert len(packages) >= 15
    assert max(packages.values()) <= LIMIT / 3
    assert [record["package"] for record in records] == sorted(record["package"] for record in records)


def test_gathering_again_gives_the_same_records(
    records: list[dict], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "here.py").write_text('"""A module of the working folder, which is not installed."""')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(demo.gather_docstrings(LIMIT)) == records


def test_gathering_imports_nothing(records: list[dict]) -> None:
    before = set(sys.modules)
    list(demo.gather_docstrings(50))
    assert set(sys.modules) == before


def test_every_definition_is_found_where_it_stands(only_fixture_package: Path) -> None:
    source = '''"""The docstring of the module."""
import sys

if sys.version_info >= (3, 11):
    def chosen():
        """The docstring of the first arm."""
else:
    def chosen():
        """The docstring of the second arm."""

class Outer:
    """
    The docstring of the class,
        with an indented line.
    """
    async def method(self):
        """The docstring of the method."""
        def inner():
            """The docstring of the inner function."""
    def short(self):
        """Too short."""
'''
    install(only_fixture_package, {"fixture/__init__.py": "", "fixture/module.py": source})
    found = {record["id"]: record for record in demo.gather_docstrings(100)}
    assert {name: (record["kind"], record["line"]) for name, record in found.items()} == {
        "fixture.module:__doc__": ("module", 1),
        "fixture.module:chosen": ("function", 5),
        "fixture.module:chosen#2": ("function", 8),
        "fixture.module:Outer": ("class", 11),
        "fixture.module:Outer.method": ("function", 16),
        "fixture.module:Outer.method.inner": ("function", 18),
    }
    assert found["fixture.module:Outer"]["text"] == "The docstring of the class,\n    with an indented line."


def test_files_that_do_not_parse_are_skipped(only_fixture_package: Path) -> None:
    good = '"""A docstring that can be read."""'
    install(
        only_fixture_package,
        {
            "fixture/good.py": good,
            "fixture/broken.py": "def f(:\n",
            "fixture/nul.py": good + "\0",
            "fixture/surrogate.py": '"""A docstring with half a character: \\ud800."""',
            "fixture/not-a-module.py": good,
            "../../bin/script.py": good,
            "fixture/data.txt": good,
        },
    )
    (only_fixture_package / "fixture" / "latin.py").write_bytes(b'"""No coding line, not UTF-8: \xe9\xe8."""')
    (only_fixture_package / "fixture_package-1.0.dist-info" / "RECORD").open("a").write(
        "fixture/latin.py,,\nfixture/missing.py,,\n"
    )
    assert [record["id"] for record in demo.gather_docstrings(10)] == ["fixture.good:__doc__"]


def test_shards_hold_the_corpus_in_order_and_keep_duplicates(only_fixture_package: Path) -> None:
    template = 'def f():\n    """The same docstring in every module."""\n'
    install(only_fixture_package, {f"fixture/m{n:02d}.py": template for n in range(25)})
    shards = demo.write_demo_corpus(only_fixture_package.parent / "corpus", limit=20, shards=3)
    assert [file.name for file in shards] == [f"docstrings-{n:02d}.jsonl.gz" for n in range(3)]
    lines = [line for file in shards for line in read_lines(file)]
    assert lines == list(demo.gather_docstrings(20))
    assert len(lines) == 20
    assert len({line["text"] for line in lines}) == 1


def test_the_same_installation_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = [
        [hashlib.sha256(file.read_bytes()).hexdigest() for file in demo.write_demo_corpus(tmp_path / name, 60, 2)]
        for name in ("one", "two")
    ]
    assert digests[0] == digests[1]


def test_a_finished_corpus_is_reused_after_packages_were_installed(only_fixture_package: Path) -> None:
    folder = only_fixture_package.parent / "corpus"
    install(only_fixture_package, {"fixture/one.py": '"""The first installed module."""'})
    shards = demo.write_demo_corpus(folder, limit=10, shards=2)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    install(
        only_fixture_package,
        {
            "fixture/one.py": '"""The first module, changed."""',
            "fixture/two.py": '"""Another installed module."""',
        },
    )
    assert demo.write_demo_corpus(folder, limit=10, shards=2) == shards
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert len(read_lines(shards[0])) == 1


def test_an_unfinished_corpus_is_written_again_from_scratch(only_fixture_package: Path) -> None:
    folder = only_fixture_package.parent / "corpus"
    folder.mkdir()
    (folder / "docstrings-00.jsonl.gz").write_bytes(b"half")
    (folder / "docstrings-05.jsonl.gz.77.partial").write_bytes(b"half")
    install(only_fixture_package, {"fixture/one.py": '"""The first installed module."""'})
    shards = demo.write_demo_corpus(folder, limit=10)
    assert sorted(file.name for file in folder.iterdir()) == [demo.COMPLETION_FILE, shards[0].name]
    assert read_lines(shards[0])[0]["text"] == "The first installed module."
    shards[0].unlink()
    assert demo.write_demo_corpus(folder, limit=10) == shards
    assert shards[0].is_file()


def test_another_limit_in_the_same_folder_is_refused(only_fixture_package: Path) -> None:
    folder = only_fixture_package.parent / "corpus"
    install(only_fixture_package, {"fixture/one.py": '"""The first installed module."""'})
    demo.write_demo_corpus(folder, limit=10)
    with pytest.raises(WorkspaceError, match="10 docstrings in 6 shards; 11 in 6 were asked for"):
        demo.write_demo_corpus(folder, limit=11)


def test_nothing_to_gather_is_an_error_that_says_so(only_fixture_package: Path) -> None:
    with pytest.raises(SourceError, match="The demo corpus is empty"):
        demo.write_demo_corpus(only_fixture_package.parent / "corpus")
    with pytest.raises(SourceError, match="at least 1, got 0"):
        list(demo.gather_docstrings(0))
    with pytest.raises(SourceError, match="at least 1 shard, got 0"):
        demo.write_demo_corpus(only_fixture_package.parent / "corpus", shards=0)
