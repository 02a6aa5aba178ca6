"""Conversations as texts: lists of messages, each with `role` and `content`, or ShareGPT's `from` and `value`.

Each message is written as `role: content` on a new line. Further lines of its content start with a space, so different
conversations have different texts. Roles are written unchanged. If the content is a list of parts, the text of each
part is one line; a null content is empty. A tool call is written as a message of its own, with its name and its
arguments as JSON with sorted keys: `assistant tool_call: weather {"city": "Rome"}`. All other keys, such as the ids of
calls, are ignored. A conversation without any content has the empty text.

A conversation with a message without a role, or with a part that is not text (a picture), has no text. The reason is
reported.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pyarrow as pa

_KEYS = (("role", "content"), ("from", "value"))
ROLES = frozenset(role for role, _ in _KEYS)
"""Keys of a message that name the speaker."""

_MARK = {b"dedup_assets.chat": b"json"}


class Unreadable(ValueError):
    """A conversation that has no text; the message is the reason."""


def is_chat(field: pa.Field) -> bool:
    """Whether a column holds conversations: lists of structs with the keys above, or JSON text marked by `as_json`."""
    kind = field.type
    if not may_be_chat(kind) or pa.types.is_null(kind.value_type):
        return bool(field.metadata) and _MARK.items() <= field.metadata.items() and pa.types.is_string(kind)
    names = {inner.name for inner in kind.value_type}
    return any(names.issuperset(keys) for keys in _KEYS)


def may_be_chat(kind: pa.DataType) -> bool:
    """Whether a type is a list of structs, or a list of nulls (all lists are empty)."""
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    is_list = is_list or types.is_list_view(kind) or types.is_large_list_view(kind)
    return is_list and (pa.types.is_struct(kind.value_type) or pa.types.is_null(kind.value_type))


def as_json(name: str) -> pa.Field:
    """Field of a column of conversations that have no common type: each is stored as JSON text. Published files keep
    the mark in the metadata, so they can be read again as conversations."""
    return pa.field(name, pa.string(), metadata=_MARK)


def array_of_chats(name: str, values: list[Any]) -> tuple[pa.Array, pa.Field] | None:
    """Python lists of messages as a column of JSON text, with its field. None if all values are null or empty, or if
    one is neither null nor a list of dicts."""
    if not any(values) or not all(value is None or may_be_messages(value) for value in values):
        return None
    texts = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
    return pa.array(texts, pa.string()), as_json(name)


def may_be_messages(value: Any) -> bool:
    """Whether a Python value is a list of dicts."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def chat_texts(column: pa.ChunkedArray, is_json: bool) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The text of each conversation (large_string, null if it has none), and the reason why it has none: object array
    (n,) of str, "" elsewhere."""
    texts: list[str | None] = []
    reasons: list[str] = []
    for value in column.to_pylist():
        text, reason = None, ""
        try:
            text = None if value is None else chat_text(_parsed(value) if is_json else value)
        except Unreadable as problem:
            reason = str(problem)
        texts.append(text)
        reasons.append(reason)
    return pa.chunked_array([pa.array(texts, pa.large_string())]), np.array(reasons, dtype=object)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise Unreadable("not a list of messages in JSON") from problem


def reason_kind(reason: str) -> str:
    """The reason without the number of the message."""
    found = re.match(r"message \d+ ([^:]*)", reason)
    return f"a message {found[1]}" if found else reason


def chat_text(messages: Any) -> str:
    """The text of one conversation; see the module docstring. Raises `Unreadable`."""
    if not isinstance(messages, list):
        raise Unreadable("not a list of messages")
    parts = [part for number, message in enumerate(messages) for part in _message(message, number)]
    if not any(content.strip() for _, content in parts):
        return "".join(content for _, content in parts)
    return "\n".join(f"{role}: {content}".replace("\n", "\n ") for role, content in parts)


def _message(message: Any, number: int) -> list[tuple[str, str]]:
    """(role, content) of a message and of each of its tool calls; of the calls alone if there is no content."""
    if not isinstance(message, dict):
        raise Unreadable(f"message {number} is no object with a role and a content")
    (role, content), (speaker, value) = ((message.get(name), message.get(key)) for name, key in _KEYS)
    if role is not None and speaker is not None:
        raise Unreadable(f"message {number} has both role and from")
    if content is not None and value is not None:
        raise Unreadable(f"message {number} has both content and value")
    role, content = (speaker if role is None else role), (value if content is None else content)
    if not isinstance(role, str) or not role.strip():
        raise Unreadable(f"message {number} has no role")
    if ":" in role or "\n" in role:
        raise Unreadable(f"message {number} has a role with a colon or a line break")
    text = "\n".join(_content(content, number))
    told = [message.get(key) for key in ("tool_calls", "function_call")]
    calls = [call for item in told for call in (item if isinstance(item, list) else [item]) if call is not None]
    said = [(role, text)] if text or not calls else []
    return [*said, *((f"{role} tool_call", _call(call, number)) for call in calls)]


def _content(content: Any, number: int) -> list[str]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise Unreadable(f"message {number} has a content that is no text: {type(content).__name__}")
    lines = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        text = part.get("text") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(text, str):
            raise Unreadable(f"message {number} has a part that is no text: {kind!r}")
        lines.append(text)
    return lines


def _call(call: Any, number: int) -> str:
    if isinstance(call, str):
        return call
    inner = call.get("function") if isinstance(call, dict) else None
    told = inner if isinstance(inner, dict) else call
    name = told.get("name") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(name, str):
        raise Unreadable(f"message {number} has a tool call without a name")
    arguments = told.get("arguments")
    if arguments is None:
        return name
    if not isinstance(arguments, str):
        arguments = json.dumps(_canonical(arguments), ensure_ascii=False, sort_keys=True, default=str)
    return f"{name} {arguments}"


def _canonical(value: Any) -> Any:
    """The value independent of other rows of its column: without nulls for keys that only other rows have, and with 1
    for a 1.0 that is a float only because another row has 1.5."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
