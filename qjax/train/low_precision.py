"""Optimizer state and parameters in few bits, as optax transformations around any other.

Parameters in bfloat16 keep learning when updates smaller than half their spacing are rounded
stochastically instead of away; moments are stored as codes and scales between steps. Gradients
sent between devices in few bits are `qjax.train.exchange`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qjax import rounding
from qjax._typing import Array, PyTree
from qjax.qtensor import QTensor
from qjax.quantizer import Quantizer


class NoisyState(NamedTuple):
    """State of what rounds parameters: that of the inner transformation, and a step count."""

    inner: Any
    count: Array


def stochastic_parameters(
    inner: optax.GradientTransformation, *, format: Any = "bfloat16", seed: int = 0
) -> optax.GradientTransformation:
    """Makes every update end on a value of `format`, rounded stochastically.

    For parameters whose dtype is that format, such as bfloat16: their expected value then moves
    by the whole update, however small (Zamirai et al. 2020, "Revisiting BFloat16 Training").

    Args:
      inner: The optimizer; it sees parameters and gradients in float32.
      format: A format, or its name, without scale.
      seed: Of the noise, which also depends on the step and the place of the parameter.

    Returns:
      A transformation whose updates are float32; add them in float32, as `Step` does.
    """
    quantizer = Quantizer(format, rounding=rounding.Stochastic())

    def cast(x: Array, key: Array) -> Array:
        return quantizer.cast(x, contract=(), key=key)

    return _rounding_updates(inner, cast, seed, "stochastic_parameters")


def rounded_parameters(
    inner: optax.GradientTransformation, quantizer: Any, *, seed: int = 0
) -> optax.GradientTransformation:
    """Makes every update end on values of `quantizer`: the parameters' state of record.

    Matrices are cast in tiles along their axis before the last, which a layer contracts, vectors
    in tiles along their only one. The wide copy of the weights of hybrid block floating point is
    of this kind (Drumond et al. 2018: mantissas of 16 bits), the narrow copy is the recipe's.

    Args:
      inner: The optimizer; it sees parameters and gradients in float32.
      quantizer: A Quantizer, a type or a name; a stochastic one draws from `seed`.
      seed: Of the noise, which also depends on the step and the place of the parameter.
    """
    chosen = quantizer if isinstance(quantizer, Quantizer) else Quantizer(quantizer)

    def cast(x: Array, key: Array) -> Array:
        contract = (-2,) if x.ndim > 1 else (-1,) if x.ndim else ()
        return chosen.cast(x, contract=contract, key=key)

    return _rounding_updates(inner, cast, seed, "rounded_parameters")


def _rounding_updates(
    inner: optax.GradientTransformation,
    cast: Callable[[Array, Array], Array],
    seed: int,
    caller: str,
) -> optax.GradientTransformation:
    """`inner` with updates that end on what `cast` makes of the parameter, given a key."""

    def init(params: PyTree) -> NoisyState:
        return NoisyState(inner.init(_wide(params)), jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> Any:
        if params is None:
            raise ValueError(
                f"`{caller}` rounds what an update leads to, but `params` is None. "
                "Call `update(grads, state, params)`."
            )
        wide = _wide(params)
        updates, following = inner.update(_wide(updates), state.inner, wide)
        key = jax.random.fold_in(jax.random.key(seed), state.count)
        leaves, tree = jax.tree.flatten(wide)
        moved = []
        for i, (leaf, step) in enumerate(zip(leaves, jax.tree.leaves(updates), strict=True)):
            target = leaf + step.astype(jnp.float32)
            moved.append(cast(target, jax.random.fold_in(key, i)) - leaf)
        return jax.tree.unflatten(tree, moved), NoisyState(following, state.count + 1)

    return optax.GradientTransformation(init, update)


def quantized_moments(
    inner: optax.GradientTransformation,
    *,
    first: Any = "mxfp8",
    second: Any = "mxfp8_e5m2",
    smallest: int = 1024,
) -> optax.GradientTransformation:
    """Stores the moments of Adam-like optimizers as codes and scales between steps.

    The second moment is stored as its square root, which halves the range it needs; its
    format should have exponent bits to spare, since a variance that is stored as zero makes the
    next update large. (The idea of 8-bit states is of Dettmers et al. 2022, "8-bit Optimizers
    via Block-wise Quantization"; theirs uses a codebook and blocks of 2048.)

    Args:
      inner: An optax transformation whose state has fields `mu` and `nu`.
      first: Type, Quantizer or name for `mu`; None leaves it as it is.
      second: The same for `nu`.
      smallest: Arrays with fewer elements, and scalars, stay as they are.

    Raises:
      ValueError: At `init`, if the state of `inner` has no such field.
    """
    quantizers = {
        name: value if isinstance(value, Quantizer) else Quantizer(value)
        for name, value in (("mu", first), ("nu", second))
        if value is not None
    }

    def encode(name: str, leaf: Array) -> Any:
        if leaf.ndim == 0 or leaf.size < smallest or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return quantizers[name].encode(jnp.sqrt(leaf) if name == "nu" else leaf)

    def init(params: PyTree) -> Any:
        state = inner.init(params)
        _check_fields(state, quantizers)
        return _moments(encode, state, quantizers)

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> Any:
        updates, following = inner.update(updates, _moments(_decoded, state, quantizers), params)
        return updates, _moments(encode, following, quantizers)

    return optax.GradientTransformation(init, update)


def nbytes(tree: PyTree) -> int:
    """Bytes that the arrays of `tree` occupy; random keys count as their data."""

    def one(leaf: Any) -> int:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return leaf.size * leaf.dtype.itemsize

    return sum(one(leaf) for leaf in jax.tree.leaves(tree))


def _wide(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def _named(state: Any) -> bool:
    return isinstance(state, tuple) and hasattr(state, "_fields")


def _decoded(name: str, leaf: Any) -> Any:
    """What `quantized_moments` stored, as it was."""
    if not isinstance(leaf, QTensor):
        return leaf
    values = leaf.decode()
    return jnp.square(values) if name == "nu" else values


def _check_fields(state: Any, quantizers: dict[str, Quantizer]) -> None:
    if not _fields(state) & set(quantizers):
        raise ValueError(
            "`quantized_moments` stores the fields `mu` and `nu` of an optimizer's state in "
            f"few bits, but this one has the fields {sorted(_fields(state))}. Wrap adam or "
            "adamw."
        )


def _fields(state: Any) -> set[str]:
    """Names of the fields of all named tuples in a (nested) optimizer state."""
    if not isinstance(state, tuple):
        return set()
    own: set[str] = set(getattr(state, "_fields", ()))
    for part in state:
        own |= _fields(part)
    return own


def _moments(change: Callable[[str, Any], Any], state: Any, names: Any) -> Any:
    """Applies `change` to the leaves of the fields in `names`, wherever they are in `state`."""

    def leaves(name: str, tree: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf: change(name, leaf), tree, is_leaf=lambda x: isinstance(x, QTensor)
        )

    if _named(state):
        parts = {
            name: leaves(name, part) if name in names else _moments(change, part, names)
            for name, part in state._asdict().items()
        }
        return type(state)(**parts)
    if isinstance(state, tuple):
        return tuple(_moments(change, part, names) for part in state)
    return state
