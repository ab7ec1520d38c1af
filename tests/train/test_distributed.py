"""What launchers leave in the environment is read as it is meant, and half of it is refused."""

import pytest

from qjax.train import distributed
from qjax.train.distributed import Launch, launch

SRUN = {
    "SLURM_JOB_ID": "81",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "node[001-002]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
SLICE = {"TPU_WORKER_HOSTNAMES": "t-0,t-1,t-2,t-3", "TPU_WORKER_ID": "2"}
SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}
HAND = {
    "JAX_COORDINATOR_ADDRESS": "first:1234",
    "JAX_NUM_PROCESSES": "16",
    "JAX_PROCESS_ID": "15",
}


@pytest.mark.parametrize(
    ("environment", "launcher", "processes", "index", "address"),
    [
        (HAND, "JAX_COORDINATOR_ADDRESS", 16, 15, "first:1234"),
        (SRUN, "SLURM", 4, 3, None),
        (MPI, "Open MPI", 2, 1, None),
        (SLICE, "TPU", 4, 2, None),
        (SLICE | SLICES, "TPU", 8, 6, None),
        ({"TPU_WORKER_HOSTNAMES": "t-0", **SLICES}, "TPU", 2, 1, None),
        (SLICES, "TPU", 2, 1, None),
        # What is set by hand decides, wherever it is set.
        (SRUN | HAND, "JAX_COORDINATOR_ADDRESS", 16, 15, "first:1234"),
        # One task of SLURM may be one host of a slice.
        (SLICE | SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, "TPU", 4, 2, None),
    ],
)
def test_each_launcher_is_read(environment, launcher, processes, index, address):
    found = launch(environment)
    assert found == Launch(launcher=launcher, processes=processes, index=index, address=address)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PATH": "/bin"},
        # A batch script is one process, whatever its job has been given.
        {"SLURM_JOB_ID": "81", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        HAND | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    ],
)
def test_a_process_started_alone_stays_alone(environment, monkeypatch):
    assert launch(environment) is None
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.start() == 1
    assert distributed.first()
    assert distributed.agreed(15) == 15
    assert distributed.agreed(None) is None


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID is not set"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES is not set, JAX_PROCESS_ID is not"),
        (HAND | {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is two"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_PROCID is not set"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_RANK is not set"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID is not set"),
        ({"MEGASCALE_NUM_SLICES": "2"}, "MEGASCALE_SLICE_ID is not set"),
        (HAND | {"JAX_PROCESS_ID": "16"}, "process 16 of 16, and counting begins at 0"),
        (HAND | {"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID is -1"),
    ],
)
def test_half_a_description_is_refused(environment, sentence):
    with pytest.raises(ValueError, match=sentence):
        launch(environment)


@pytest.mark.parametrize(("environment", "arguments"), [(HAND, ("first:1234", 16, 15)), (SRUN, ())])
def test_a_run_that_did_not_come_together_is_said(environment, arguments, monkeypatch):
    """JAX is asked to join, and what it joined is compared with what was promised."""
    asked = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *given: asked.append(given))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match="JAX joined as process 0 of 1"):
        distributed.start()
    assert asked == [arguments]


def test_jax_looks_for_a_cluster_only_when_told_to(monkeypatch):
    asked = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *given: asked.append(given))
    assert distributed.start() == 1
    assert asked == []
    assert distributed.start(look=True) == 1
    assert asked == [()]
