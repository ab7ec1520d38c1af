"""Transforms cancel: without quantizers a product is what it was, with them it is the explicit
product of transformed, quantized operands."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import qjax
from qjax import Gemm, Policy, Quantizer
from qjax.contraction import Hadamard, Permutation, Smoothing
from qjax.contraction.axes import Paired
from qjax.contraction.cancelling import baked, unbaked
from qjax.contraction.transforms import walsh_hadamard
from tests.draws import normal
from tests.quick import quick

TRANSFORMS = {
    "hadamard": Hadamard(8),
    "whole axis": Hadamard(),
    "signs": Hadamard(4, seed=3),
    "integers": Hadamard(8, orthonormal=False),
    "smoothing": Smoothing(0.7),
    "sorted": Permutation(),
}
DOT, KEY = (((1,), (0,)), ((), ())), jax.random.key(3)


def dot(policy):
    return lambda x, y: qjax.dot_general(x, y, DOT, policy=policy)


def conv(groups=1, images=1):
    def function(policy):
        return lambda x, y: qjax.conv_general_dilated(
            x,
            y,
            (1, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            batch_group_count=images,
            policy=policy,
        )

    return function


def ragged(policy):
    return lambda x, y: qjax.ragged_dot(x, y, jnp.array([2, 0, 5], jnp.int32), policy=policy)


OPS = {
    "dot": (dot, (5, 13), (13, 6)),
    "two contracted, in other order": (
        lambda p: lambda x, y: qjax.einsum("abij,bjik->bak", x, y, policy=p),
        (3, 2, 4, 6),
        (2, 6, 4, 5),
    ),
    "convolution": (conv(), (4, 5, 6, 8), (3, 2, 8, 6)),
    "grouped convolution": (conv(groups=2), (4, 5, 6, 8), (3, 2, 4, 6)),
    "groups of images": (conv(images=2), (4, 5, 6, 8), (3, 2, 8, 6)),
    "empty": (dot, (5, 0), (0, 6)),
}


def legs(function, x, y):
    out, pull = jax.vjp(function, x, y)
    weight = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
    return (out, *pull(weight))


@pytest.mark.parametrize("op", OPS)
def test_without_quantizers_the_product_and_its_gradients_are_the_plain_ones(op):
    make, a, b = OPS[op]
    x, y = normal(0, a), normal(1, b)

    def every(x, y):
        policies = [Policy(*(Gemm(transform=t),) * 3) for t in TRANSFORMS.values()]
        return [legs(make(policy), x, y) for policy in policies]

    expected = quick(lambda x, y: legs(make(Policy()), x, y), x, y)
    for name, found in zip(TRANSFORMS, quick(every, x, y), strict=True):
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=name)


def test_rows_of_experts_are_transformed_forward_and_refused_where_rows_are_summed():
    x, y = normal(0, (7, 8)), normal(1, (3, 8, 5))
    policy = Policy(fwd=Gemm(transform=Hadamard(8)), dlhs=Gemm(transform=Hadamard(2)))
    for got, want in zip(legs(ragged(policy), x, y), legs(ragged(Policy()), x, y), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    with pytest.raises(ValueError, match="ragged"):
        legs(ragged(Policy(drhs=Gemm(transform=Hadamard(2)))), x, y)


def test_the_fast_transform_is_sylvesters_matrix_and_exact_on_integers():
    fast = jax.jit(walsh_hadamard)
    for n in (1, 2, 64, 256):
        x = np.random.default_rng(n).integers(-8, 8, (3, n)).astype(np.float32)
        np.testing.assert_array_equal(fast(x), x @ scipy.linalg.hadamard(n))
        np.testing.assert_array_equal(fast(fast(x)), n * x)


@pytest.mark.parametrize("n", [16, 128])
def test_the_fast_transform_has_the_same_bits_wherever_it_stands(n):
    """A weight that was transformed to be stored is that of any program."""
    x = normal(0, (3, 5, n))
    expected = walsh_hadamard(x)
    turned = jax.jit(lambda x: jnp.exp(0 * x[0, 0, 0]) * walsh_hadamard(x.T.swapaxes(0, 2)))
    rows = [walsh_hadamard(row) for row in x.reshape(-1, n)]
    np.testing.assert_array_equal(jnp.stack(rows).reshape(x.shape), expected)
    np.testing.assert_array_equal(turned(x), expected)
    np.testing.assert_array_equal(jax.lax.map(walsh_hadamard, x), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_transform_along_any_axis_has_the_bits_of_one_along_the_last(axis):
    """13 elements as 8 + 4 + 1; 64 in factors of 4; transforms that turn the axis as well."""
    transforms = {
        Hadamard(8, seed=3): 13,
        Hadamard(8, orthonormal=False): 13,
        Hadamard(): 64,
        Smoothing(scales=tuple(range(1, 8))): 7,
        Permutation((3, 1, 2, 0, 6, 5, 4)): 7,
    }
    turned = [normal(0, (3, 2, n)) for n in transforms.values()]
    measured = [t.measure(x, x) for t, x in zip(transforms, turned, strict=True)]

    @jax.jit
    def both(turned):
        every = list(zip(transforms, turned, measured, strict=True))
        last = [f(x, m) for t, x, m in every for f in (t.first, t.second)]
        there = [(t, jnp.moveaxis(x, -1, axis), m) for t, x, m in every]
        return last, [t.mapped(side, x, m, axis) for t, x, m in there for side in (0, 1)]

    for want, got in zip(*both(turned), strict=True):
        np.testing.assert_array_equal(got, jnp.moveaxis(want, -1, axis))


@pytest.mark.parametrize(
    "transform",
    [
        Hadamard(8, seed=3),
        Hadamard(8, orthonormal=False),
        Smoothing(scales=tuple(range(1, 7))),
        Permutation((3, 1, 2, 0, 5, 4)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("side", [0, 1])
def test_an_operand_that_is_mapped_alone_comes_back(transform, side):
    """Along two axes in the other order, and along neighbours where they lie."""
    axes, x = Paired((2, 0), (0, 1)), normal(side, ((2, 4, 3), (3, 2, 4))[side])
    run = jax.jit(lambda x: unbaked(transform, axes, side, baked(transform, axes, side, x)))
    np.testing.assert_allclose(run(x), x, rtol=1e-5, atol=1e-6)


def test_axes_that_are_neighbours_are_transformed_where_they_lie():
    """Rows of activations and of gradients, contracted in the gradient of the weights."""
    x, w, g = (jax.ShapeDtypeStruct(s, "float32") for s in ((2, 8, 32), (32, 16), (2, 8, 16)))

    def turned(transform):
        policy = Policy(*(Gemm(transform=transform),) * 3)
        dot = lambda x, w: qjax.dot_general(x, w, (((2,), (0,)), ((), ())), policy=policy)  # noqa: E731
        step = jax.jit(lambda x, w, g: jax.vjp(dot, x, w)[1](g))
        return step.lower(x, w, g).compile().as_text().count(" transpose(")

    assert turned(Hadamard(8)) == turned(None)


def test_with_quantizers_the_product_is_the_explicit_one_on_every_leg():
    """Blocks of 8, 4 and 1 of 13 channels; each leg has a transform of its own."""
    x, w, g = normal(0, (16, 13)), normal(1, (13, 32)), normal(2, (16, 32))
    int4 = Quantizer("int4_channel")
    matrix = lambda *blocks: scipy.linalg.block_diag(  # noqa: E731
        *(scipy.linalg.hadamard(b) / np.sqrt(b) for b in blocks)
    ).astype(np.float32)
    policy = Policy(
        *(Gemm(int4, int4, transform=Hadamard(block)) for block in (8, 16, None)),
    )
    out, pull = jax.vjp(dot(policy), x, w)
    dx, dw = pull(g)

    def explicit(a, b, h):
        a, b = int4.cast(a @ h), int4.cast(h.T @ b, contract=(0,))
        return a @ b

    np.testing.assert_allclose(out, explicit(x, w, matrix(8, 4, 1)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, explicit(g, w.T, matrix(16, 16)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw, explicit(x.T, g, matrix(16)), rtol=1e-5, atol=1e-5)


def test_smoothing_scales_are_those_of_smoothquant():
    x, w = normal(0, (9, 4)), normal(1, (4, 7))
    expected = np.abs(x).max(0) ** 0.25 / np.abs(w).max(1) ** 0.75
    for weight, scale in ((w, expected[1]), (w.at[1].set(0), 1)):
        scales = Smoothing(0.25).measure(x, weight.T)
        np.testing.assert_allclose(scales, np.where(np.arange(4) == 1, scale, expected), rtol=1e-6)
    given = Smoothing(scales=(2.0, 4.0, 0.5, 1.0))
    assert given.flipped().scales == (0.5, 0.25, 2.0, 1.0)
    with pytest.raises(ValueError, match="one for each"):
        dot(Policy(fwd=Gemm(transform=Smoothing(scales=(1.0,)))))(x, w)


def test_signs_are_fixed_by_the_seed_and_repeat_in_every_block():
    ones = Hadamard(4, seed=1, orthonormal=False).first(jnp.eye(8))
    signs = np.asarray(ones[:, 0] + ones[:, 4])  # the first row of each block is all ones
    np.testing.assert_array_equal(np.abs(signs), 1)
    np.testing.assert_array_equal(signs[:4], signs[4:])
    other = Hadamard(4, seed=2, orthonormal=False).first(jnp.eye(8))
    assert not np.array_equal(ones, other)


@pytest.mark.parametrize("bad", [3, 0, -2, 2.0])
def test_a_block_that_is_no_power_of_two_is_refused(bad):
    with pytest.raises(ValueError, match="power of two"):
        Hadamard(bad)


def test_a_flipped_policy_computes_the_same():
    x, w = normal(0, (6, 8)), normal(1, (8, 4))
    int4 = Quantizer("int4_channel")
    gemm = Gemm(int4, None, transform=Smoothing(0.7))
    swapped = qjax.dot_general(w.T, x.T, DOT, policy=Policy(gemm).flipped())
    chex.assert_trees_all_close(dot(Policy(gemm))(x, w), swapped.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("transform", [Permutation(), Hadamard(), Smoothing()], ids=repr)
def test_operands_that_are_constants_of_the_program_are_transformed_like_any_other(transform):
    """XLA's CPU computes casts of transformed constants while compiling, and in a wrong order."""
    x, w, g = normal(0, (32, 24)), normal(1, (24, 16)), normal(2, (32, 16))
    e4m3, noisy = (
        Quantizer("e4m3fn"),
        Quantizer("int4_channel", rounding=qjax.rounding.Stochastic()),
    )
    policy = Policy(*(Gemm(q, q, transform=transform) for q in (e4m3, noisy, e4m3)))
    product = lambda x, w: qjax.dot_general(x, w, DOT, policy=policy, key=KEY)  # noqa: E731
    every = lambda x, w, g: jax.vjp(product, x, w)[1](g)  # noqa: E731
    for found, want in zip(jax.jit(lambda g: every(x, w, g))(g), jax.jit(every)(x, w, g)):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
