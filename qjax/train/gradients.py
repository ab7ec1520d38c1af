"""The loss and its gradient over one batch: accumulation, narrow compute, loss scale, remat.

What is done with the gradient is the step's business.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qjax._typing import Array, DTypeLike, Key, PyTree
from qjax.train import memory
from qjax.train.tasks import Outcome, Task


def narrow(tree: PyTree, dtype: DTypeLike | None) -> PyTree:
    """Casts the floating-point leaves of `tree` to `dtype`; None leaves everything as it is."""
    if dtype is None:
        return tree
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def split_batch(batch: PyTree, parts: int) -> PyTree:
    """Reshapes the leaves of `batch` from [B, ...] to [parts, B / parts, ...].

    Part `i` takes the rows `i, i + parts, ...`, so that a batch sharded over devices along B
    stays on them.

    Raises:
      ValueError: If B is not a multiple of `parts`.
    """

    def split(leaf: Array) -> Array:
        rows = leaf.shape[0]
        if rows % parts:
            raise ValueError(
                f"`accumulate` splits a batch into {parts} equal parts, but the batch has {rows} "
                f"rows. Use a batch that is a multiple of {parts}."
            )
        return jnp.swapaxes(leaf.reshape(rows // parts, parts, *leaf.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)


def value_and_gradient(
    task: Task,
    params: PyTree,
    variables: PyTree,
    batch: PyTree,
    *,
    key: Key,
    recipe: Any = None,
    scale: Array | None = None,
    accumulate: int = 1,
    compute_dtype: DTypeLike | None = None,
    remat: Callable[..., bool] | None = None,
) -> tuple[Outcome, PyTree]:
    """Returns the outcome of a batch and the gradient of its loss in `params`.

    Args:
      task: Gives the loss.
      params: Parameters, whose dtypes the gradients keep.
      variables: Other variables; with several parts each part sees those the last one left,
        except states of quantizers: all parts start from the same, as one batch would.
      batch: Leaves [B, ...].
      key: Random key; part `i` of several uses `fold_in(key, i)`.
      recipe: Passed on to the task.
      scale: Factor on the loss before differentiation, taken out of the gradients again.
      accumulate: Number of parts the batch is split into, one after the other.
      compute_dtype: Floating-point dtype the model sees its parameters in; None: their own.
      remat: A policy of `jax.checkpoint_policies`: what the forward pass keeps.
    """
    loss = _scaled_loss(task, recipe, scale, compute_dtype)
    if remat is not None:
        loss = jax.checkpoint(loss, policy=remat)

    def differentiate(params: PyTree, variables: PyTree, batch: PyTree, key: Key) -> Any:
        moving = (params, memory.split(variables))
        return jax.grad(loss, has_aux=True)(moving, variables, batch, key)

    given = (params, variables, batch, key)
    if accumulate == 1:
        (grads, found), result = differentiate(*given)
    else:
        (grads, found), result = _accumulated(differentiate, *given, accumulate)
    if scale is not None:
        grads = jax.tree.map(lambda g: g / scale.astype(g.dtype), grads)
    return result._replace(variables=memory.put(result.variables, found)), grads


def _scaled_loss(
    task: Task, recipe: Any, scale: Array | None, compute_dtype: DTypeLike | None
) -> Callable[..., tuple[Array, Outcome]]:
    """The loss as a function of parameters and of what gradients bring back."""

    def loss(moving: Any, variables: PyTree, batch: PyTree, key: Key) -> tuple[Array, Outcome]:
        params, remembered = moving
        params, variables = narrow(params, compute_dtype), memory.place(variables, remembered)
        result = task.loss(params, variables, batch, key=key, recipe=recipe)
        return result.loss if scale is None else result.loss * scale, result

    return loss


def _accumulated(
    differentiate: Callable[..., Any],
    params: PyTree,
    variables: PyTree,
    batch: PyTree,
    key: Key,
    parts: int,
) -> tuple[tuple[PyTree, PyTree], Outcome]:
    def body(carry: tuple[PyTree, PyTree, PyTree], part: tuple[Array, PyTree]):
        total, seen, variables = carry
        index, batch = part
        key_of_part = jax.random.fold_in(key, index)
        (grads, found), result = differentiate(params, variables, batch, key_of_part)
        total = jax.tree.map(lambda t, g: t + g.astype(jnp.float32), total, grads)
        seen = memory.join(seen, {**found, **memory.forward(result.variables)})
        # The next part starts from the same states: together they count as one batch.
        variables = memory.place(result.variables, memory.forward(variables))
        return (total, seen, variables), result._replace(variables=None)

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    states = {**memory.split(variables), **memory.forward(variables)}
    nothing = jax.tree.map(jnp.zeros_like, states)
    parts_of = (jnp.arange(parts), split_batch(batch, parts))
    start = (zeros, nothing, variables)
    (total, seen, variables), results = jax.lax.scan(body, start, parts_of)
    grads = jax.tree.map(lambda t, p: (t / parts).astype(p.dtype), total, params)
    means = jax.tree.map(lambda x: jnp.mean(x, axis=0), results)
    return (grads, seen), means._replace(variables=variables)
