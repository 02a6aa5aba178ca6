"""Taking the content of records that were taken down out of what was read of shards that still stand.

Their rows stay, so that positions hold and rows are counted as before; what a row held is overwritten. Nothing
published is touched: no record of these is in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.storage.columns import id_strings
from dedup_assets.storage.output import withheld
from dedup_assets.storage.publish import publish_file
from dedup_assets.storage.raw_table import TABLE, raw_table_writer
from dedup_assets.storage.shards import read_records, read_rejected
from dedup_assets.storage.tables import QUARANTINE, write_parquet

QUARANTINED, OVERWRITTEN = "quarantine.parquet", "overwritten.npy"


def overwrite_taken_down(raw: Path, id_column: str, buried: pa.Array) -> int:
    """Overwrite the rows of a shard that carry an id which was taken down; returns how many that are.

    A row gets the content of the first record that stays, which fits the schema whatever its types are; where none
    stays, the table is left without rows. Nobody reads the row of a record that was taken down.

    Parameters
    ----------
    raw : Path
        What was read of an admitted shard.
    id_column : str
    buried : (n,) array of string
        The ids that never return.
    """
    rejected = read_rejected(raw).cast(QUARANTINE)
    shown = withheld(rejected, id_column, buried)
    if shown["record"].null_count > rejected["record"].null_count:
        write_parquet(raw / QUARANTINED, shown)
    records = read_records(raw)
    is_buried = pc.is_in(records.ids, buried).to_numpy(zero_copy_only=False)
    gone, staying = records.positions[is_buried], records.positions[~is_buried]
    if id_column in pq.read_schema(raw / TABLE).names:  # rows that are no records carry ids too
        ids = id_strings(pq.read_table(raw / TABLE, columns=[id_column]).column(0))
        gone = np.flatnonzero(pc.is_in(ids, buried).to_numpy())
    done = np.load(raw / OVERWRITTEN) if (raw / OVERWRITTEN).is_file() else np.empty(0, np.int64)
    if np.isin(gone, done).all():
        return 0
    publish_file(raw / TABLE, lambda path: _overwrite(raw / TABLE, path, gone, staying[0] if len(staying) else None))
    publish_file(raw / OVERWRITTEN, lambda path: _save(path, gone))
    return len(np.setdiff1d(gone, done))


def _overwrite(source: Path, target: Path, gone: np.ndarray, instead: int | None) -> None:
    """Copy a table by row groups, the rows at `gone` overwritten by the one at `instead`."""
    with pq.ParquetFile(source) as stored:
        sizes = [stored.metadata.row_group(group).num_rows for group in range(stored.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        with raw_table_writer(target, stored.schema_arrow) as writer:
            if instead is None:
                return
            holder = int(np.searchsorted(starts, instead, side="right")) - 1
            row = stored.read_row_group(holder).slice(instead - int(starts[holder]), 1)
            for group, size in enumerate(sizes):
                order = np.arange(size)
                order[gone[(gone >= starts[group]) & (gone < starts[group + 1])] - starts[group]] = size
                table = pa.concat_tables([stored.read_row_group(group), row])
                writer.write_table(table.take(pa.array(order)), row_group_size=max(size, 1))


def _save(path: Path, positions: np.ndarray) -> None:
    with path.open("wb") as stream:  # np.save given a name would add an ending
        np.save(stream, positions)
