"""Promises of `curate`, `register` and `threshold` to people and to scripts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from dedup_assets import api
from dedup_assets.assets.stage import STAGES
from dedup_assets.cli import main
from dedup_assets.settings import Settings
from dedup_assets_tests.cli.commands import (
    SCRIPT,
    Call,
    heed_interrupts,
    on_a_terminal,
    published,
    write_corpus,
    write_jsonl,
)

KEYS = {
    *("shards", "rows_in", "kept", "removed_exact", "removed_semantic", "quarantined", "texts_over_window"),
    "texts_not_understood",
    "reference",
    *(
        "threshold",
        "stages",
        "overhead_seconds",
        "output",
        "workspace",
        "run_ids",
        "failures",
        "failed_checks",
        "unread",
        "moved",
    ),
    "quarantined_by_reason",
}


def test_a_growing_folder_is_curated_call_by_call(tmp_path: Path, call: Call) -> None:
    shards, ws = write_corpus(tmp_path / "shards"), tmp_path / "ws"

    first = call("curate", shards, "-w", ws, "--embedding-column", "v", "--json")
    assert (first.status, first.err) == (0, "")
    summary = first.json()
    assert set(summary) == KEYS
    counts = [summary[name] for name in ("shards", "rows_in", "kept", "removed_exact", "removed_semantic")]
    assert counts == [2, 8, 3, 1, 2] and summary["quarantined"] == 2
    assert list(summary["stages"]) == list(STAGES)
    assert all(set(stage) == {"seconds", "rows"} for stage in summary["stages"].values())
    assert summary["stages"]["embeddings"]["rows"] == 6
    assert summary["output"] == str(ws / "output") and summary["failures"] == {}
    before = published(ws)

    again = call("curate", shards, "-w", ws)
    assert (again.status, again.err) == (0, "")
    assert re.search(r"rows in +8 *\n", again.out) and re.search(r"kept +3 +37\.5 %", again.out)
    assert "2 shards published; nothing was left to do" in again.out
    assert published(ws) == before

    write_jsonl(shards / "c.jsonl", [{"id": "c0", "text": "like the first again", "v": [1.0, 0.05, 0.0]}])
    grown = call("curate", shards, "-w", ws, "--json").json()
    assert (grown["shards"], grown["removed_semantic"]) == (3, 3)
    assert grown["stages"]["raw_shards"]["rows"] == 1, "what was finished is not touched again"
    after = published(ws)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: content for name, content in before.items() if name != "manifest.json"
    }


def test_a_threshold_moves_decisions_without_new_matches(tmp_path: Path, call: Call) -> None:
    shards, ws = write_corpus(tmp_path / "shards"), tmp_path / "ws"
    registered = call("register", shards, "-w", ws, "--embedding-column", "v", "--json")
    assert registered.json() == {"registered": ["a", "b"]}
    assert call("register", shards, "-w", ws).out == "0 new shards registered.\n"
    assert call("curate", "-w", ws).status == 0, "without sources, what is registered is finished"

    moved = call("threshold", "0.97", "-w", ws, "--json").json()
    assert (moved["kept"], moved["removed_semantic"], moved["threshold"]) == (4, 1, 0.97)
    assert moved["stages"]["pairwise_similarities"]["rows"] == moved["stages"]["embeddings"]["rows"] == 0
    assert list((ws / "output" / "changes").glob("*.parquet"))
    assert "removed, similarity ≥ 0.97" in call("curate", "-w", ws).out, "the threshold is kept for later calls"

    for refused in (call("threshold", "0.5", "-w", ws), call("curate", "-w", ws, "--eps", "0.5")):
        assert (refused.status, refused.out) == (1, "")
        assert "threshold 0.5 lies below the floor 0.9" in refused.err and "new workspace" in refused.err
    for options in (["--text-column", "body"], ["--floor", "0.8"], ["--keep-empty"], ["--embedding-column", "w"]):
        refused = call("curate", "-w", ws, *options)
        assert (refused.status, refused.out) == (1, "")
        assert "was made under other settings" in refused.err and "curate into a new workspace" in refused.err


def test_a_failed_shard_is_named_and_the_others_are_finished(tmp_path: Path, call: Call) -> None:
    shards, ws = write_corpus(tmp_path / "shards"), tmp_path / "ws"
    (shards / "aa.parquet").write_bytes(b"PAR1 and no more")
    failed = call("curate", shards, "-w", ws, "--embedding-column", "v", "--json")
    assert failed.status == 1
    summary = failed.json()
    assert summary["shards"] == 2 and list(summary["failures"]) == ["aa"]
    assert "aa.parquet" in summary["failures"]["aa"] and "cannot be read as parquet" in summary["failures"]["aa"]
    assert "Failed: aa: " in failed.err and "Error: 1 shard failed, all others are finished." in failed.err
    assert "Traceback" not in failed.err

    write_jsonl(shards / "aa.jsonl", [])
    (shards / "aa.parquet").unlink()
    # Nothing was ever read of the one that failed: it does not keep its name from the file that can be read.
    assert call("curate", shards, "-w", ws).status == 0


NOISY = """
import os
from dedup_assets.terminal.live import live_progress
with live_progress() as bars:
    assert type(bars).__name__ == "Notes"
    print("from Python")
    os.write(1, b"from compiled code\\n")
    os.system("echo from a child")
