"""The main calls inside a running event loop: in a real Jupyter kernel, and from an async program, with warnings as
errors."""

from __future__ import annotations

import asyncio
import sys
import warnings
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import dedup_assets as da
from dedup_assets_tests.cli.commands import write_corpus

CALLS = [
    "import warnings; warnings.simplefilter('error')",
    "import dedup_assets as da",
    "result = da.curate('shards', workspace='ws', embedding_column='v')",
    "result",
    "da.rethreshold(0.96, workspace='ws', progress=False)",
    "da.retract('b', workspace='ws')",
    "da.recurate(workspace='ws')",
    "[check.name for check in da.audit(workspace='ws') if not check.passed]",
    "result.kept, result.removed[0], result.pairs['id_a'], result.quarantined.head()",
    "result.explain('a1')",
    # What is forgotten shows when it is collected.
    "import gc; _ = gc.collect()",
]


def run_notebook(folder: Path, cells: list[str]) -> list[list[Any]]:
    """The outputs of each cell, run in a kernel of this interpreter in a folder. Raises where a cell raises."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return [cell.outputs for cell in notebook.cells]


def streams(outputs: list[list[Any]]) -> str:
    """What the cells wrote to standard output and error."""
    return "".join(output.text for each in outputs for output in each if output.output_type == "stream")


def test_the_main_calls_run_in_a_notebook_without_a_warning(tmp_path: Path) -> None:
    write_corpus(tmp_path / "shards")
    outputs = run_notebook(tmp_path, CALLS)
    assert streams(outputs) == ""
    assert outputs[7][0].data["text/plain"] == "[]"
    (progress,) = outputs[2]
    assert "deduplicated_dataset  6/6 records" in progress.data["text/plain"]
    assert progress.data["text/html"].count("<progress value=") == 7
    (shown,) = outputs[3]
    assert len(shown.data["text/plain"].splitlines()) <= 10 and "<td>3</td>" in shown.data["text/html"]
    (explained,) = outputs[9]
    assert "keeper id" in explained.data["text/plain"] and explained.data["text/html"].startswith("<pre")
    assert [output.output_type for output in outputs[4]] == ["execute_result"], "progress=False shows none"


def test_records_in_memory_are_deduplicated_in_a_notebook_with_progress(tmp_path: Path) -> None:
    outputs = run_notebook(
        tmp_path,
        [
            "import warnings; warnings.simplefilter('error')\nimport numpy as np\nimport dedup_assets as da",
            "rows = np.random.default_rng(0).normal(size=(3000, 16)); rows[2000:] = rows[:1000]",
            "result = da.deduplicate(range(3000), vectors=rows, threshold=0.99)",
            "result",
            "result.filtered",
            "da.find_matches(rows, threshold=0.99, progress=False).num_rows",
        ],
    )
    assert streams(outputs) == ""
    (progress,) = outputs[2]
    assert "matching" in progress.data["text/plain"] and "<progress value=" in progress.data["text/html"]
    (shown,) = outputs[3]
    assert "2,000" in shown.data["text/plain"] and "<td>1,000</td>" in shown.data["text/html"]
    assert "1,000 removed records" in outputs[4][0].data["text/html"]
    assert outputs[5][0].data["text/plain"] == "1000"


def test_an_async_program_may_call_too(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    write_corpus(tmp_path / "shards")
    unraisable: list[Any] = []

    async def program() -> int:
        kept = len(da.curate(tmp_path / "shards", workspace=tmp_path / "ws", embedding_column="v").kept)
        assert asyncio.get_running_loop().is_running(), "the caller's own loop is back in its place"
        await asyncio.sleep(0)
        return kept

    before, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert asyncio.run(program()) == 3
    finally:
        sys.unraisablehook = before
    assert not unraisable and not recwarn.list
