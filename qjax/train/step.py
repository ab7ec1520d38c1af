"""One training step: task, optimizer and recipe bound into a pure function of state and batch.

The loop that repeats it, and anything on the host, is `qjax.train.loop`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qjax._typing import Array, DTypeLike, Key, PyTree
from qjax.train import memory
from qjax.train.exchange import Exchange
from qjax.train.gradients import narrow, value_and_gradient
from qjax.train.loss_scale import LossScale
from qjax.train.schedules import Phases, Schedule
from qjax.train.state import State
from qjax.train.tasks import Outcome, Task
from qjax.train.tasks.base import check_applicable, joined, quantized


# Compared by identity: a step holds functions, and `jax.jit(step)` needs it hashable.
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """How one step is taken. Calling it maps (state, batch) to (state, metrics).

    Attributes:
      task: What is trained.
      optimizer: An optax transformation.
      recipe: Applied to the task's model in every step: a recipe, a `Schedule`, or `Phases`
        (which only `run` follows); None leaves the model as it is.
      accumulate: Parts a batch is split into, one after the other, their gradients averaged.
      clip: Largest global norm of the gradient; None does not clip.
      compute_dtype: Floating-point dtype the model sees its parameters in; the optimizer
        keeps the masters in their own. None: no cast.
      loss_scale: Factor on the loss for narrow-range formats; None: 1.
      ema: Decay of a moving average of the parameters, in (0, 1), used by `evaluate`; None: none.
      remat: A policy of `jax.checkpoint_policies`: what the forward pass keeps.
      exchange: Averages gradients over devices in few bits; None leaves that to XLA.
    """

    task: Task
    optimizer: optax.GradientTransformation
    recipe: Any = None
    accumulate: int = 1
    clip: float | None = None
    compute_dtype: DTypeLike | None = None
    loss_scale: LossScale | None = None
    ema: float | None = None
    remat: Callable[..., bool] | None = None
    exchange: Exchange | None = None

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"`accumulate` must be at least 1, but is {self.accumulate}. Give 1.")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"`clip` must be positive, but is {self.clip}. Give None not to clip.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"`ema` must lie in (0, 1), but is {self.ema}. Try 0.999.")
        # A task of the user's own may apply recipes in another way.
        check_applicable(getattr(self.task, "quantize", quantized), self.recipe)

    def init(self, key: Key, batch: PyTree) -> State:
        """Returns the state before the first step; `batch` only gives shapes and dtypes."""

        def build(key: Key) -> State:
            for_params, for_steps = jax.random.split(key)
            schedule = self.recipe.init() if isinstance(self.recipe, Schedule) else None
            params, variables = self._start(for_params, batch, schedule)
            return State(
                step=jnp.zeros((), jnp.int32),
                params=params,
                opt_state=self.optimizer.init(params),
                key=for_steps,
                variables=variables,
                loss_scale=None if self.loss_scale is None else self.loss_scale.init(),
                average=None if self.ema is None else narrow(params, jnp.float32),
                schedule=schedule,
            )

        return jax.jit(build)(key)

    def _start(self, key: Key, batch: PyTree, schedule: Any) -> tuple[PyTree, PyTree]:
        """Parameters and other variables, those that operands of a later phase need included."""
        if not isinstance(self.recipe, Phases):
            return self.task.init(key, batch, self._recipe_at(jnp.int32(0), schedule))
        found = [self.task.init(key, batch, recipe) for recipe in self.recipe.recipes]
        if len({type(params) for params, _ in found}) > 1:
            raise ValueError(
                "In some phases of the step's `recipe` operands of a function learn, and in others "
                "they do not, so the parameters of the phases have different forms. Let every "
                "phase learn, or train a linen or nnx module."
            )
        return functools.reduce(lambda a, b: (joined(a[0], b[0]), joined(a[1], b[1])), found)

    def __call__(self, state: State, batch: PyTree) -> tuple[State, dict[str, Array]]:
        """Takes one step.

        Args:
          state: The run so far; read, not changed.
          batch: Pytree of arrays whose first axis is the batch.

        Returns:
          The next state, and scalars by name: `loss`, `grad_norm` (before clipping), the
          task's own metrics, and facts about casts where the model was quantized with
          `diagnostics=True`.
        """
        result, grads = self._differentiated(state, batch)
        variables, facts = memory.measure(result.variables)
        norm = global_norm(grads)
        if self.clip is not None:
            grads = clip_by(grads, norm, self.clip)
        # optax mixes integer counts with floats, which strict promotions refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        following = state.replace(
            step=state.step + 1,
            params=apply_updates(state.params, updates),
            opt_state=opt_state,
            variables=variables,
        )
        metrics = {"loss": result.loss, "grad_norm": norm, **result.metrics, **facts}
        if isinstance(self.recipe, Schedule):
            following = following.replace(schedule=self.recipe.update(state.schedule, metrics))
        return self._averaged(self._scaled(state, following, jnp.isfinite(norm))), metrics

    def _differentiated(self, state: State, batch: PyTree) -> tuple[Outcome, PyTree]:
        """The outcome of a batch and its gradient, averaged over devices."""
        scale = None if self.loss_scale is None else self.loss_scale.value(state.loss_scale)
        key, recipe = jax.random.fold_in(state.key, state.step), self.current(state)

        def differentiate(batch: PyTree, key: Key) -> tuple[Outcome, PyTree]:
            return value_and_gradient(
                self.task,
                state.params,
                state.variables,
                batch,
                key=key,
                recipe=recipe,
                scale=scale,
                accumulate=self.accumulate,
                compute_dtype=self.compute_dtype,
                remat=self.remat,
            )

        if self.exchange is None:
            return differentiate(batch, key)
        return self.exchange.gradients(differentiate, batch, key)

    def evaluate(self, state: State, batch: PyTree, key: Key) -> Array:
        """Returns the loss of a batch, float32 scalar, using averaged parameters if there are."""
        params = state.params if state.average is None else state.average
        params = narrow(params, self.compute_dtype)
        return self.task.loss(
            params, state.variables, batch, key=key, recipe=self.current(state), mode="evaluate"
        ).loss

    def current(self, state: State) -> Any:
        """Returns the recipe that holds after `state.step` steps, or None.

        Raises:
          TypeError: If the recipe is `Phases`, each of which is a program of its own.
        """
        if isinstance(self.recipe, Phases):
            raise TypeError(
                "One program computes in one phase, but the step's `recipe` is `Phases`. Train "
                "with `run`, or take the step of a phase: `step.in_phase(k)`."
            )
        return self._recipe_at(state.step, state.schedule)

    def _recipe_at(self, step: Array, schedule: Any) -> Any:
        if isinstance(self.recipe, Schedule):
            return self.recipe.recipe(step, schedule)
        return self.recipe

    def in_phase(self, index: int) -> "Step":
        """Returns the step of one phase; itself where the recipe has no phases."""
        if not isinstance(self.recipe, Phases):
            return self
        return dataclasses.replace(self, recipe=self.recipe.recipes[index])

    def _scaled(self, before: State, after: State, finite: Array) -> State:
        """Moves the loss scale on; where it says so, an overflowing step leaves no trace."""
        if self.loss_scale is None:
            return after
        if self.loss_scale.skips:
            kept = (before.params, before.opt_state, before.variables)
            new = (after.params, after.opt_state, after.variables)
            chosen = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, kept)
            after = after.replace(params=chosen[0], opt_state=chosen[1], variables=chosen[2])
        return after.replace(loss_scale=self.loss_scale.update(before.loss_scale, finite))

    def _averaged(self, state: State) -> State:
        if self.ema is None:
            return state
        # The first steps are averaged over less, or the initial parameters would linger.
        taken = state.step.astype(jnp.float32)
        decay = jnp.minimum(self.ema, (1 + taken) / (10 + taken))
        average = jax.tree.map(
            lambda a, p: a * decay + p.astype(jnp.float32) * (1 - decay),
            state.average,
            state.params,
        )
        return state.replace(average=average)


def global_norm(tree: PyTree) -> Array:
    """Euclidean norm over all leaves, float32."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def clip_by(tree: PyTree, norm: Array, largest: float) -> PyTree:
    """Scales `tree` so that its global norm, given as `norm`, is at most `largest`."""
    factor = jnp.minimum(1.0, largest / jnp.maximum(norm, 1e-30))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), tree)


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """Adds `updates` to `params` in float32; each parameter keeps its dtype."""
    return jax.tree.map(
        lambda p, u: (p.astype(jnp.float32) + u.astype(jnp.float32)).astype(p.dtype),
        params,
        updates,
    )
