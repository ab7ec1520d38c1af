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


def fresh():
    return lm_step().init(jax.random.key(0), Symbols(rows=8)[0])


def losses(placement=None, tile=None, noise=None):
    step, symbols, state = lm_step(), Symbols(rows=8), fresh()
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


def resumed(checkpoints, placement, steps):
    """Goes on from the latest checkpoint, if there is one; returns the result and its start."""
    state, _ = checkpoints.resume(placement.state(fresh()))
    start = int(state.step)
    options = {"placement": placement, "checkpoints": checkpoints}
    result = train.run(lm_step(), state, Symbols(rows=8), steps=steps, chunk=2, **options)
    return result, start


def two_processes(folder, steps):
    """Runs two processes on one folder; returns where they started and the losses of each."""
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
        command = [sys.executable, HERE / "two_processes.py", folder, str(steps)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    outputs = [p.communicate(timeout=240) for p in processes]
    found = []
    for out, errors in outputs:
        lines = [line.split() for line in out.splitlines()]
        assert ["2", "processes,", "4", "devices,", "from"] in [line[:5] for line in lines], errors
        (start,) = (int(line[5]) for line in lines if line[1:2] == ["processes,"])
        (words,) = (line[1:] for line in lines if line[:1] == ["losses"])
        found.append((start, [float.fromhex(word) for word in words]))
    assert found[0] == found[1]
    return found[0]


def test_two_processes_give_the_losses_of_one_and_go_on_from_their_checkpoint(alone, tmp_path):
    pytest.importorskip("orbax.checkpoint", reason="the checkpoints extra is not installed")
    start, whole = two_processes(tmp_path / "whole", 6)
    assert start == 0
    np.testing.assert_allclose(whole, alone, rtol=TOLERANCE)
    assert two_processes(tmp_path / "parts", 4) == (0, whole[:4])
    assert two_processes(tmp_path / "parts", 6) == (4, whole[4:])
    # One process on other devices reads what two wrote.
    with train.Checkpoints(tmp_path / "parts", recipe="mxfp4", every=2) as checkpoints:
        assert checkpoints.latest == 6
        state, _ = checkpoints.resume(PLACEMENTS["data 8"]().state(fresh()), step=4)
    last = train.run(lm_step(), state, Symbols(rows=8), steps=6, chunk=2,
                     placement=PLACEMENTS["data 8"]())  # fmt: skip
    np.testing.assert_allclose(last.history["loss"], whole[4:], rtol=TOLERANCE)
