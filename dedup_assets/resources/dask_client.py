"""A Dask client that is closed by whoever made it, and never by the garbage collector."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from distributed import Client

from dedup_assets.resources.worker_watch import CLOSE_SECONDS


class OwnedClient(Client):
    """Dask's client with one difference: what ends it.

    Dask closes a client that could not connect when the garbage collector finds it. That may happen while the same
    thread starts another client or cluster and holds the lock that closing wants. Then this process waits for ever, and
    so does every later start. Here a client that cannot connect is closed at once, and the collector closes none.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(*arguments, **options)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Disconnect, and stop the thread of this client, also where the scheduler no longer answers."""
        with suppress(Exception):  # one that failed early has little to close, and a lost scheduler answers nothing
            self.close(timeout=CLOSE_SECONDS)
        with suppress(AttributeError):  # it failed before it had a loop
            self._loop_runner.stop()

    def __del__(self) -> None:
        """Nothing: see above."""
