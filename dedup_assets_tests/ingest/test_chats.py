"""Conversations become texts: the same one the same, different ones different, and what cannot be written is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_assets.ingest.chats import Unreadable, chat_text, chat_texts
from dedup_assets.ingest.records import read_texts
from dedup_assets.storage.raw_table import RawShard
from dedup_assets_tests.ingest.test_records import Ingested, lines


def say(*messages: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in messages]


def call(arguments: Any, **other: Any) -> list[dict[str, Any]]:
    told = [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}]
    return [{"role": "assistant", "content": None, "tool_calls": told, **other}]


ROME = 'assistant tool_call: weather {"city": "Rome", "days": 1}'


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (say(("user", "Why?"), ("assistant", "So.")), "user: Why?\nassistant: So."),
        ([{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}], "human: Why?\ngpt: So."),
        (say(("user", "one\ntwo")), "user: one\n two"),
        (say(("user", [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])), "user: one\n two"),
        (say(("user", "Why?"), ("assistant", None)), "user: Why?\nassistant: "),
        (say(("user", None), ("assistant", "")), ""),
        (say(("user", " "), ("assistant", "\n")), " \n"),
        ([], ""),
        (call({"city": "Rome", "days": 1}), ROME),
        (call({"days": 1.0, "none": None, "city": "Rome"}, name="bot", weight=0), ROME),
        (call('{"city": "Rome", "days": 1}'), ROME),
        ([{"role": "a", "content": "b", "function_call": {"name": "f"}}], "a: b\na tool_call: f"),
    ],
)
def test_a_conversation_is_written_as_documented(messages: list[dict[str, Any]], text: str) -> None:
    assert chat_text(messages) == text


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("Why?", "not a list of messages"),
        (["Why?"], "message 0 is no object"),
        ([*say(("user", "Why?")), {"content": "So."}], "message 1 has no role"),
        (say((" ", "x")), "message 0 has no role"),
        (say(("a: b", "x")), "message 0 has a role with a colon"),
        (say(("user", 5)), "message 0 has a content that is no text: int"),
        (say(("user", [{"type": "image_url", "image_url": {"url": "u"}}])), "a part that is no text: 'image_url'"),
        (say(("user", ["Why?"])), "a part that is no text: 'str'"),
        ([{"role": "a", "from": "b", "content": "x"}], "both role and from"),
        ([{"role": "a", "content": "x", "tool_calls": [{"id": 1}]}], "a tool call without a name"),
    ],
)
def test_what_cannot_be_written_is_told(messages: Any, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        chat_text(messages)


words = st.text(alphabet=st.sampled_from("ab:\n ,\\"), max_size=6)
chats = st.lists(st.tuples(st.sampled_from(["a", "b", "a b"]), words.map(lambda text: text + "x")), max_size=4)


@given(chats, chats)
def test_different_conversations_have_different_texts(
    first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    assert (chat_text(say(*first)) == chat_text(say(*second))) == (first == second)


ROWS: list[dict[str, Any]] = [
    {"id": "plain", "messages": say(("user", "Why?"), ("assistant", "So.")), "other": 1},
    {"id": "null content", "messages": say(("user", "Why?"), ("assistant", None))},
    {"id": "null", "messages": None},
    {"id": "none", "messages": []},
    {"id": "no role", "messages": [{"content": "Why?"}]},
    {"id": "call", "messages": call({"city": "Rome", "days": 1})},
    {"id": "other call", "messages": call({"hour": 1.5})},
]
MIXED: list[dict[str, Any]] = [
    {"id": "parts", "messages": say(("user", [{"type": "text", "text": "Why?"}]), ("assistant", "So."))},
    {"id": "picture", "messages": say(("user", [{"type": "image_url", "image_url": {"url": "u"}}]))},
    {"id": "number", "messages": 5},
]


@pytest.mark.parametrize("kind", ["jsonl", "mixed.jsonl", "parquet"])
def test_conversations_of_a_file_are_records_whatever_else_it_holds(tmp_path: Path, kind: str) -> None:
    """One text, one hash: whether Arrow had a type for the column, or other rows had other keys."""
    rows = [*ROWS, *MIXED] if kind.startswith("mixed") else ROWS
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        data = (tmp_path / "a.parquet").read_bytes()
    else:
        data = lines(*rows)
    shard = Ingested(tmp_path / "shard", f"a.{kind}", data, text_columns=("messages",))
    alone = Ingested(tmp_path / "alone", "b.jsonl", lines(ROWS[5]), text_columns=("messages",))
    found = dict(zip(shard.ids(), shard.records["text_hash"].to_pylist(), strict=True))
    assert found["call"] == alone.records["text_hash"][0].as_py()
    assert list(found)[:4] == ["plain", "null content", "call", "other call"]
    texts = read_texts(RawShard(shard.out), shard.spec, shard.records["position"].to_numpy())
    assert texts[:3] == ["user: Why?\nassistant: So.", "user: Why?\nassistant: ", ROME]
    reasons = shard.reasons()
    assert {row: reasons[row] for row in (2, 3, 4)} == {
        2: "text is null",
        3: "text is empty",
        4: "message 0 has no role",
    }
    if kind.startswith("mixed"):
        assert found["parts"] == found["plain"]
        assert reasons[8] == "message 0 has a part that is no text: 'image_url'"
        assert reasons[9] == "not a list of messages" and set(reasons) == {2, 3, 4, 8, 9}
        kinds = shard.report.quarantined
        assert kinds["a message has no role"] == kinds["a message has a part that is no text"] == 1
        assert json.loads(shard.table["messages"][7].as_py()) == MIXED[0]["messages"]
    else:
        assert pa.types.is_list(shard.table.schema.field("messages").type)
        assert shard.table.to_pylist() == pa.Table.from_pylist(rows).to_pylist()
    assert shard.table.column_names == ["id", "messages", "other"]
    # What is published is read again as what it was.
    again = Ingested(
        tmp_path / "again", "c.parquet", (shard.out / "table.parquet").read_bytes(), text_columns=("messages",)
    )
    assert again.records["text_hash"].equals(shard.records["text_hash"])


def test_a_stored_conversation_that_is_no_json_has_a_reason_and_the_others_their_text() -> None:
    stored = [json.dumps(say(("user", "Why?"))), "", "[[", "[" * 100_000, None]
    texts, reasons = chat_texts(pa.chunked_array([stored], pa.string()), is_json=True)
    assert texts.to_pylist() == ["user: Why?", None, None, None, None]
    assert reasons.tolist() == ["", *["not a list of messages in JSON"] * 3, ""]
