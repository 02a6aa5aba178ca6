"""A demo corpus of data on every Python machine: the docstrings of its installed packages.

Docstrings are real text with thousands of natural near-duplicates (wrappers, back-ends, overloads), so the quick start
shows real results without a download. The files are parsed, never imported. The module writes shard files like any
other source.
"""

import ast
import gc
import gzip
import hashlib
import inspect
import json
import os
import platform
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path, PurePath

from dedup_assets.errors import SourceError, WorkspaceError

# Enough to show near-copies of every kind, few enough to be curated in half a minute with a static model.
DEFAULT_LIMIT = 12_000
DEFAULT_SHARDS = 6

# A reader cannot judge shorter ones ("Return self.").
MIN_CHARACTERS = 20

# Larger files are generated tables: they take seconds to parse and have hardly any docstrings.
MAX_FILE_BYTES = 1_000_000

# Largest share of one module, so that a small demo is not the text of one file.
MAX_MODULE_SHARE = 1 / 50

COMPLETION_FILE = ".docstrings-complete.json"

# Installed packages are in other folders; the interpreter's own tests contain deliberately broken files.
_NOT_STANDARD_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "lib-dynload"}


def gather_docstrings(limit: int = DEFAULT_LIMIT) -> Iterator[dict]:
    """Yield up to `limit` docstrings of the standard library and the installed packages.

    Modules are visited in the order of a stable hash of their name, until there are enough docstrings: that
    spreads a small corpus over all packages without parsing every installed file.

    Parameters
    ----------
    limit : int
        Number of docstrings wanted; fewer come only from an installation that has fewer.

    Yields
    ------
    dict
        `id` (``package.module:qualified.name``, unique), `text`, `package` (top-level name), `kind`
        (``module``, ``class`` or ``function``) and `line`, sorted by package, module and line.
        The same installation gives the same records.
    """
    if limit < 1:
        raise SourceError(f"The demo corpus needs a limit of at least 1, got {limit}.")
    with _uncollected():
        chosen = _choose(limit)
    yield from sorted(chosen, key=lambda r: (r["package"], r["id"].partition(":")[0], r["line"], r["id"]))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collector: among the objects of torch and Dagster it takes half of the time, and syntax trees
    are freed without it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _choose(limit: int) -> list[dict]:
    modules = _installed_modules()
    per_module = max(1, int(limit * MAX_MODULE_SHARE))
    chosen: list[dict] = []
    surplus: list[dict] = []
    for module in sorted(modules, key=_stable_hash):
        found = _parse_file(modules[module], module)
        if len(found) > per_module:
            found.sort(key=lambda record: _stable_hash(record["id"]))
        chosen += found[:per_module]
        surplus += found[per_module:]
        if len(chosen) >= limit:
            break
    return (chosen + surplus)[:limit]


