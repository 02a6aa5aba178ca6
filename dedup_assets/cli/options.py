"""Options shared by several commands, and the output of JSON answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dedup_assets.settings import DECLARED

WORKSPACE_VARIABLE = "DEDUP_ASSETS_WORKSPACE"
DEFAULT_WORKSPACE = "dedup-workspace"


Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

workspace_option: Decorator = click.option(
    "--workspace",
    "-w",
    type=click.Path(file_okay=False),
    default=DEFAULT_WORKSPACE,
    envvar=WORKSPACE_VARIABLE,
    show_default=True,
    show_envvar=True,
    help="Folder of the workspace.",
)
json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="One JSON value on standard output, nothing else."
)
reference_option: Decorator = click.option(
    "--reference", is_flag=True, help="Records that match SOURCE are removed; SOURCE itself is never written out."
)
full_option: Decorator = click.option("--full", is_flag=True, help="Show long texts whole.")

_AFTER: dict[str, tuple[Decorator, ...]] = {
    "threshold": (click.option("--eps", type=float, help="The same as 1 - threshold; give one of the two."),),
    "model": (click.option("--exact-only", is_flag=True, default=None, help="No model: only exact copies go."),),
}
"""Options that are other ways to give a setting, shown after it."""

_METAVARS = {
    "guards": "GUARD",
    "keep": "RULE",
    "max_quarantined": "SHARE",
    "max_unknown": "SHARE",
    "memory_limit": "SIZE",
    "scheduler": "ADDRESS",
    "worker_timeout": "SECONDS",
}
_NO_OPTION = {
    *("sources", "reference_sources", "watch_seconds", "recurate_cron"),  # `watch` alone names them
    *("shards_per_run", "vanished_shards"),  # hardly anybody changes them
}


def setting_option(name: str, option: str = "", metavar: str | None = None, omitted: str = "") -> Decorator:
    """The option of a setting, made from its declaration; its value is None if it is not given. `omitted` is shown as
    the default where that is another than of the setting."""
    setting = DECLARED[name]
    kind = type(setting.default)
    sentence = setting.comment.partition(". ")[0].removesuffix(".")
    empty = "not given" if setting.default else {int: "0", bool: "false"}.get(kind, "empty")
    words, _, default = sentence.partition(f"; {empty}: ")
    option = option or f"--{name.replace('_', '-')}"
    more: dict[str, Any] = {"type": kind, "metavar": metavar or _METAVARS.get(name)}
    if kind is bool:
        more = {"is_flag": True, "default": None}
        if setting.layer in ("decisions", "arrival"):  # kept for later calls, and may change
            option += f"/--no-{option.removeprefix('--')}"
    elif kind is tuple:
        option, default = option.removesuffix("s"), default or ", ".join(setting.default)
        more = {"multiple": True, "metavar": more["metavar"]}
        words += " (repeat the option)"
    elif setting.choices:
        more["type"] = click.Choice(setting.choices)
    elif name == "output":
        more["type"] = click.Path(file_okay=False)
    elif kind is int:
        more["type"] = click.IntRange(min=1 if default else setting.bounds["ge"])
    elif "ge" in setting.bounds:
        more["type"] = click.FloatRange(setting.bounds["ge"], setting.bounds["le"])
    return click.option(option, name, help=f"{words}.  [default: {omitted or default or setting.default}]", **more)


def settings_options(command: Command) -> Command:
    """The options that become settings, what is decided first."""
    order = ("decisions", "matches", "vectors", "arrival", "cost")
    options = []
    for setting in sorted(DECLARED.values(), key=lambda setting: order.index(setting.layer)):
        if setting.name not in _NO_OPTION:
            options += [setting_option(setting.name), *_AFTER.get(setting.name, ())]
    for option in reversed(options):
        command = option(command)
    return command


def given_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Options as settings: those not given are left out, paths are made absolute."""
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if "output" in given:
        given["output"] = str(Path(given["output"]).expanduser().absolute())
    return given


def print_json(value: Any) -> None:
    """Print one line of JSON on standard output; it is ASCII, so it does not depend on the locale."""
    click.echo(json.dumps(value))
