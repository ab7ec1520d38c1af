"""Checkpoints of a run: whole or not at all, written while training goes on, naming the recipe.

Orbax does the writing: a checkpoint is made under a temporary name and renamed when complete,
so a killed process leaves the last whole one. What is restored is checked here, by name.
"""

import difflib
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import PyTree
from qjax.qtensor import QTensor
from qjax.train.state import State
from qjax.train.versions import versions

FILE_FORMAT = 1


class CheckpointError(OSError):
    """A checkpoint that could not be written; the earlier ones are intact."""


class Checkpoints:
    """A folder of checkpoints of one run, as a context manager.

    Keeps the latest `keep` and, where evaluations are given, the one with the lowest loss. Saving
    is asynchronous; leaving the context waits for what is under way.

    Args:
      folder: Where they lie; made if missing.
      recipe: What the run computes in: anything whose `repr` says so in full (a Recipe does).
        Restoring under another recipe is refused.
      keep: Number of latest checkpoints kept.
      every: Steps between checkpoints.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        recipe: Any = None,
        keep: int = 2,
        every: int = 100,
    ):
        if keep < 1 or every < 1:
            raise ValueError(
                f"`keep` and `every` must be at least 1, but are {keep} and {every}. Give more."
            )
        self.folder = pathlib.Path(folder).absolute()
        self.recipe, self.keep, self.every = recipe, keep, every
        self._manager = _manager(self.folder, keep)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *exception: object) -> None:
        if kind is None:
            self.wait()
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the latest whole checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the lowest held-out loss, or None where none has one."""
        step = self._manager.best_step()
        return step if step is not None and self._manager.metrics(step) else None

    def save(self, state: State, *, loss: float | None = None, position: Any = None) -> None:
        """Starts writing `state`; returns once its values are copied, so it may be donated.

        Args:
          state: The run after some step.
          loss: The held-out loss there, which ranks checkpoints.
          position: Position in the data (a JSON value), where it is not the step itself.

        Raises:
          CheckpointError: If this or the checkpoint before it could not be written.
        """
        from orbax import checkpoint as ocp

        leaves = named_leaves(state)
        about = {
            "format": FILE_FORMAT,
            "versions": versions(),
            "recipe": repr(self.recipe),
            "leaves": {name: _kind(leaf) for name, leaf in leaves.items()},
            "types": _types(state),
            "position": position,
        }
        # On a CPU the writer would read the very buffers that the next step is given to reuse.
        copied = {name: jnp.copy(leaf) for name, leaf in leaves.items()}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(copied), about=ocp.args.JsonSave(about)
        )
        # Empty, not None, of which Orbax would warn at every save of a run without evaluations.
        metrics = {} if loss is None else {"loss": loss}
        self._guarded(lambda: self._manager.save(int(state.step), args=arguments, metrics=metrics))

    def wait(self) -> None:
        """Waits for the checkpoint under way.

        Raises:
          CheckpointError: If it could not be written.
        """
        self._guarded(self._manager.wait_until_finished)

    def resume(self, state: State, *, step: int | None = None) -> tuple[State, Any]:
        """Returns the state of a checkpoint, or `state` where there is none, and the data position.

        Args:
          state: A fresh state of the same run; it gives the structure and the sharding.
          step: Which checkpoint; None: the latest.

        Raises:
          ValueError: If the checkpoint is of another recipe or another model; the difference is
            shown.
        """
        from orbax import checkpoint as ocp

        step = self.latest if step is None else step
        if step is None:
            return state, None
        about = self._manager.restore(
            step, args=ocp.args.Composite(about=ocp.args.JsonRestore())
        ).about
        leaves = named_leaves(state)
        types = _types(state)
        about["leaves"] |= about.get("types", types)  # Early checkpoints do not say them.
        self._check(about, {name: _kind(leaf) for name, leaf in leaves.items()} | types, step)
        like = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in leaves.items()
        }
        found = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
        ).state
        return with_leaves(state, found), about["position"]

    def _check(self, about: dict[str, Any], leaves: dict[str, str], step: int) -> None:
        where = f"The checkpoint of step {step} in {self.folder}"
        if about["format"] != FILE_FORMAT:
            raise ValueError(
                f"{where} has layout {about['format']}, and this version of qjax reads layout "
                f"{FILE_FORMAT}. Resume with the version that wrote it: {about['versions']}."
            )
        if about["recipe"] != repr(self.recipe):
            raise ValueError(
                f"{where} was trained under another recipe. Resume with the recipe it names, or "
                f"choose another folder. The difference (- checkpoint, + asked for):\n"
                + _difference(about["recipe"], repr(self.recipe))
            )
        if about["leaves"] != leaves:
            lines = [
                f"  {name}: {about['leaves'].get(name, 'absent')} there, "
                f"{leaves.get(name, 'absent')} asked for"
                for name in sorted(about["leaves"].keys() | leaves.keys())
                if about["leaves"].get(name) != leaves.get(name)
            ]
            raise ValueError(
                f"{where} holds another model or optimizer. Resume with the same sizes, or choose "
                "another folder. The difference:\n" + "\n".join(lines[:20])
            )

    def _guarded(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except (OSError, ValueError, RuntimeError) as error:
            latest = self._manager.latest_step()
            last = "none is whole yet" if latest is None else f"the last whole one is {latest}"
            raise CheckpointError(
                f"A checkpoint could not be written to {self.folder}: {last}. Free space or choose "
                f"another folder, and run again to go on from there. The cause: {error}"
            ) from error


def _types(tree: PyTree) -> dict[str, str]:
    """What the codes in `tree` are codes of: codes of two types may look the same as arrays."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, QTensor))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf!r}: {leaf.qtype!r}"
        for path, leaf in found
        if isinstance(leaf, QTensor)
    }


def named_leaves(tree: PyTree) -> dict[str, jax.Array]:
    """Leaves of `tree` by path; random keys as their raw data."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _raw(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def with_leaves(tree: PyTree, leaves: dict[str, jax.Array]) -> PyTree:
    """Returns `tree` with its leaves replaced by those of `named_leaves`."""

    def put(path: Any, leaf: jax.Array) -> jax.Array:
        new = leaves[jax.tree_util.keystr(path, simple=True, separator="/")]
        return jax.random.wrap_key_data(new, impl=jax.random.key_impl(leaf)) if _keys(leaf) else new

    return jax.tree_util.tree_map_with_path(put, tree)


def _keys(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if _keys(leaf) else leaf


def _kind(leaf: jax.Array) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _difference(old: str, new: str) -> str:
    """A line-by-line difference of two representations, one field a line."""

    def lines(text: str) -> list[str]:
        return text.replace(", ", ",\n").splitlines()

    changed = difflib.unified_diff(lines(old), lines(new), lineterm="", n=1)
    return "\n".join(f"  {line}" for line in changed if not line.startswith(("---", "+++", "@@")))


def _ranked(metrics: dict[str, float]) -> float:
    """The loss that a checkpoint is ranked by; without one it comes last."""
    return metrics.get("loss", math.inf)


def _manager(folder: pathlib.Path, keep: int) -> Any:
    from orbax import checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies

    best = policies.BestN(
        get_metric_fn=_ranked,
        reverse=True,
        n=1,
        keep_checkpoints_without_metrics=False,
    )
    options = ocp.CheckpointManagerOptions(
        best_fn=_ranked,
        best_mode="min",
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager(folder, options=options, item_names=("state", "about"))
