"""The command line: a thin layer over `dedup_assets.api` and the look-ups, with a module for each group of commands."""

from __future__ import annotations

import io
import os
import resource
import sys
import traceback

import click

from dedup_assets.cli import curate, look, operate, upkeep
from dedup_assets.errors import VERBOSE, DedupError, first_line
from dedup_assets.other_names import meant_by

LEAST_ADDRESS_SPACE = 4_000_000 * 1024
"""Bytes of address space, most of them never touched, with which the libraries load and start their threads: measured
on two cores, where 3 GB was too little."""

# Libraries that draw bars or warn on standard error would run into ours.
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
    "DAGSTER_DISABLE_TELEMETRY": "1",
}


class _InOrder(click.Group):
    """A group that lists its commands in the order in which users need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dedup-assets")
@click.option("--verbose", is_flag=True, help="Show tracebacks of what failed; may stand behind the command too.")
def main(verbose: bool) -> None:
    """Exact semantic deduplication for text corpora that grow.

    Shard files become a corpus without duplicates, with the reason for every removal. The work is done by
    Dagster assets; `dedup-assets ui` shows them. `dedup-assets COMMAND --help` explains a command.

    \b
    Examples:
      dedup-assets curate shards/ --workspace ws
      dedup-assets pairs --around 0.92 --workspace ws
      dedup-assets threshold 0.92 --workspace ws

    Exit status: 0 done, 1 something failed and is named on standard error, 2 wrong usage, 130 interrupted.
    """


# In the order in which people meet them: `--help` lists them so.
for _command in (
    curate.curate,
    curate.register,
    curate.threshold,
    look.explain,
    look.pairs,
    look.search,
    look.outliers,
    look.sample,
    look.history,
    look.report,
    operate.watch,
    operate.recurate,
    operate.retract,
    upkeep.audit,
    upkeep.maintain,
    upkeep.prune,
    upkeep.sync,
    operate.ui,
):
    main.add_command(_command)


def _naming_what_is_meant(problem: click.NoSuchOption) -> click.UsageError:
    """The error of an unknown option, which suggests the option that has this name in other tools."""
    options = {} if problem.ctx is None else {each.name: each.opts[0] for each in problem.ctx.command.params}
    meant = meant_by(problem.option_name, [name for name in options if name])
    if not meant:
        return problem
    # click itself names only options that are spelt alike.
    return click.UsageError(f"{problem.message} Did you mean {options[meant]!r}?", ctx=problem.ctx)


def run() -> None:
    """Entry point: errors a person can act on are printed without a traceback."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show ≥ is no reason to fail
    _require_address_space()
    arguments = sys.argv[1:]
    verbose = "--verbose" in arguments
    if verbose:
        os.environ[VERBOSE] = "1"
        arguments = [argument for argument in arguments if argument != "--verbose"]
    try:
        main(arguments, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as problem:
        shown = _naming_what_is_meant(problem) if isinstance(problem, click.NoSuchOption) else problem
        shown.show()
        sys.exit(problem.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. What was finished is kept; run the same command to go on.", err=True)
        sys.exit(130)
    except DedupError as problem:
        _show_traceback(verbose)
        click.echo(f"Error: {problem}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of the output has closed it (`| head`). Discard the buffered rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as problem:
        _show_traceback(verbose)
        click.echo(
            f"Error: {type(problem).__name__}: {first_line(problem)}. This is a defect of dedup-assets or of a library "
            "it uses. What was finished is kept; the same command with --verbose shows where it failed.",
            err=True,
        )
        sys.exit(1)


def _require_address_space() -> None:
    """Say in a line what the libraries would end in: below this some of them abort the process."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        click.echo(
            f"Error: this process may use {limit // 2**20} MiB of address space (ulimit -v), and torch, Arrow and "
            f"numba alone need {LEAST_ADDRESS_SPACE // 2**20}. Raise the limit; to bound the memory for data use "
            "--memory-limit.",
            err=True,
        )
        sys.exit(1)


def _show_traceback(verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
