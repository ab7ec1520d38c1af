"""One of two processes that share a run; the environment says which. Prints the losses."""

import jax
import test_sharding

from qjax import train
from qjax.train import distributed


def main():
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    count = distributed.start()
    print(f"{count} processes, {jax.device_count()} devices")
    result = test_sharding.losses(train.Placement(mesh=train.make_mesh(data=4), fully="data"))
    print("losses", *result.history["loss"])


if __name__ == "__main__":
    main()
