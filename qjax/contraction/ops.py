"""Contractions with JAX's own signatures, and a `policy`.

These are the explicit doors: a model's author writes `qjax.einsum` where `jnp.einsum`
stood. The doors for whole models call the same functions. Arguments are checked here.
"""

import difflib
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qjax._typing import Array, DTypeLike, Key
from qjax.contraction.absent import Absent, folded
from qjax.contraction.bilinear import contract, remember
from qjax.contraction.einsums import product_of
from qjax.contraction.legs import Call, Operation, wide
from qjax.contraction.memory import gather
from qjax.contraction.operations import DotGeneral, Einsum, canonical_pair, parse_subscripts
from qjax.contraction.outside import prepare
from qjax.contraction.policy import Policy
from qjax.contraction.record import here, record
from qjax.contraction.stored import shape_of, take_stored
from qjax.contraction.variables import Part, Variables
from qjax.qtensor import QTensor


def dot_general(
    lhs: Array,
    rhs: Array,
    dimension_numbers: Any,
    precision: Hashable = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Hashable = None,
    *,
    policy: Policy,
    key: Key | None = None,
    variables: Variables | None = None,
) -> Array:
    """Computes `jax.lax.dot_general` with quantized operands and gradients.

    Args:
      lhs: Array of floating point, or the QTensor that `policy.fwd.lhs` made of it.
      rhs: Likewise for `policy.fwd.rhs`; the weight, where one operand is one.
      dimension_numbers: `((lhs_contract, rhs_contract), (lhs_batch, rhs_batch))`.
      precision: As in JAX.
      preferred_element_type: Dtype of the result, as in JAX.
      out_sharding: As in JAX.
      policy: How the six operands are quantized.
      key: Key of the noise, needed where `policy` rounds stochastically.
      variables: What its operands learn and remember, needed where they do.

    Returns:
      The product, in the shape and dtype that JAX gives.

    Raises:
      TypeError: If an operand is not of floating point, or `policy` is no `Policy`.
      ValueError: If `policy` rounds stochastically and `key` is None, or has a wrong form.
    """
    _check_policy("dot_general", policy)
    contracted, batch = dimension_numbers
    ndims = (len(shape_of(lhs)), len(shape_of(rhs)))
    op = DotGeneral(
        canonical_pair(contracted, ndims),
        canonical_pair(batch, ndims),
        precision,
        preferred_element_type,
        out_sharding,
    )
    return checked("dot_general", op, lhs, rhs, policy, key, variables=variables)


def einsum(
    subscripts: str,
    *operands: Array,
    precision: Hashable = None,
    preferred_element_type: DTypeLike | None = None,
    policy: Policy,
    key: Key | None = None,
    variables: Variables | None = None,
) -> Array:
    """Computes `jax.numpy.einsum` with quantized operands and gradients.

    More than two operands are contracted pairwise, in the order that NumPy's
    `einsum_path` finds cheapest; every pair is quantized as `policy` says. One operand
    alone contracts nothing and is left as it is.

    Args:
      subscripts: As in JAX; ellipses and implicit results are understood.
      *operands: Arrays of floating point; of two, packed ones as in `dot_general`.
      precision: As in JAX.
      preferred_element_type: Dtype of the result, as in JAX.
      policy: How the operands of each pair, and of its gradients, are quantized.
      key: Key of the noise, needed where `policy` rounds stochastically.
      variables: What its operands learn and remember, needed where they do; each pair of more
        than two has values of its own, named "pair0_fwd_lhs" and so on.

    Returns:
      The result, in the shape and dtype that JAX gives.

    Raises:
      TypeError: If an operand is not of floating point, or `policy` is no `Policy`.
      ValueError: If the subscripts do not fit the operands, or a needed key is missing.
    """
    _check_policy("einsum", policy)
    if len(operands) != 2 and any(isinstance(x, QTensor) for x in operands):
        raise ValueError(
            f"`einsum` takes packed operands in products of two, but {len(operands)} came. "
            "Write the product of the packed one apart."
        )
    terms, out = parse_subscripts(subscripts, tuple(len(shape_of(x)) for x in operands))
    settings = {"precision": precision, "preferred_element_type": preferred_element_type}
    if len(operands) == 1:
        return jnp.einsum(f"{terms[0]}->{out}", *operands, **settings)  # type: ignore[call-overload]
    if len(operands) == 2:
        return _pair(terms, out, operands, settings, policy, key, variables)
    return _chain(list(terms), out, list(operands), settings, policy, key, variables)