print("{}")
"""


def test_what_libraries_print_never_reaches_standard_output() -> None:
    called = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True, check=True)
    assert called.stdout == "{}\n"
    assert sorted(called.stderr.splitlines()) == ["from Python", "from a child", "from compiled code"]


def test_every_setting_has_an_option_and_every_command_a_page_with_an_example() -> None:
    options = {parameter.name for parameter in main.commands["curate"].params}
    arrival = set(Settings().layer("arrival"))
    assert set(Settings().__dataclass_fields__) - arrival <= options
    # How shards arrive by themselves is for `watch`; what hardly anybody changes is in curation.toml alone.
    watching = {parameter.name for parameter in main.commands["watch"].params}
    assert arrival - watching == {"reference_sources", "vanished_shards", "shards_per_run"}
    for name, command in main.commands.items():
        page = CliRunner().invoke(main, [name, "--help"], terminal_width=80).output
        assert re.search(r"Examples?:\n +dedup-assets ", page), name
        assert command.short_help and len(command.short_help) <= 64, "fits the list of commands on 80 columns"
        for parameter in command.params:
            assert getattr(parameter, "help", None) != "", (name, parameter.name)


def test_help_is_shown_at_once() -> None:
    code = "import sys; from dedup_assets.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"dagster", "torch", "numpy", "pyarrow", "lancedb"} & set(loaded.split())


# -- the terminal ------------------------------------------------------------------------------------

STAGED = """
import os, time
from dedup_assets.terminal.live import live_progress
with live_progress() as bars:
    bars.stage_started("raw_shards")
    bars.stage_total("raw_shards", 10, "shards")
    terminal = os.dup(2)
    captured = os.open(os.devnull, os.O_WRONLY)
    os.dup2(captured, 2)  # as Dagster does for the time of a step
    for _ in range(10):
        bars.stage_advanced("raw_shards", 1)
        time.sleep(0.15)
    os.dup2(terminal, 2)
    os.close(terminal)
    os.write(2, b"a warning of some library\\n")
    os.write(1, b"printed \\x1b[2J by another\\n")
    time.sleep(0.3)
    bars.stage_finished("raw_shards")
print("the result")
"""


@pytest.mark.parametrize("columns", [40, 100])
def test_bars_move_during_a_step_and_other_lines_stand_above_them(columns: int) -> None:
    received = on_a_terminal(STAGED, columns)
    counts = set(re.findall(r"(\d+)/10", received))
    assert len(counts) >= 4 and "10" in counts, "drawn again and again while standard error is captured"
    assert "starting" in received
    # What a line shows is what was written after it was last cleared.
    shown = [line.split("\x1b[2K")[-1] for line in received.split("\n")]
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", line).rstrip() for line in shown]
    assert "a warning of some library" in lines
    assert r"printed \x1b[2J by another" in lines
    assert lines[-2:] == ["the result", ""]
    assert all(len(line) <= columns for line in lines)


def test_ctrl_c_ends_with_a_message_and_the_same_command_goes_on(tmp_path: Path, call: Call) -> None:
    shards = tmp_path / "shards"
    for number in range(24):
        row = {"id": f"r{number}", "text": f"text {number}", "v": [1.0, number / 40, (number % 7) / 3]}
        write_jsonl(shards / f"s{number:02}.jsonl", [row])
    arguments = ["curate", str(shards), "--embedding-column", "v", "--json", "-w"]
    ws = tmp_path / "ws"
    process = subprocess.Popen(
        [*SCRIPT, *arguments, str(ws)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    until = time.monotonic() + 60
    while not (ws / "raw").is_dir() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.strip() == "Interrupted. What was finished is kept; run the same command to go on."
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)

    resumed = call(*arguments, ws)
    assert (resumed.status, resumed.json()["shards"]) == (0, 24)
    call(*arguments, tmp_path / "undisturbed")
    assert published(ws) == published(tmp_path / "undisturbed")


def test_output_that_nobody_reads_on_is_no_error(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "text": f"{i} " + "x" * 5000, "v": [1.0, i / 1000]} for i in range(40)]
    api.curate(write_jsonl(tmp_path / "s.jsonl", rows), workspace=tmp_path / "ws", embedding_column="v")
    process = subprocess.Popen(
        [*SCRIPT, "pairs", "-n", "200", "--full", "-w", str(tmp_path / "ws")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(timeout=60)


def test_the_summary_in_json_is_what_python_gets(tmp_path: Path, call: Call) -> None:
    shards = write_corpus(tmp_path / "shards")
    given = call("curate", shards, "-w", tmp_path / "ws", "--embedding-column", "v", "--json").json()
    opened = api.open_curation(tmp_path / "ws").summary
    assert {name: given[name] for name in opened} == dict(opened)