def write_demo_corpus(folder: Path, limit: int = DEFAULT_LIMIT, shards: int = DEFAULT_SHARDS) -> list[Path]:
    """Write the demo corpus as ``docstrings-00.jsonl.gz`` … below `folder` and return the paths in order.

    The corpus is written once, with a completion file. Later calls with the same `limit` and `shards` return the same
    files even if packages were installed in between, so that its workspace sees no changed shards.

    Parameters
    ----------
    folder : Path
        Made if missing.
    limit : int
        Number of docstrings over all shards.
    shards : int
        Number of files; fewer when there are fewer docstrings than that.

    Raises
    ------
    WorkspaceError
        The folder holds a demo corpus made with another `limit` or `shards`.
    SourceError
        No docstring was found, or a number is below 1.
    """
    if shards < 1:
        raise SourceError(f"The demo corpus needs at least 1 shard, got {shards}.")
    folder = Path(folder)
    written = _completed(folder, limit, shards)
    if written is not None:
        return written

    records = list(gather_docstrings(limit))
    if not records:
        raise SourceError(
            "The demo corpus is empty: no Python source files with docstrings were found in "
            f"{sysconfig.get_path('stdlib')} or in the installed packages. Pass your own files instead."
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Leftovers of a process that died before its completion file.
    for leftover in folder.glob("docstrings-*.jsonl.gz*"):
        leftover.unlink()
    count = min(shards, len(records))
    rows: dict[str, int] = {}
    for number in range(count):
        part = records[number * len(records) // count : (number + 1) * len(records) // count]
        name = f"docstrings-{number:02d}.jsonl.gz"
        _publish(folder / name, _compressed_lines(part))
        rows[name] = len(part)
    completion = {"limit": limit, "shards": shards, "rows": rows, "python": platform.python_version()}
    _publish(folder / COMPLETION_FILE, (json.dumps(completion, indent=2) + "\n").encode())
    return [folder / name for name in rows]


def _completed(folder: Path, limit: int, shards: int) -> list[Path] | None:
    """Return the files of a finished corpus, or None when there is none or a file of it is missing."""
    try:
        completion = json.loads((folder / COMPLETION_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    found = (completion["limit"], completion["shards"])
    if found != (limit, shards):
        raise WorkspaceError(
            f"{folder} holds a demo corpus of {found[0]} docstrings in {found[1]} shards; "
            f"{limit} in {shards} were asked for. Ask for the same, or choose another folder."
        )
    files = [folder / name for name in completion["rows"]]
    return files if all(file.is_file() for file in files) else None


def _installed_modules() -> dict[str, Path]:
    """Map each module name of the standard library and the installed distributions to its source file."""
    modules: dict[str, Path] = {}

    def add(root: Path, files: Iterable[PurePath]) -> None:
        for relative in sorted(files):
            name = _module_name(relative)
            if name is not None:
                modules.setdefault(name, root / relative)

    # The first one wins, as in an import: the standard library, then the search path in its order.
    library = Path(sysconfig.get_path("stdlib"))
    for entry in sorted(library.iterdir()):
        if entry.suffix == ".py":
            add(library, [PurePath(entry.name)])
        elif entry.is_dir() and entry.name not in _NOT_STANDARD_LIBRARY:
            add(library, (file.relative_to(library) for file in entry.rglob("*.py")))
    # Only installed distributions: the working folder, which `python -m` adds to the path, must not matter.
    for folder in sys.path:
        if PurePath(folder).name in {"site-packages", "dist-packages"}:
            found = metadata.distributions(path=[folder])
            for distribution in sorted(found, key=lambda d: d.metadata["Name"] or ""):
                add(Path(folder), (PurePath(file) for file in distribution.files or ()))
    return modules


def _module_name(file: PurePath) -> str | None:
    """Return the dotted name of a source file relative to its root, None for what cannot be imported."""
    if file.suffix != ".py":
        return None
    parts = [*file.parts[:-1], file.stem]
    if not all(part.isidentifier() for part in parts):
        return None
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts) or None


def _parse_file(file: Path, module: str) -> list[dict]:
    """Return the docstrings of one file, none when it cannot be read or parsed by this interpreter."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            return []
        with warnings.catch_warnings():
            # Warnings about invalid escapes in parsed files do not concern our user.
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    records: list[dict] = []
    seen: dict[str, int] = {}
    for name, kind, line, docstring in _documented(tree, ""):
        text = inspect.cleandoc(docstring).strip()
        if len(text) < MIN_CHARACTERS or not _is_unicode(text):
            continue
        # Overloads, setters and definitions in both arms of an `if` share one name.
        seen[name] = seen.get(name, 0) + 1
        repeat = f"#{seen[name]}" if seen[name] > 1 else ""
        records.append(
            {
                "id": f"{module}:{name}{repeat}",
                "text": text,
                "package": module.partition(".")[0],
                "kind": kind,
                "line": line,
            }
        )
    return records


def _documented(node: ast.AST, prefix: str) -> Iterator[tuple[str, str, int, str]]:
    """Yield (qualified name, kind, line, docstring) of a node and of the definitions below it."""
    name = prefix
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        kind, line = "module", 1
        if not isinstance(node, ast.Module):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            line = node.lineno
            name = f"{prefix}.{node.name}" if prefix else node.name
        docstring = ast.get_docstring(node, clean=False)
        if docstring is not None:
            yield name or "__doc__", kind, line, docstring
    # Only blocks of statements contain definitions; walking the expressions too would take most of the time.
    for block in ("body", "handlers", "orelse", "finalbody", "cases"):
        children = getattr(node, block, ())
        for child in children if isinstance(children, list) else ():
            if not isinstance(child, ast.Expr | ast.Assign):
                yield from _documented(child, name)


def _is_unicode(text: str) -> bool:
    """Tell whether the text can be stored as UTF-8; escapes such as ``\\ud800`` in a docstring cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _stable_hash(text: str) -> bytes:
    """Return bytes that order texts evenly and the same way in every process, unlike `hash`."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _compressed_lines(records: list[dict]) -> bytes:
    """Return compressed JSON lines, without a time or file name in the header."""
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return gzip.compress(lines.encode("utf-8"), compresslevel=6, mtime=0)


def _publish(file: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
