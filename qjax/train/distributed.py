"""Starts a run that spans several processes, and lets them agree. Meshes are in `sharding`."""

import os

import jax
import numpy as np

# What launchers leave in the environment of each process, and JAX can read by itself.
LAUNCHERS = {
    "SLURM": "SLURM_STEP_NUM_TASKS",
    "Open MPI": "OMPI_COMM_WORLD_SIZE",
    "Cloud TPU": "TPU_WORKER_HOSTNAMES",
    "GKE": "MEGASCALE_COORDINATOR_ADDRESS",
}


def start() -> int:
    """Joins the processes of one run, as the environment describes them; call it first.

    Reads `JAX_COORDINATOR_ADDRESS` (host:port), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`; where
    they are not set, what SLURM, Open MPI, Cloud TPU or GKE set. Does nothing where
    the process was started alone.

    Returns:
      The number of processes.

    Raises:
      ValueError: If an address is set without the number of processes and this one's own.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is not None:
        numbers = [os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")]
        if None in numbers:
            raise ValueError(
                f"JAX_COORDINATOR_ADDRESS is {address}, but JAX_NUM_PROCESSES is {numbers[0]} and "
                f"JAX_PROCESS_ID is {numbers[1]}. Set all three, or none."
            )
        jax.distributed.initialize(address, int(numbers[0] or 1), int(numbers[1] or 0))
    elif any(_several(os.environ.get(name)) for name in LAUNCHERS.values()):
        jax.distributed.initialize()
    return jax.process_count()


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


def _several(value: str | None) -> bool:
    """Whether a launcher's variable (count, host names or address) speaks of several processes."""
    if value is None:
        return False
    return int(value) > 1 if value.isdigit() else "," in value or ":" in value
