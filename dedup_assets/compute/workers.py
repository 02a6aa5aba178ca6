"""Threads that compute in parallel, each with one torch thread."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor


class OneThreadWorkers:
    """A pool of threads in each of which torch uses one thread; created at first use, and again after a fork."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0  # a forked process has the object but not the threads
        self._lock = threading.Lock()

    def pool(self) -> ThreadPoolExecutor:
        """The pool, created if necessary.

        torch keeps the thread count per calling thread, but threads that start later inherit the last value set. So the
        caller's count is restored once all workers have started.
        """
        import torch

        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                before = torch.get_num_threads()
                started = threading.Barrier(self._threads + 1)
                pool = ThreadPoolExecutor(self._threads, thread_name_prefix=self._name)

                def start() -> None:
                    # A thread takes over the global count at its first use of torch; asking for it is
                    # such a use. Without it the 1 set here would be overwritten by the first batch.
                    torch.get_num_threads()
                    torch.set_num_threads(1)
                    started.wait()

                for _ in range(self._threads):
                    pool.submit(start)
                started.wait()
                torch.set_num_threads(before)
                self._pool, self._pid = pool, os.getpid()
            return self._pool