def _pair(
    terms: Sequence[str],
    out: str,
    operands: Sequence[Array],
    settings: dict[str, Any],
    policy: Policy,
    key: Key | None,
    variables: Variables | None,
) -> Array:
    """The contraction of two operands."""
    inputs = ",".join(terms)
    # What rounds the result runs along its last axis, as written.
    product = product_of(f"{inputs}->{out}") if policy.fwd.result is None else None
    inner = out if product is None else product.out
    op = Einsum(f"{inputs}->{inner}", **settings)
    lhs, rhs = operands
    result = checked("einsum", op, lhs, rhs, policy, key, variables=variables)
    return result.transpose([inner.index(x) for x in out]) if inner != out else result


def _chain(terms, out, operands, settings, policy, key, variables) -> Array:
    path = np.einsum_path(
        f"{','.join(terms)}->{out}",
        *(np.broadcast_to(np.float32(0), jnp.shape(x)) for x in operands),
        optimize="optimal" if len(operands) < 6 else "greedy",
    )[0][1:]
    for step, picked in enumerate(path):
        left = [i for i in range(len(operands)) if i not in picked]
        names = [terms[i] for i in picked]
        rest = out + "".join(terms[i] for i in left)
        kept = "".join(dict.fromkeys(c for c in "".join(names) if c in rest))
        result = out if not left else kept
        noise = folded(key, step)
        value = einsum(
            f"{','.join(names)}->{result}",
            *(operands[i] for i in picked),
            **settings,
            policy=policy,
            key=noise,
            variables=None if variables is None else Part(variables, f"pair{step}"),
        )
        operands = [operands[i] for i in left] + [value]
        terms = [terms[i] for i in left] + [result]
    return operands[0]


def checked(
    name: str,
    op: Operation,
    lhs: Array,
    rhs: Array,
    policy: Policy,
    key: Any,
    extra: tuple[Array, ...] = (),
    variables: Variables | None = None,
) -> Array:
    """Checks what came to the door `name`, then contracts; see `bilinear.contract`."""
    _check_policy(name, policy)
    _check_key(name, policy, key)
    key = Absent(here()) if key is None and policy.stochastic else key
    lhs, rhs, policy = take_stored(name, op, lhs, rhs, policy)
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    if not policy.is_identity:
        for side, x in (("lhs", lhs), ("rhs", rhs)):
            if not jnp.issubdtype(x.dtype, jnp.floating):
                raise TypeError(
                    f"`{name}` was asked to quantize `{side}`, which must be of floating point, "
                    f"but it has dtype {x.dtype} (shape {x.shape}). Convert it with "
                    "`.astype(jnp.float32)`, or pass `policy=qjax.Policy()` to leave this "
                    "contraction as it is."
                )
    call = Call(op, (lhs.shape, rhs.shape), wide(lhs, rhs), extra, key)
    left, (lhs, rhs) = prepare(name, call, (lhs, rhs), policy, variables)
    with record(name, op, lhs, rhs, policy):
        if variables is None:
            return contract(op, lhs, rhs, left, key, extra)
        shape = jax.eval_shape(op, lhs, rhs, *extra).shape
        memory = gather(name, left, call.labels, (lhs.shape, rhs.shape, shape), variables)
        out, following = remember(op, lhs, rhs, left, key, extra, memory)
    for leaf, state in following.states.items():
        variables.remember(leaf, state)
    return out


def _check_policy(name: str, policy: object) -> None:
    if not isinstance(policy, Policy):
        hint = ""
        if isinstance(policy, str):
            near = difflib.get_close_matches(policy, ["mxfp8", "mxfp4", "int8"], n=1, cutoff=0)
            hint = f" A name such as {near[0]!r} belongs to `qjax.quantize`."
        raise TypeError(
            f"`{name}` takes `policy` as a qjax.Policy, but {policy!r} came.{hint} Build one with "
            "`qjax.Policy(...)`, or take `qjax.recipes.get(name).default`."
        )


def _check_key(name: str, policy: Policy, key: Key | None) -> None:
    if key is None or isinstance(key, Absent):
        return
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = isinstance(key, jax.Array) and key.dtype == jnp.uint32 and key.ndim == 1
    if not (raw or (typed and key.shape == ())):
        came = f"{key.dtype}{list(key.shape)}" if isinstance(key, jax.Array) else repr(key)
        raise ValueError(
            f"`{name}` takes `key` as one random key, but {came} came. "
            "Pass `jax.random.key(seed)`, or one element of `jax.random.split(key, n)`."
        )
