"""Reads `config_sentence_transformers.json` of a model: its prompts and its similarity function."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dedup_assets.errors import ModelError

PROMPTS = "config_sentence_transformers.json"
INSTEAD = "Bring its vectors with the data (--embedding-column), or take another model"


def read_json(path: Path) -> Any:
    """A JSON file of a model folder. Raises ModelError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}. Expected the file as published") from error


def _prompts(root: Path) -> dict[str, Any]:
    told = read_json(root / PROMPTS) if (root / PROMPTS).is_file() else {}
    if not isinstance(told, dict):
        raise ModelError(f"{root / PROMPTS} is no JSON object. Expected the file as published")
    return told


def prompt_of(root: Path, asked: str | None) -> str:
    """The text that is put before every text: the folder's prompt named `asked`, else `asked` itself.

    None means the folder's `default_prompt_name`. Raises ModelError for a single word that is not the name of a prompt,
    which is more likely a mistake than a text, and for a prompt that is not a string.
    """
    told = _prompts(root)
    prompts = told.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise ModelError(f"{root / PROMPTS} holds no prompts by name. Expected the file as published")
    name = told.get("default_prompt_name") if asked is None else asked
    if name is None or name == "":
        return ""
    if not isinstance(name, str):
        raise ModelError(f"{root / PROMPTS} sets default_prompt_name = {name!r}. Expected the name of a prompt")
    if name in prompts:
        if not isinstance(prompts[name], str):
            raise ModelError(
                f"{root / PROMPTS} holds a prompt {name!r} that is no text. Expected the file as published"
            )
        return prompts[name]
    if asked is None:
        raise ModelError(f"{root / PROMPTS} names the prompt {name!r} and has none. Expected the file as published")
    require_text_prompt(asked, f"the model in {root}", prompts)
    return asked


def require_text_prompt(asked: str, model: str, names: Iterable[str] = ()) -> None:
    """Raise ModelError for a prompt that is a single word: the name of a prompt that the model does not have."""
    if re.fullmatch(r"[A-Za-z][\w-]*", asked):
        known = ", ".join(sorted(names)) or "none"
        raise ModelError(
            f"{model} has no prompt {asked!r}. Its prompts: {known}. A text of your own ends in a space or a colon, "
            f"since it stands before every text as it is: --prompt '{asked}: '"
        )


def check_similarity(root: Path, kinds: list[str]) -> None:
    """Raise ModelError for a model whose vectors are not to be compared by their cosine."""
    named = _prompts(root).get("similarity_fn_name")
    same = ("cosine", "dot") if kinds[-1:] == ["Normalize"] else ("cosine",)  # equal for unit vectors
    if named is not None and named not in same:
        raise ModelError(
            f"{root / PROMPTS} sets similarity_fn_name = {named!r}: the lengths of its vectors matter, and here the "
            f"cosine decides, for which lengths are nothing. Expected a model that is made for it. {INSTEAD}"
        )
