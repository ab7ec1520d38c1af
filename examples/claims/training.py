"""Trains one arm of a claim for all its seeds, in one compiled program.

The whole run is a loop on the device, mapped over seeds. A seed decides parameters, noise and
the order of the data, alike in every arm, so that arms can be compared seed by seed.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.claims.settings import Setting
from qjax import train


def train_arm(
    setting: Setting,
    step: train.Step,
    seeds: Sequence[int],
    *,
    measure: Callable[[train.State], Any] | None = None,
    watch: Callable[[train.State], Any] | None = None,
) -> dict[str, np.ndarray]:
    """Trains one arm with every seed.

    Args:
      setting: Gives batches, the held-out batch and the number of steps.
      step: How a step is taken; its recipe may be a schedule, or phases.
      seeds: One run each.
      measure: Maps the state at the end to further scalars by name, one program.
      watch: Maps the state after each step to a scalar; its mean is reported as `watched`.

    Returns:
      By name, one number per seed: `loss` on the held-out batch in nats, `accuracy` in percent,
      and what `measure` and `watch` give. The model computes in the recipe that holds at the end.
    """

    def init(seed: jax.Array) -> train.State:
        start, data, _ = _keys(seed)
        return step.init(start, setting.batch(data))

    def run(seed: jax.Array, state: train.State, held_out: Any) -> dict[str, jax.Array]:
        _, data, noise = _keys(seed)
        state, seen = _trained(setting, step, state, data, watch)
        found = _evaluated(setting, step, state, held_out, noise)
        more = {} if measure is None else measure(state)
        more |= {} if watch is None else {"watched": seen / setting.steps}
        return {"loss": found.loss, **found.metrics, **more}

    # A program of its own: what seeds remember would be one and the same where it began so.
    states = jax.jit(jax.vmap(init))(numbers := jnp.asarray(seeds, jnp.int32))
    # An argument: XLA would quantize a constant while it compiles, which is slow.
    program = jax.jit(jax.vmap(run, (0, 0, None)))
    results = program(numbers, states, setting.held_out)
    return {name: np.asarray(values, np.float64) for name, values in results.items()}


def train_arms(
    setting: Setting,
    arms: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    figure: str = "loss",
    **options: Any,
) -> dict[str, list[float]]:
    """Trains every arm and returns one figure per seed for each.

    Args:
      setting: What is trained.
      arms: By name a recipe (or its name, a schedule, phases, or None for the plain model), or
        a `train.Step` made by `setting.step`.
      seeds: One run each.
      figure: "loss" or "accuracy".
      **options: Further fields of every step.
    """
    found = {}
    for name, arm in arms.items():
        step = arm if isinstance(arm, train.Step) else setting.step(arm, **options)
        found[name] = [float(value) for value in train_arm(setting, step, seeds)[figure]]
    return found


def _keys(seed: jax.Array) -> jax.Array:
    """Keys of the parameters, of the data, and of the noise of the evaluation."""
    return jax.random.split(jax.random.key(seed), 3)


def _trained(
    setting: Setting,
    step: train.Step,
    state: train.State,
    data: jax.Array,
    watch: Callable[[train.State], Any] | None,
) -> tuple[train.State, jax.Array]:
    """The state after all steps, and the sum of what was watched."""
    seen = jnp.zeros((), jnp.float32)
    for phase, (begin, end) in enumerate(itertools.pairwise(_bounds(step, setting.steps))):
        now = step.in_phase(phase)

        def body(carry: Any, t: jax.Array, now: train.Step = now) -> Any:
            state, seen = carry
            state = now(state, setting.batch(jax.random.fold_in(data, t)))[0]
            return (state, seen if watch is None else seen + watch(state)), None

        (state, seen), _ = jax.lax.scan(body, (state, seen), jnp.arange(begin, end))
    return state, seen


def _evaluated(
    setting: Setting, step: train.Step, state: train.State, held_out: Any, noise: jax.Array
) -> Any:
    """The outcome of the held-out batch, in the recipe of the last phase."""
    last = step.in_phase(len(_bounds(step, setting.steps)) - 2)
    params = state.params if state.average is None else state.average
    where = {"key": noise, "recipe": last.current(state), "mode": "evaluate"}
    return last.task.loss(params, state.variables, held_out, **where)


def _bounds(step: train.Step, steps: int) -> list[int]:
    """The steps at which phases begin, and the last."""
    inner = step.recipe.boundaries if isinstance(step.recipe, train.Phases) else ()
    return [0, *inner, steps]
