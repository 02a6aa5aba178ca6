"""A Dask client that its creator closes, and never the garbage collector."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from distributed import Client

from dedup_assets.resources.worker_watch import CLOSE_SECONDS


class OwnedClient(Client):
    """Dask's client, except for the way it is closed.

    Dask closes a client that could not connect when the garbage collector finds it. That may happen while the same
    thread starts another client or cluster and holds the lock that closing needs. Then this process deadlocks, and so
    does every later start. This client is closed at once if it cannot connect, and the garbage collector never closes
    it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(*arguments, **options)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Disconnect and stop the thread of this client, even if the scheduler no longer answers."""
        with suppress(Exception):  # a failed client has little to close, and a lost scheduler does not answer
            self.close(timeout=CLOSE_SECONDS)
        with suppress(AttributeError):  # the client failed before it had a loop
            self._loop_runner.stop()

    def __del__(self) -> None:
        """Does nothing: see the class."""
