"""A small run in its own process, made to be killed: `killable.py FOLDER STEPS [LIMIT]`.

Resumes where FOLDER says. With LIMIT, files may not grow beyond that many bytes: a full disk.
"""

import pathlib
import resource
import sys
import time

import jax
from tiny import Symbols, remembering_step

from qjax import train


class Slowly(Symbols):
    """Leaves time to be killed in."""

    def __getitem__(self, step):
        time.sleep(0.01)
        return super().__getitem__(step)


def main(folder, steps, limit=None):
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    folder = pathlib.Path(folder)
    step = remembering_step()
    fresh = step.init(jax.random.key(0), Symbols()[0])
    with train.Checkpoints(folder / "checkpoints", recipe="tiny", every=4) as checkpoints:
        state, _ = checkpoints.resume(fresh)
        print(f"from {int(state.step)}", flush=True)
        metrics = train.MetricsFile(folder / "run.jsonl", resume_at=int(state.step))
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        result = train.run(
            step, state, Slowly(), steps=steps, chunk=3, metrics=metrics, checkpoints=checkpoints
        )
    print(f"done {int(result.state.step)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:]))
