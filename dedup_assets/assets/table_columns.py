"""The columns that each asset writes and their source columns, for Dagster."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
import pyarrow as pa

from dedup_assets.settings import Settings

DESCRIPTIONS = {
    "embeddings": {
        "id": "first record with the text",
        "shard": "its shard",
        "text_hash": "BLAKE2b-128 of the text",
        "vector": "unit norm; every similarity uses this vector",
    },
    "pairwise_similarities": {
        "id_a": "first record with the one text",
        "id_b": "first record with the other",
        "similarity": "float64 cosine of the stored vectors",
        "key_a": "the text's number: admission and row",
        "key_b": "the other's",
    },
    "duplicate_ids": {
        "row": "row in the input",
        "kept": "whether the record stays",
        "keeper_id": "the record that stays for a removed one",
        "keeper_shard": "and its shard",
        "similarity": "to the keeper; 1 for the same text",
        "kind": "exact: the same text; semantic: a match",
        "group_id": "all records removed for one keeper",
    },
}


def table_schema(stage: str, schema: pa.Schema, lineage: dg.TableColumnLineage | None) -> dg.TableSchema:
    """An Arrow schema in Dagster's terms.

    The description of a column ends with its origin: the open-source UI draws no lineage of columns.
    """
    told = DESCRIPTIONS.get(stage, {})
    origins = lineage.deps_by_column if lineage else {}
    columns = []
    for column in schema:
        sources = [f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in origins.get(column.name, ())]
        words = [told.get(column.name, ""), f"from {', '.join(sources)}" if sources else ""]
        columns.append(
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description="; ".join(filter(None, words)) or None,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
        )
    return dg.TableSchema(columns=columns)


def _outermost(column: str, there: Sequence[str]) -> Sequence[str]:
    """The column of the input that a name stands for, or that holds it in a struct; none where it is not there."""
    if column in there:
        return [column]
    return [name for name in there if column.startswith(f"{name}.")][:1]


def column_lineage(stage: str, raw_columns: Sequence[str], settings: Settings) -> dg.TableColumnLineage | None:
    """Where the columns of a stage come from, down to the columns of the input; None for the input itself."""

    def of(asset: str, *columns: str) -> list[dg.TableColumnDep]:
        return [dg.TableColumnDep(asset_key=dg.AssetKey(asset), column_name=column) for column in columns]

    def raw(*columns: str) -> list[dg.TableColumnDep]:
        return of("raw_shards", *(name for column in columns for name in _outermost(column, raw_columns)))

    texts = raw(*settings.text_columns)
    ids = raw(settings.id_column)
    if stage == "embeddings":
        vector = raw(settings.embedding_column) if settings.embedding_column else texts
        return dg.TableColumnLineage({"id": ids, "text_hash": texts, "vector": vector})
    if stage == "pairwise_similarities":
        named = of("embeddings", "id")
        return dg.TableColumnLineage({"id_a": named, "id_b": named, "similarity": of("embeddings", "vector")})
    if stage == "duplicate_ids":
        evidence = of("pairwise_similarities", "similarity") + of("embeddings", "text_hash")
        decided = ("kept", "keeper_id", "keeper_shard", "similarity", "kind", "group_id")
        return dg.TableColumnLineage({"id": ids, **dict.fromkeys(decided, evidence)})
    if stage == "deduplicated_dataset":
        return dg.TableColumnLineage({column: raw(column) for column in raw_columns})
    return None
