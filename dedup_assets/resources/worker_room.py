"""The combined resources of the workers: the device that all of them use, and the number of concurrent tasks.

The workers report them, because the client may have other devices or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dedup_assets.errors import ClusterError, reason
from dedup_assets.resources.worker_device import WorkerRoom


@dataclass(frozen=True)
class Lanes:
    """The concurrency of large tasks.

    Attributes
    ----------
    tasks : int
        Concurrent large tasks on all workers.
    threads : int
        Host threads for each of them.
    gpus : int
        Number of GPUs; 0 for CPU workers.
    """

    tasks: int
    threads: int
    gpus: int

    @property
    def shares(self) -> int:
        """Number of parts that work is divided into: two tasks on one GPU take turns."""
        return self.gpus or self.tasks


ONE_LANE = Lanes(1, 1, 0)


def lanes_of(rooms: Sequence[WorkerRoom]) -> Lanes:
    """The lanes of external workers. A CPU worker runs a task on every thread. A GPU worker gets a share of the cores
    of its machine, so that the GPU, the most expensive part, does not wait for its host."""
    tasks = max(1, sum(room.threads for room in rooms))
    gpus = [room for room in rooms if room.device != "cpu"]
    if not gpus:
        return Lanes(tasks, 1, 0)
    beside = {room.machine: sum(other.machine == room.machine for other in gpus) for room in gpus}
    return Lanes(tasks, max(1, min(room.cores // beside[room.machine] for room in gpus)), len(gpus))


def answered(answers: Mapping[str, Any]) -> list[Any]:
    """The answers of the workers. Raises ClusterError if one is an exception."""
    for worker, answer in answers.items():
        if isinstance(answer, BaseException):
            raise ClusterError(
                f"Dask worker {worker} cannot say what GPU and memory it has: {type(answer).__name__}: "
                f"{reason(answer)}. Mend or end it, or use --device cpu: the decisions are the same."
            ) from answer
    return list(answers.values())


def agreed_device(wanted: str, answers: Mapping[str, Any]) -> str:
    """`cpu` or `cuda`, the same for all workers: if only some had a GPU, a text's vector would depend on the worker
    that computed it, and the fast ones would wait for the slow ones.

    Parameters
    ----------
    wanted : {"auto", "cpu", "cuda"}
    answers
        `cpu`, `cuda` or the exception of the query, by worker.

    Raises
    ------
    ClusterError
        Some workers have a usable GPU and others have none; or CUDA is wanted and one has no GPU.
    """
    answered(answers)
    without = sorted(worker for worker, answer in answers.items() if answer == "cpu")
    if wanted == "cpu" or not answers or (wanted == "auto" and len(without) == len(answers)):
        return "cpu"
    if without:
        listed = ", ".join(without[:3]) + (f" and {len(without) - 3} more" if len(without) > 3 else "")
        raise ClusterError(
            f"{len(without)} of {len(answers)} Dask workers find no usable GPU: {listed}. Expected a GPU at every "
            "worker or at none. End those without, or use --device cpu: the decisions are the same."
        )
    return "cuda"
