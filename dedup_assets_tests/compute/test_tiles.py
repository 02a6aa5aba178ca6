"""Tiles hold what they are asked to hold, in few shapes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dedup_assets.compute.scan import CHUNK
from dedup_assets.compute.tiles import TILE_BYTES, TILE_ROWS, padded_columns, padded_rows, tile_columns


@given(st.integers(1, 1 << 24), st.sampled_from([2, 4]), st.data())
def test_sides_cover_what_is_wanted_in_whole_chunks_within_the_tile(tile_bytes, itemsize, data):
    most = tile_columns(tile_bytes, itemsize)
    assert most == CHUNK or most * TILE_ROWS * itemsize <= tile_bytes
    columns, rows = data.draw(st.integers(1, most)), data.draw(st.integers(1, TILE_ROWS))
    assert columns <= padded_columns(columns, most) <= most
    assert rows <= padded_rows(rows) <= TILE_ROWS
    assert padded_columns(columns, most) % CHUNK == 0


def test_few_shapes_and_none_whose_rows_share_lines_of_the_cache():
    most = tile_columns(TILE_BYTES, 2)
    columns = {padded_columns(count, most) for count in range(1, most + 1)}
    assert len(columns) * len({padded_rows(count) for count in range(1, TILE_ROWS + 1)}) == 40
    assert all(count * 2 % 2048 for count in columns)
