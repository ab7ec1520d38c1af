"""One of two processes that share a run: `two_processes.py FOLDER STEPS`; prints the losses.

The environment says which process it is. Resumes where FOLDER says and leaves a checkpoint there.
"""

import sys

import jax
import test_sharding

from qjax import train
from qjax.train import distributed


def main(folder, steps):
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    count = distributed.start()
    placement = train.Placement(mesh=train.make_mesh(data=4), fully="data")
    with train.Checkpoints(folder, recipe="mxfp4", every=2) as checkpoints:
        result, start = test_sharding.resumed(checkpoints, placement, int(steps))
    print(f"{count} processes, {jax.device_count()} devices, from {start}")
    print("losses", *(float(loss).hex() for loss in result.history["loss"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
