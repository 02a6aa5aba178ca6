"""Groups of duplicates: a keeper and the records that were removed for it, with their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dedup_assets.lookups.answers import MEMBER, Groups
from dedup_assets.lookups.corpus import Corpus
from dedup_assets.lookups.measures import decided_admissions
from dedup_assets.lookups.steady import steady
from dedup_assets.storage.decisions import read_record_decisions
from dedup_assets.storage.ledger import Admission
from dedup_assets.storage.workspace import Workspace


@steady
def duplicate_groups(workspace: Workspace, count: int | None, members: int | None) -> Groups:
    """The largest groups of the corpus; None: all of them, or all members."""
    return Groups(largest_groups(Corpus(workspace), decided_admissions(workspace), count, members))


def largest_groups(
    corpus: Corpus, admissions: Sequence[Admission], count: int | None, members: int | None
) -> list[dict[str, Any]]:
    """The keepers for which most records of some admissions went, the fullest group first: the columns of `Groups`.

    Of each group up to `members` removed records are named: those least like the keeper, because they show
    what the threshold lets pass. A group whose keeper was retracted since it was decided is left out: the next
    decision undoes it.
    """
    workspace, generation = corpus.workspace, corpus.generation.number
    counted = [pa.table({"group_id": pa.array([], pa.string()), "size": pa.array([], pa.int64())})]
    for a in admissions:
        found = pc.value_counts(read_record_decisions(workspace, generation, a.shard)["group_id"].drop_null())
        counted.append(pa.table({"group_id": found.field("values"), "size": found.field("counts")}))
    sizes = pa.concat_tables(counted).group_by("group_id").aggregate([("size", "sum")])
    top = sizes.sort_by([("size_sum", "descending"), ("group_id", "ascending")]).slice(0, count).to_pylist()
    wanted = pa.array([entry["group_id"] for entry in top], pa.string())
    removed: dict[str, list[dict[str, Any]]] = {entry["group_id"]: [] for entry in top}
    for a in admissions if top else ():
        decisions = read_record_decisions(workspace, generation, a.shard)
        for row in decisions.filter(pc.is_in(decisions["group_id"], wanted)).to_pylist():
            removed[row["group_id"]].append({**row, "shard": a.shard})
        for group in removed.values():
            group.sort(key=lambda record: (record["similarity"], record["shard"], record["row"]))
            group[:] = group[:members]
    kept = {group: (rows[0]["keeper_shard"], rows[0]["keeper_id"]) for group, rows in removed.items()}
    top = [entry for entry in top if corpus.holds(*kept[entry["group_id"]])]
    places = [(kept[entry["group_id"]][0], corpus.row(*kept[entry["group_id"]])) for entry in top]
    places += [(record["shard"], record["row"]) for entry in top for record in removed[entry["group_id"]]]
    texts = corpus.texts(places)
    rest = iter(texts[len(top) :])
    names = [field.name for field in MEMBER if field.name != "text"]
    return [
        {
            "group_id": entry["group_id"],
            "size": entry["size_sum"],
            "keeper_id": kept[entry["group_id"]][1],
            "keeper_shard": kept[entry["group_id"]][0],
            "keeper_text": keeper_text,
            "members": [
                {**{name: record[name] for name in names}, "text": next(rest)} for record in removed[entry["group_id"]]
            ],
        }
        for entry, keeper_text in zip(top, texts[: len(top)], strict=True)
    ]
