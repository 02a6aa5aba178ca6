"""Promise of a file of vectors: written part by part, it is the file that numpy writes of all rows at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dedup_assets.ingest import vector_file
from dedup_assets.ingest.vector_file import VectorFile


def saved(folder: Path, vectors: np.ndarray) -> bytes:
    np.save(folder / "expected.npy", vectors)
    return (folder / "expected.npy").read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("lengths", [[1], [0, 3, 1, 12], [99, 0, 901, 5]])
@pytest.mark.parametrize("share", [None, 0.5, 0.0])
def test_parts_give_the_file_of_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, lengths: list[int], share: float | None
) -> None:
    monkeypatch.setattr(vector_file, "_ROWS_AT_ONCE", 10)
    rng = np.random.default_rng(len(lengths))
    parts = [rng.standard_normal((length, 7)).astype(dtype) for length in lengths]
    expected = np.concatenate(parts)
    file = VectorFile(tmp_path / "vectors.npy", dtype)
    for part in parts:
        file.append(part)
    if share is not None:
        mask = rng.random(len(expected)) < share
        mask[-1] = True
        file.keep(mask)
        expected = expected[mask]
    file.finish(7)
    assert file.path.read_bytes() == saved(tmp_path, expected)
    np.testing.assert_array_equal(np.load(file.path, mmap_mode="r"), expected)


@pytest.mark.parametrize("dimension", [0, 7])
def test_without_rows_the_file_tells_the_dimension(tmp_path: Path, dimension: int) -> None:
    file = VectorFile(tmp_path / "vectors.npy", "float16")
    file.finish(dimension)
    assert file.path.read_bytes() == saved(tmp_path, np.zeros((0, dimension), "float16"))
