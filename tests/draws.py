"""Random arrays and parameters, drawn by NumPy.

For every shape that `jax.random` is asked for XLA compiles a program, which takes a second where
there are three axes or more: small models take longer to draw than to run.
"""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def normal(seed: int, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Normal draws of unit variance, of a shape and a dtype."""
    return jax.device_put(np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype))


def whole(seed: int, top: int, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Whole numbers from -top to top, of a shape and a dtype."""
    draws = np.random.default_rng(seed).integers(-top, top + 1, shape)
    return jax.device_put(draws.astype(dtype))


def variables(model: Any, *inputs: Any, seed: int = 0, **kwargs: Any) -> Any:
    """Parameters of a plain linen module, as `model.init(key, *inputs)` shapes them."""
    return drawn(jax.eval_shape(lambda: model.init(jax.random.key(seed), *inputs, **kwargs)), seed)


def drawn(shapes: Any, seed: int = 0) -> Any:
    """Parameters of the given shapes and dtypes."""
    return jax.tree.map_with_path(lambda path, leaf: _drawn(seed, path, leaf), shapes)


def init(model: Any, *inputs: Any, seed: int = 0) -> Any:
    """What `model.init` returns, for whatever more than plain parameters it makes.

    One program instead of one per operation, and with the older counters of threefry, which XLA
    compiles in a quarter of the time.
    """
    with jax.threefry_partitionable(False):
        return jax.jit(lambda key: model.init(key, *inputs))(jax.random.key(seed))


def module(make: Callable[[nnx.Rngs], Any], seed: int = 0) -> Any:
    """The nnx module that `make(rngs)` returns, with other numbers in its parameters."""
    abstract = nnx.eval_shape(lambda: make(nnx.Rngs(seed)))
    graph, params, rest = nnx.split(abstract, nnx.Param, ...)
    return nnx.merge(
        graph, drawn(params, seed), jax.tree.map(lambda leaf: _started(seed, leaf), rest)
    )


def _drawn(seed: int, path: Any, leaf: Any) -> jax.Array:
    """Weights of about the variance of their initializers; biases near 0, scales near 1."""
    name = jax.tree_util.keystr(path)
    fan = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 16
    draws = np.random.default_rng(zlib.crc32(f"{seed}{name}".encode())).standard_normal(leaf.shape)
    return jax.device_put((("scale" in name) + draws / np.sqrt(fan)).astype(leaf.dtype))


def _started(seed: int, leaf: Any) -> jax.Array:
    """Where a stream of random numbers begins."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key(seed) if is_key else jax.device_put(np.zeros(leaf.shape, leaf.dtype))
