"""Starts a run that spans several processes, and lets them agree. Meshes are in `sharding`."""

import dataclasses
import os
from collections.abc import Mapping

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """What the environment says about the run that a process belongs to.

    Attributes:
      launcher: Who started it.
      processes: Number of processes, more than 1.
      index: Number of this one, from 0.
      address: The first process, host:port; None where JAX finds it by itself.
    """

    launcher: str
    processes: int
    index: int
    address: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.processes:
            raise ValueError(
                f"{self.launcher} says that this is process {self.index} of {self.processes}, and "
                f"counting begins at 0. Give every process its own number below {self.processes}."
            )


def launch(environment: Mapping[str, str]) -> Launch | None:
    """Reads what launchers leave in the environment of each process.

    In this order: `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` (by hand);
    SLURM (`srun`), Open MPI, and Cloud TPU or GKE, one slice or several.

    Args:
      environment: Variables by name.

    Returns:
      The run, or None where the process was started alone.

    Raises:
      ValueError: If only a part is set, or a number is none; the variables are named.
    """
    for found in (_by_hand(environment), _slurm(environment), _mpi(environment), _tpu(environment)):
        if found is not None and found.processes > 1:
            return found
    return None


def _by_hand(environment: Mapping[str, str]) -> Launch | None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if names[0] not in environment:
        return None
    count, index = _numbers(environment, names[0], *names[1:])
    return Launch(launcher=names[0], processes=count, index=index, address=environment[names[0]])


def _slurm(environment: Mapping[str, str]) -> Launch | None:
    # The job's own SLURM_NTASKS is set in a batch script too, which is one process; the step's
    # number only where `srun` started the tasks.
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return None
    count, index = _numbers(environment, "SLURM", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    return Launch(launcher="SLURM", processes=count, index=index)


def _mpi(environment: Mapping[str, str]) -> Launch | None:
    names = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
    if names[0] not in environment:
        return None
    count, index = _numbers(environment, "Open MPI", *names)
    return Launch(launcher="Open MPI", processes=count, index=index)


def _tpu(environment: Mapping[str, str]) -> Launch | None:
    hosts = environment.get("TPU_WORKER_HOSTNAMES")
    several = "MEGASCALE_NUM_SLICES" in environment
    if hosts is None and not several:
        return None
    per_slice = len(hosts.split(",")) if hosts else 1
    worker = _numbers(environment, "TPU", "TPU_WORKER_ID")[0] if per_slice > 1 else 0
    slices, part = 1, 0
    if several:
        names = ("MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")
        slices, part = _numbers(environment, "TPU", *names)
    return Launch(launcher="TPU", processes=per_slice * slices, index=worker + part * per_slice)


def _numbers(environment: Mapping[str, str], launcher: str, *names: str) -> list[int]:
    values = [environment.get(name) for name in names]
    if not all(value is not None and value.isdecimal() for value in values):
        said = ", ".join(f"{n} is {'not set' if v is None else v}" for n, v in zip(names, values))
        raise ValueError(
            f"The environment speaks of a run of several processes ({launcher}), but {said}. "
            "Set all of its variables to whole numbers, or unset them to run alone."
        )
    return [int(value) for value in values if value is not None]


def start(*, look: bool = False) -> int:
    """Joins the processes of one run, as the environment describes them; call it first.

    Does nothing where the process was started alone; see `launch` for what is read.

    Args:
      look: Let JAX look for a cluster where the environment speaks of none: a Cloud TPU machine
        knows its slice from a metadata server, which takes a connection to ask.

    Returns:
      The number of processes.

    Raises:
      ValueError: If the environment says half of it.
      RuntimeError: If another number of processes joined than the environment speaks of.
    """
    run = launch(os.environ)
    if run is not None and run.address is not None:
        jax.distributed.initialize(run.address, run.processes, run.index)
    elif run is not None or look:
        jax.distributed.initialize()
    joined = (jax.process_count(), jax.process_index())
    if run is not None and joined != (run.processes, run.index):
        raise RuntimeError(
            f"{run.launcher} speaks of process {run.index} of {run.processes}, but JAX joined as "
            f"process {joined[1]} of {joined[0]}. Call `start` before anything else touches a "
            "device, and set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID where "
            "JAX does not know the launcher."
        )
    return joined[0]


def first() -> bool:
    """Whether this process is the one that prints and writes tables."""
    return jax.process_index() == 0


def agreed(number: int | None) -> int | None:
    """Returns a number that any process has: what one was told, all do."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    told = multihost_utils.process_allgather(np.int32(number or 0))
    return int(np.max(told)) or None
