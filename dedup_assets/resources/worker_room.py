"""What the workers have, taken together: the device that all of them use, and how much runs at once.

Asked of the workers, because the client may have other devices than they, or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dedup_assets.errors import ClusterError, reason
from dedup_assets.resources.worker_device import WorkerRoom


@dataclass(frozen=True)
class Lanes:
    """What runs at once.

    Attributes
    ----------
    tasks : int
        Large tasks on all workers.
    threads : int
        Of the host, for each of them.
    gpus : int
        0 where the work is done on CPUs.
    """

    tasks: int
    threads: int
    gpus: int

    @property
    def shares(self) -> int:
        """Parts that work is divided among: two tasks on one GPU are one after the other on it."""
        return self.gpus or self.tasks


ONE_LANE = Lanes(1, 1, 0)


def lanes_of(rooms: Sequence[WorkerRoom]) -> Lanes:
    """The lanes of workers elsewhere. A CPU worker takes a task on every thread; a GPU worker has a share of the cores
    of its machine, because a GPU that waits for its host is the dearest thing there."""
    tasks = max(1, sum(room.threads for room in rooms))
    gpus = [room for room in rooms if room.device != "cpu"]
    if not gpus:
        return Lanes(tasks, 1, 0)
    beside = {room.machine: sum(other.machine == room.machine for other in gpus) for room in gpus}
    return Lanes(tasks, max(1, min(room.cores // beside[room.machine] for room in gpus)), len(gpus))


def answered(answers: Mapping[str, Any]) -> list[Any]:
    """What workers answered. Raises ClusterError where one ended with an exception."""
    for worker, answer in answers.items():
        if isinstance(answer, BaseException):
            raise ClusterError(
                f"Dask worker {worker} cannot say what GPU and memory it has: {type(answer).__name__}: "
                f"{reason(answer)}. Mend or end it, or use --device cpu: the decisions are the same."
            ) from answer
    return list(answers.values())


def agreed_device(wanted: str, answers: Mapping[str, Any]) -> str:
    """`cpu` or `cuda`, the same for all workers: where only some had a GPU, a text's vector would depend on which of
    them came first to it, and all would wait for the slow ones.

    Parameters
    ----------
    wanted : {"auto", "cpu", "cuda"}
    answers
        By worker `cpu`, `cuda`, or the exception that asking it ended with.

    Raises
    ------
    ClusterError
        Some workers have a usable GPU and others have none; or CUDA is wanted and one has none.
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
