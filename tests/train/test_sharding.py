"""A run gives the same results on any number of devices, processes and with any placement."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from tiny import Symbols, TinyLM

import qjax
from qjax import train
from qjax.train import distributed

HERE = pathlib.Path(__file__).parent
# Sums over devices differ in the last bits, and rarely flip a rounding.
TOLERANCE = 2e-5


def lm_step():
    # Gradients are rounded stochastically, to four bits, so that other noise would show.
    model = qjax.quantize(TinyLM(), "mxfp4")
    return train.Step(
        task=train.LinenTask(model=model, train_kwargs={"deterministic": False}),
        optimizer=optax.adam(1e-2),
        clip=1.0,
    )


def losses(placement=None, tile=None, noise=None):
    step, symbols = lm_step(), Symbols(rows=8)
    state = step.init(jax.random.key(0), symbols[0])
    if noise is not None:
        state = state.replace(key=jax.random.key(noise))
    if placement is not None:
        state = placement.state(state, tile=tile)
    return train.run(step, state, symbols, steps=6, chunk=3, placement=placement)


@pytest.fixture(scope="module")
def alone():
    return losses().history["loss"]


PLACEMENTS = {
    "data 2": lambda: train.Placement(mesh=train.make_mesh(data=2)),
    "data 4": lambda: train.Placement(mesh=train.make_mesh(data=4)),
    "data 8": lambda: train.Placement(mesh=train.make_mesh(data=8)),
    "fully sharded 4": lambda: train.Placement(mesh=train.make_mesh(data=4), fully="data"),
    "tensor 2": lambda: train.Placement(
        mesh=train.make_mesh(data=2, model=2),
        rules=(("up/kernel", PartitionSpec(None, "model")), ("up/bias", PartitionSpec("model"))),
    ),
}


def test_other_noise_would_show(alone):
    other = losses(noise=5).history["loss"]
    assert np.abs(other[2:] / alone[2:] - 1).min() > 10 * TOLERANCE


@pytest.mark.parametrize("name", PLACEMENTS)
def test_losses_do_not_depend_on_the_placement(alone, name):
    placement = PLACEMENTS[name]()
    result = losses(placement)
    np.testing.assert_allclose(result.history["loss"], alone, rtol=TOLERANCE)
    kernel = result.state.params["up"]["kernel"]
    moment = result.state.opt_state[0].mu["up"]["kernel"]
    assert kernel.sharding == moment.sharding
    assert kernel.sharding.mesh == placement.mesh
    parts = {shard.data.shape for shard in kernel.addressable_shards}
    expected = {"fully sharded 4": (8, 32), "tensor 2": (32, 16)}.get(name, (32, 32))
    assert parts == {expected}


def test_a_tile_never_straddles_two_devices_silently():
    placement = PLACEMENTS["fully sharded 4"]()
    with pytest.raises(ValueError, match=r"8 elements of axis 0 .* tiles of 32 would straddle"):
        losses(placement, tile=32)


def test_an_axis_that_does_not_divide_is_refused():
    placement = train.Placement(
        mesh=train.make_mesh(data=3), rules=(("up/kernel", PartitionSpec("data")),)
    )
    with pytest.raises(ValueError, match=r"axis 0 of params/up/kernel \(32, 32\) over 3 devices"):
        losses(placement)


def test_an_unknown_mesh_axis_is_refused():
    with pytest.raises(ValueError, match="mesh axes model, but the mesh has data"):
        train.Placement(
            mesh=train.make_mesh(data=2), rules=(("up/kernel", PartitionSpec("model")),)
        )


@pytest.mark.parametrize("sizes", [{"data": 16}, {"data": -1, "model": -1}, {"data": 0}])
def test_a_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(ValueError, match="but there are 8 devices"):
        train.make_mesh(**sizes)


def test_the_rest_of_the_devices_go_to_the_open_axis():
    assert dict(train.make_mesh(data=-1, model=2).shape) == {"data": 4, "model": 2}


def test_a_process_started_alone_stays_alone(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert distributed.start() == 1
    assert distributed.first()
    assert distributed.agreed(15) == 15
    assert distributed.agreed(None) is None


def test_half_an_address_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match=r"JAX_PROCESS_ID is None\. Set all three"):
        distributed.start()


def test_two_processes_give_the_losses_of_one(alone):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    processes = []
    for index in range(2):
        environment = os.environ | {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(HERE.parent.parent),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, HERE / "two_processes.py"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outputs = [p.communicate(timeout=120) for p in processes]
    for out, errors in outputs:
        assert out.startswith("2 processes, 4 devices\n"), errors
        line = next(line for line in out.splitlines() if line.startswith("losses "))
        found = [float(value) for value in line.split()[1:]]
        np.testing.assert_allclose(found, alone, rtol=TOLERANCE)
