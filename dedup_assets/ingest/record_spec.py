"""The definition of a record, and the check whether a shard's columns fit it."""

from __future__ import annotations

from dataclasses import dataclass

from dedup_assets.errors import ShardError
from dedup_assets.ingest import columns
from dedup_assets.ingest.chats import is_chat
from dedup_assets.ingest.readers import ShardContent
from dedup_assets.ingest.source_files import SourceFile
from dedup_assets.settings import Settings
from dedup_assets.storage.struct_columns import AmbiguousColumn, column_field


@dataclass(frozen=True)
class IngestSpec:
    """The definition of a record.

    Attributes
    ----------
    text_columns : tuple of str
        Columns of strings, values written as strings (numbers, dates) or conversations (`chats`), joined by one empty
        line in this order, without nulls. With an embedding column, all of them may be missing from a file: then every
        record has the text "", and two records are exact duplicates if their stored vectors are equal. Every column
        named in this class may be a field inside a struct (`struct_columns`).
    id_column : str
    id_column_required : bool
        False: a file without the column gets the ids SHARD:ROW.
    embedding_column : str or None
        Lists of numbers, or JSON arrays in strings.
    embedding_dtype : "float16" or "float32"
    order_column : str or None
        A sortable column that is copied to the records as `order_value`.
    unicode_form : "none", "NFC" or "NFKC"
    keep_empty : bool
        Keep records whose text is empty or only white space. Null is never kept.
    duplicate_ids : "quarantine" or "refuse"
        What happens to the second record with an id: quarantine it, or fail the shard.
    max_quarantined : float
        Largest share of the rows that may be quarantined; above it the shard fails.
    csv_types : "inferred" or "text"
        See `formats.csv`.
    dimension : int or None
        The dimension embeddings must have; None: that of the first valid one.
    """

    text_columns: tuple[str, ...]
    id_column: str = "id"
    id_column_required: bool = False
    embedding_column: str | None = None
    embedding_dtype: str = "float16"
    order_column: str | None = None
    unicode_form: str = "none"
    keep_empty: bool = False
    duplicate_ids: str = "quarantine"
    max_quarantined: float = 1.0
    csv_types: str = "inferred"
    dimension: int | None = None


def ingest_spec(settings: Settings) -> IngestSpec:
    """The definition of a record according to the settings."""
    return IngestSpec(
        text_columns=settings.text_columns,
        id_column=settings.id_column,
        # Only the default column may be missing: a column that a user named must exist.
        id_column_required=settings.id_column != Settings.id_column,
        embedding_column=settings.embedding_column or None,
        embedding_dtype=settings.vector_dtype,
        order_column=settings.keep_rule().column or None,
        unicode_form=settings.unicode_form,
        keep_empty=settings.keep_empty,
        duplicate_ids=settings.duplicate_ids,
        max_quarantined=settings.max_quarantined,
        csv_types=settings.csv_types,
    )


def check_columns(source: SourceFile, spec: IngestSpec, content: ShardContent) -> None:
    """Raise `ShardError` if the columns of a shard do not fit the spec, or for a shard without rows, if a name is
    ambiguous."""
    schema = content.schema
    where = f"{source.uri!r} (shard {source.key})"
    asked = (*spec.text_columns, spec.id_column, spec.embedding_column, spec.order_column)
    try:
        fields = {name: column_field(schema, name) for name in asked if name is not None}
    except AmbiguousColumn as problem:
        raise ShardError(f"{where}: {problem}, and run again.") from problem
    if not content.has_rows:
        return
    texts = {name: field for name in spec.text_columns if (field := fields[name]) is not None}
    there = ", ".join(f"{column.name!r} ({column.type})" for column in schema) or "none"
    missing = [name for name in spec.text_columns if name not in texts]
    if missing and not (spec.embedding_column and not texts):
        weighted = missing[0].rpartition("=")[0] in schema.names
        hint = " A workspace has one vector for each text: a column takes no weight." if weighted else ""
        raise ShardError(
            f"{where} has no text column {missing[0]!r}; its columns are {there}.{_encoded_above(missing[0], content)} "
            f"Name the column that holds the text with --text-column.{hint}"
        )
    for name, option in (
        (spec.id_column if spec.id_column_required else None, "--id-column"),
        (spec.embedding_column, "--embedding-column"),
        (spec.order_column, "--keep column:NAME"),
    ):
        if name is not None and fields[name] is None:
            raise ShardError(
                f"{where} has no column {name!r}; its columns are {there}.{_encoded_above(name, content)} Change "
                f"{option}, or the file."
            )
    for name, field in texts.items():
        if not columns.is_written_as_text(field.type) and not is_chat(field):
            raise ShardError(
                f"{where}: text is not a string: column {name!r} holds {field.type}; its "
                f"columns are {there}. Name a column of strings, numbers, dates, or of conversations (lists of structs "
                "with role and content, or from and value) with --text-column."
            )
    order = fields.get(spec.order_column or "")
    if order is not None and (spec.order_column in content.json_encoded or not columns.is_sortable(order.type)):
        found = "values of several types" if columns.is_text(order.type) else str(order.type)
        raise ShardError(
            f"{where}: cannot order by column {spec.order_column!r}, which holds {found}. "
            "Expected numbers, strings, dates, times or booleans. Change --keep column:NAME."
        )


def _encoded_above(name: str, content: ShardContent) -> str:
    """The reason why a field inside a JSON struct is missing, if its column was read as JSON text."""
    above = [column for column in content.json_encoded if name.startswith(f"{column}.")]
    return f" Column {above[0]!r} holds values of several types, and was read as JSON text." if above else ""
