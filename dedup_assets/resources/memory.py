"""How much of what is held in memory at once, given the setting ``memory_limit``. Changes no result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dedup_assets.resources.worker_device import WorkerRoom, cores_here, free_memory
from dedup_assets.resources.worker_room import ONE_LANE, Lanes
from dedup_assets.settings import Settings

LIBRARIES = 2**30
"""What a worker process needs before it holds any data: torch, pyarrow and LanceDB take 0.6 GB."""

GROUP_TEXTS = 50_000
"""Texts embedded between two commits, at least where memory allows: about a minute or two on a laptop is what a crash
can cost, and sorting by length over that many makes padding negligible. 50,000 x 384 float16 are 38 MB in memory."""

TASK_TEXTS = 512
"""Texts of a task on a CPU: about a second of work on one core, so two cores end together."""

GPU_TASK_TEXTS = 65_536
"""Texts of a task on a GPU at most: seconds of work, beside which what a task costs is little. Not tuned on one."""

TASKS_PER_LANE = (16, 4)
"""Tasks of a group of texts for each thread of the CPU workers, and for each GPU: the last ones end together, and
between two commits, while which nobody embeds, there are some ten seconds of work."""

TEXT_BYTES = 4096
"""A text while it is embedded: the text itself, 1 to 2 KB, its place in a batch, and its vector."""


GPU_SHARE = 0.45
"""Of what a GPU has free, for the rows of a task: just below what `compute.device.block` keeps together."""


@dataclass(frozen=True)
class MemoryPlan:
    """Shares of the memory for data.

    Attributes
    ----------
    total : int
        Bytes for data in all.
    group_bytes : int
        What a task of the join gathers: vectors, rows to multiply and listings. A GPU holds the same.
    task_match_bytes, match_bytes : int
        Matches that a task, and the process that gathers them, hold before they spill.
    """

    total: int
    group_bytes: int
    task_match_bytes: int
    match_bytes: int


def memory_plan(settings: Settings, tasks: int, rooms: Sequence[WorkerRoom] = ()) -> MemoryPlan:
    """Divide the memory among so many tasks at once.

    A half goes to what the join gathers, an eighth to the matches of all tasks and
    an eighth to those that came back; sorting matches needs the rest. The upper bounds of matches are where more
    would not make anything faster; the fewer groups of cells, the less is gathered twice.

    Parameters
    ----------
    tasks
        At once on this machine, where `rooms` is empty.
    rooms
        What the workers have: the least of their shares decides, of a machine's memory and of a GPU's.
    """
    limit = settings.memory_bytes
    here = limit or free_memory() // 2
    shares = [(limit or free // 2) // max(1, at_once) for free, at_once in _machines(rooms)]
    share = min(shares, default=here // max(1, tasks))
    # Tasks on one GPU take turns: see `worker_device.device_turn`.
    on_gpus = [int(GPU_SHARE * room.device_free) for room in rooms if room.device_free is not None]
    return MemoryPlan(
        total=here,
        group_bytes=max(2**20, min([share // 2, *on_gpus])),
        task_match_bytes=max(2**14, min(64 * 2**20, share // 8)),
        match_bytes=max(2**14, min(512 * 2**20, here // 8)),
    )


def _machines(rooms: Sequence[WorkerRoom]) -> list[tuple[int, int]]:
    """Of each machine what is free, and the tasks at once of all its workers."""
    machines: dict[str, tuple[int, int]] = {}
    for room in rooms:
        free, at_once = machines.get(room.machine, (room.free, 0))
        machines[room.machine] = min(free, room.free), at_once + room.threads
    return list(machines.values())


@dataclass(frozen=True)
class TextPlan:
    """How texts are given out to be embedded.

    Attributes
    ----------
    group : int
        Texts between two commits, which are in this process's memory.
    lanes, most : int
        Tasks that run at once, on a GPU one after the other counted as one, and texts of one at most.
    """

    group: int
    lanes: int
    most: int

    def task(self, texts: int) -> int:
        """Texts a task, of so many in all: as many as a task takes, fewer where not every lane had two."""
        return max(1, min(self.most, max(TASK_TEXTS, -(-texts // (2 * self.lanes)))))


def text_plan(settings: Settings, lanes: Lanes = ONE_LANE, rooms: Sequence[WorkerRoom] = ()) -> TextPlan:
    """Texts in groups in proportion to what the workers have, bounded by the memory of this process and theirs."""
    limit = settings.memory_bytes
    beside = lanes.gpus or lanes.tasks * lanes.threads  # a text on a CPU takes one thread
    wanted = TASKS_PER_LANE[lanes.gpus > 0] * beside * (GPU_TASK_TEXTS if lanes.gpus else TASK_TEXTS)
    fits = (limit or free_memory() // 2) // 4 // TEXT_BYTES
    if limit is None:
        fits = max(fits, GROUP_TEXTS)  # 200 MB
    group = max(512, min(max(GROUP_TEXTS, wanted), fits))
    if not lanes.gpus:
        return TextPlan(group, beside, TASK_TEXTS)
    there = min((free // at_once for free, at_once in _machines(rooms)), default=free_memory()) // 8 // TEXT_BYTES
    return TextPlan(group, beside, max(TASK_TEXTS, min(GPU_TASK_TEXTS, there)))


FILE_BYTES = 2**30
"""What reading or writing one file takes at most, but for a few odd ones: a row group of 2^16 rows of 384 numbers is
written with 1 GB."""

MOST_FILES = 4
"""Files read or written at a time: beyond, disks and Python's lock are what they wait for."""


def file_threads(settings: Settings) -> int:
    """How many files this process reads or writes at a time."""
    memory = settings.memory_bytes or free_memory() // 2
    return max(1, min(cores_here(), MOST_FILES, memory // FILE_BYTES))


def worker_memory(settings: Settings, workers: int) -> str | int:
    """Limit of one worker process of a local cluster, as Dask takes it: beyond it spills, pauses and restarts."""
    limit = settings.memory_bytes
    return "auto" if limit is None else limit // max(1, workers) + LIBRARIES
