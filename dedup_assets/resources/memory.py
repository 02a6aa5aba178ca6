"""Divides the setting ``memory_limit`` among the data held in memory. It changes no result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dedup_assets.resources.worker_device import WorkerRoom, cores_here, free_memory
from dedup_assets.resources.worker_room import ONE_LANE, Lanes
from dedup_assets.settings import Settings

LIBRARIES = 2**30
"""Memory of a worker process before it holds any data: torch, pyarrow and LanceDB take 0.6 GB."""

GROUP_TEXTS = 50_000
"""Texts embedded between two commits, if memory allows: a crash costs one or two minutes on a laptop, and sorting that
many by length makes padding negligible. 50,000 x 384 float16 are 38 MB in memory."""

TASK_TEXTS = 512
"""Texts of a task on a CPU: about a second of work on one core, so that cores finish together."""

GPU_TASK_TEXTS = 65_536
"""Largest number of texts of a task on a GPU: seconds of work, so that the overhead of a task is small. Not tuned on a
GPU."""

TASKS_PER_LANE = (16, 4)
"""Tasks of a group of texts for each thread of the CPU workers, and for each GPU: the last tasks end together, and
there are about ten seconds of work between two commits, during which no text is embedded."""

TEXT_BYTES = 4096
"""Bytes of a text while it is embedded: the text itself, 1 to 2 KB, its part of a batch, and its vector."""


GPU_SHARE = 0.45
"""Share of a GPU's free memory for the rows of a task: just below the limit at which `compute.device.block` splits a
block."""


@dataclass(frozen=True)
class MemoryPlan:
    """Shares of the memory for data.

    Attributes
    ----------
    total : int
        Total bytes for data.
    group_bytes : int
        Data gathered by a task of the join: vectors, rows to multiply and listings. A GPU holds the same.
    task_match_bytes, match_bytes : int
        Matches that a task, and the process that collects them, hold before they spill.
    """

    total: int
    group_bytes: int
    task_match_bytes: int
    match_bytes: int


def memory_plan(settings: Settings, tasks: int, rooms: Sequence[WorkerRoom] = ()) -> MemoryPlan:
    """Divide the memory among concurrent tasks.

    Half is for the rows that the join gathers, an eighth for the matches of all tasks and an eighth for the matches
    that were returned; sorting matches needs the rest. More memory than the upper bounds of matches would speed nothing
    up. Fewer groups of cells gather fewer rows twice.

    Parameters
    ----------
    tasks
        Concurrent tasks on this machine, if `rooms` is empty.
    rooms
        The resources of the workers: the smallest share of a machine's memory, and of a GPU's, decides.
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
    """The free memory of each machine, and the concurrent tasks of all its workers."""
    machines: dict[str, tuple[int, int]] = {}
    for room in rooms:
        free, at_once = machines.get(room.machine, (room.free, 0))
        machines[room.machine] = min(free, room.free), at_once + room.threads
    return list(machines.values())


@dataclass(frozen=True)
class TextPlan:
    """How texts are divided into tasks for embedding.

    Attributes
    ----------
    group : int
        Texts between two commits, held in this process's memory.
    lanes, most : int
        Concurrent tasks (those that take turns on one GPU count as one), and the largest number of texts of a task.
    """

    group: int
    lanes: int
    most: int

    def task(self, texts: int) -> int:
        """Texts per task for a total of ``texts``: the maximum, or fewer so that every lane has two tasks."""
        return max(1, min(self.most, max(TASK_TEXTS, -(-texts // (2 * self.lanes)))))


def text_plan(settings: Settings, lanes: Lanes = ONE_LANE, rooms: Sequence[WorkerRoom] = ()) -> TextPlan:
    """Groups of texts in proportion to the workers' resources, bounded by the memory of this process and theirs."""
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
"""Memory for reading or writing one file, enough for nearly all files: writing a row group of 2^16 rows of 384 numbers
takes 1 GB."""

MOST_FILES = 4
"""Maximum files read or written at a time: more would only wait for the disk and Python's global lock."""


def file_threads(settings: Settings) -> int:
    """Number of files that this process reads or writes at a time."""
    memory = settings.memory_bytes or free_memory() // 2
    return max(1, min(cores_here(), MOST_FILES, memory // FILE_BYTES))


def worker_memory(settings: Settings, workers: int) -> str | int:
    """Memory limit of one worker process of a local cluster, in Dask's format; beyond it Dask spills, pauses and
    restarts."""
    limit = settings.memory_bytes
    return "auto" if limit is None else limit // max(1, workers) + LIBRARIES
