"""The one derivative rule: with nothing quantized it is JAX's own, with something it is the
explicit three products of quantized operands."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer
from qjax.contraction.bilinear import _bilinear
from qjax.contraction.casts import split
from qjax.contraction.memory import Memory
from qjax.contraction.operations import DotGeneral, Einsum
from tests.draws import normal, whole

MXFP8 = Quantizer("mxfp8")

DOTS = {
    "matmul": ((3, 40), (40, 5), (((1,), (0,)), ((), ()))),
    "transposed": ((40, 3), (5, 40), (((0,), (1,)), ((), ()))),
    "batched": ((2, 3, 40), (2, 40, 5), (((2,), (1,)), ((0,), (0,)))),
    "batch in the middle": ((3, 2, 7), (7, 5, 2), (((2,), (0,)), ((1,), (2,)))),
    "two contracted": ((3, 4, 6), (6, 4, 5), (((1, 2), (1, 0)), ((), ()))),
    "vector": ((40,), (40,), (((0,), (0,)), ((), ()))),
    "outer": ((3,), (5,), (((), ()), ((), ()))),
    "one": ((1, 1), (1, 1), (((1,), (0,)), ((), ()))),
    "empty batch": ((0, 3, 4), (0, 4, 2), (((2,), (1,)), ((0,), (0,)))),
    "nothing contracted": ((3, 0), (0, 5), (((1,), (0,)), ((), ()))),
}
EINSUMS = {
    "ij,jk->ik": ((3, 40), (40, 5)),
    "bqhd,bkhd->bhqk": ((2, 3, 2, 8), (2, 5, 2, 8)),
    "...hqk,...khd->...qhd": ((2, 2, 3, 5), (2, 5, 2, 8)),
    "ij,kj": ((3, 40), (5, 40)),
    "ij,jk->": ((3, 4), (4, 5)),
    "ij,k->ik": ((3, 4), (5,)),
    "b...,b...->b": ((3, 4, 2), (3, 4, 2)),
}


def value_and_grads(fn, lhs, rhs):
    """The result and the gradients of a fixed linear function of it."""

    def loss(lhs, rhs):
        out = fn(lhs, rhs)
        weight = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return jnp.sum(out.astype(jnp.float32) * weight), out

    (_, out), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(lhs, rhs)
    return out, grads


def forced(op, lhs, rhs, policy, key=None):
    """Goes through the derivative rule even where the policy quantizes nothing."""
    static, numbers = split(policy)
    return _bilinear(op, static, lhs, rhs, (), numbers, key, Memory())[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", DOTS)
def test_dot_general_without_quantizers_equals_jax_bit_for_bit(case, dtype):
    a, b, numbers = DOTS[case]
    lhs, rhs = normal(0, a, dtype), normal(1, b, dtype)
    op = DotGeneral(*numbers)
    expected = value_and_grads(lambda x, y: jax.lax.dot_general(x, y, numbers), lhs, rhs)
    chex.assert_trees_all_equal(
        value_and_grads(lambda x, y: forced(op, x, y, Policy()), lhs, rhs), expected
    )
    door = lambda x, y: qjax.dot_general(x, y, numbers, policy=Policy())  # noqa: E731
    chex.assert_trees_all_equal(value_and_grads(door, lhs, rhs), expected)


@pytest.mark.parametrize("subscripts", EINSUMS)
def test_einsum_without_quantizers_equals_jax_bit_for_bit(subscripts):
    lhs, rhs = (normal(i, shape) for i, shape in enumerate(EINSUMS[subscripts]))
    expected = value_and_grads(lambda x, y: jnp.einsum(subscripts, x, y), lhs, rhs)
    door = lambda x, y: qjax.einsum(subscripts, x, y, policy=Policy())  # noqa: E731
    chex.assert_trees_all_equal(value_and_grads(door, lhs, rhs), expected)
    # Quantizing one leg only leaves the two others exactly as they are.
    fwd_only = Policy(fwd=Gemm(MXFP8, MXFP8))
    plain, partly = (
        jax.jit(lambda x, y, f=f: value_and_grads(f, x, y)[1])(lhs, rhs)
        for f in (
            lambda x, y: jnp.einsum(subscripts, x, y),
            lambda x, y: qjax.einsum(subscripts, x, y, policy=fwd_only),
        )
    )
    chex.assert_trees_all_equal(plain, partly)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_a_matmul_equals_the_three_explicit_products(dtype):
    """x[T, K] @ w[K, N]: tiles along K forward, along N for dx, along T for dw.

    Small whole numbers stay whole under mxfp4 (its scales are powers of two), so the sums are
    exact in every order and must agree to the bit.
    """
    x, w, g = (whole(n, 15, s, dtype) for n, s in enumerate(((37, 70), (70, 45), (37, 45))))
    mxfp4 = Quantizer("mxfp4")
    q = lambda a, axis: mxfp4.cast(a, contract=(axis,), dtype=jnp.float32)  # noqa: E731
    fn = lambda x, w: qjax.dot_general(  # noqa: E731
        x, w, (((1,), (0,)), ((), ())), policy=Policy.all(mxfp4)
    )
    out, (dx, dw) = jax.jit(lambda x, w, g: (fn(x, w), jax.vjp(fn, x, w)[1](g)))(x, w, g)
    explicit = q(x, 1) @ q(w, 0), q(g, 1) @ q(w, 1).T, q(x, 0).T @ q(g, 0)
    chex.assert_trees_all_equal((out, dx, dw), tuple(a.astype(dtype) for a in explicit))
    assert not jnp.array_equal(out, (x @ w).astype(dtype))


def test_all_six_operands_are_separate():
    """Quantizing one operand changes exactly the leg it belongs to."""
    x, w, g = normal(0, (8, 64)), normal(1, (64, 32)), normal(2, (8, 32))
    coarse = Quantizer("mxfp4")

    def legs(policy):
        fn = lambda x, w: qjax.dot_general(x, w, (((1,), (0,)), ((), ())), policy=policy)  # noqa: E731
        out, pull = jax.vjp(fn, x, w)
        return (out, *pull(g))

    exact = legs(Policy())
    for n, leg in enumerate(("fwd", "dlhs", "drhs")):
        results = [legs(Policy(**{leg: gemm})) for gemm in (Gemm(lhs=coarse), Gemm(rhs=coarse))]
        for result in results:
            for m in range(3):
                same = bool(jnp.array_equal(result[m], exact[m]))
                assert same == (m != n)
        assert not jnp.array_equal(results[0][n], results[1][n])


def test_batch_axes_keep_their_own_tiles():
    """One matrix of a batch computes what it computes alone."""
    numbers = (((2,), (1,)), ((0,), (0,)))
    x, w = normal(0, (3, 5, 40)), normal(1, (3, 40, 7))
    whole = qjax.dot_general(x, w, numbers, policy=Policy.all(MXFP8))
    alone = [
        qjax.dot_general(x[i], w[i], (((1,), (0,)), ((), ())), policy=Policy.all(MXFP8))
        for i in range(3)
    ]
    np.testing.assert_array_equal(whole, jnp.stack(alone))


def test_traced_bits_equal_static_bits_under_jit_grad_scan_remat_and_vmap():
    x, w = normal(0, (4, 64)), normal(1, (64, 64))

    def policy(fmt):
        base = qjax.qtypes.MXFP8
        return Policy.all(Quantizer(qjax.QType(fmt, base.tile, base.scale)))

    def loss(fmt, x, w):
        @jax.checkpoint
        def layer(h, _):
            numbers = (((1,), (0,)), ((), ()))
            return jnp.tanh(qjax.dot_general(h, w, numbers, policy=policy(fmt))), None

        return jnp.sum(jax.lax.scan(layer, x, None, length=2)[0] ** 2)

    pairs = [(4, 3), (3, 2), (2, 1)]
    make = lambda e, m: qjax.formats.Float(e, m, family="finite")  # noqa: E731
    traces = []

    def grad(fmt, x, w):
        traces.append(fmt)
        return jax.value_and_grad(loss, argnums=(1, 2))(fmt, x, w)

    formats = [make(*p) for p in pairs]
    static = [jax.jit(functools.partial(grad, f))(x, w) for f in formats]
    traced = jax.jit(grad)
    traces.clear()
    for f, expected in zip(formats, static, strict=True):
        numbers = jax.tree.map(jnp.int32, f)
        chex.assert_trees_all_equal(traced(numbers, x, w), expected)
    assert len(traces) == 1, "three formats, one program"
    stack = make(jnp.array([p[0] for p in pairs]), jnp.array([p[1] for p in pairs]))
    stacked = jax.jit(jax.vmap(grad, in_axes=(0, None, None)))(stack, x, w)
    for i, expected in enumerate(static):
        chex.assert_trees_all_close(
            jax.tree.map(lambda a, i=i: a[i], stacked), expected, rtol=1e-5, atol=1e-5
        )


def test_every_operand_draws_its_own_noise():
    """The six roles use the noise of six keys: each product tells which key it used."""
    noisy = Quantizer("int4", rounding=qjax.rounding.Stochastic())
    x, eye, key = jnp.full((64, 64), 0.5), jnp.eye(64), jax.random.key(3)
    numbers = (((1,), (0,)), ((), ()))
    seen = {}
    for n, leg in enumerate(("fwd", "dlhs", "drhs")):
        for side in ("lhs", "rhs"):
            policy = Policy(**{leg: Gemm(**{side: noisy})})
            # The other operand is the identity, so the leg returns the noisy one.
            own, other = (x, eye) if side == "lhs" else (eye, x)
            lhs, rhs, g = {
                "fwd": (own, other, x),
                "dlhs": (x, other, own),
                "drhs": (own, x, other),
            }[leg]
            fn = lambda a, b, p=policy: qjax.dot_general(a, b, numbers, policy=p, key=key)  # noqa: E731
            out, pull = jax.vjp(fn, lhs, rhs)
            seen[leg, side] = np.asarray((out, *pull(g))[n]).ravel()
    draws = list(seen.values())
    for i, draw in enumerate(draws):
        assert 0.4 < draw.mean() < 0.6, "unbiased"
        for other in draws[:i]:
            agree = np.mean(draw == other)
            assert abs(agree - 0.5) < 5 * 0.5 / 64, "independent coins agree half of the time"


def test_three_operands_are_contracted_pairwise():
    a, b, c = normal(0, (3, 8)), normal(1, (8, 9)), normal(2, (9, 4))
    np.testing.assert_allclose(
        qjax.einsum("ij,jk,kl->il", a, b, c, policy=Policy()),
        jnp.einsum("ij,jk,kl->il", a, b, c),
        rtol=1e-5,
    )
    quantized = qjax.einsum("ij,jk,kl->il", a, b, c, policy=Policy.all(MXFP8))
    assert not jnp.array_equal(quantized, jnp.einsum("ij,jk,kl->il", a, b, c))


def test_labels_of_einsum_and_dot_general_agree():
    dot = DotGeneral(((2,), (1,)), ((0,), (0,))).labels(3, 3)
    ein = Einsum("bik,bkj->bij").labels(3, 3)
    for leg in ("fwd", "dlhs", "drhs"):
        assert dot.leg(leg) == ein.leg(leg)
