"""Work done ahead on threads gives what it gives one piece after the other, and ends when nobody wants it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from dedup_assets.ahead import ahead


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items_and_errors_at_their_item(threads: int) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(item: int, look: Callable[[], None]) -> int:
        nonlocal running, most
        with lock:
            running, most = running + 1, max(most, running + 1)
        time.sleep(0.001 * (item % 3))
        with lock:
            running -= 1
        if item == 7:
            raise ValueError("seven")
        return item * item

    with ahead(work, range(20), threads) as results:
        for item, result in results:
            if item == 7:
                with pytest.raises(ValueError, match="seven"):
                    result()
            else:
                assert result() == item * item
    assert most <= threads


def test_pieces_that_run_end_when_the_block_is_left_and_others_never_begin() -> None:
    begun: list[int] = []

    def endless(item: int, look: Callable[[], None]) -> None:
        begun.append(item)
        while True:
            look()
            time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt), ahead(endless, range(50), 2) as results:
        next(results)
        raise KeyboardInterrupt
    assert len(begun) <= 2


def test_what_only_looks_loads_neither_torch_nor_pandas_nor_dask_nor_lancedb() -> None:
    code = """
import sys, dedup_assets.api, dedup_assets.embedded, dedup_assets.lookups.tables
print(sorted({"torch", "pandas", "distributed", "lancedb"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
