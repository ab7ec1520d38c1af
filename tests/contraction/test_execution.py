"""Every way of carrying out a product gives what the float32 reference gives."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax.contraction.axes import dot_general_labels
from qjax.contraction.execution import plan
from qjax.contraction.policy import LEGS

SHAPES = ((64, 96), (96, 32))
NUMBERS = (((1,), (0,)), ((), ()))
LABELS = dot_general_labels(2, 2, *NUMBERS)
TYPES = ["mxfp8", "bfp8", "int8_channel", "int8_tensor", "e4m3fn_tensor", "e4m3fn"]


def operands(scale=1.0):
    return [scale * jax.random.normal(jax.random.key(i), s) for i, s in enumerate(SHAPES)]


def run(policy, lhs, rhs, implementation, numbers=NUMBERS):
    policy = dataclasses.replace(policy, implementation=implementation)

    def loss(lhs, rhs):
        out = qjax.dot_general(lhs, rhs, numbers, policy=policy)
        return jnp.sin(out / 8).sum(), out

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(lhs, rhs)


@pytest.mark.parametrize("implementation", ["bfloat16", "xla"])
@pytest.mark.parametrize("name", TYPES)
def test_all_legs_equal_the_reference_up_to_the_rounding_of_sums(name, implementation):
    policy = qjax.Policy.all(qjax.Quantizer(name))
    fast, reference = (run(policy, *operands(), i) for i in (implementation, "reference"))
    for got, want in zip(jax.tree.leaves(fast), jax.tree.leaves(reference)):
        bound = 1e-5 * float(jnp.abs(want).max())
        chex.assert_trees_all_close(got, want, rtol=0, atol=bound)


@pytest.mark.parametrize("implementation", ["bfloat16", "xla"])
def test_sums_of_integers_are_exact(implementation):
    """Integers without a scale: NumPy's integer product is the oracle."""
    policy = qjax.Policy(
        fwd=qjax.Gemm("int8", "int8"), implementation=implementation
    )  # 96 * 127**2 is below 2**24
    lhs, rhs = (jnp.round(40 * x) for x in operands())
    out = qjax.dot_general(lhs, rhs, NUMBERS, policy=policy)
    clip = lambda x: np.clip(np.asarray(x, np.int64), -127, 127)  # noqa: E731
    np.testing.assert_array_equal(np.asarray(out, np.int64), clip(lhs) @ clip(rhs))


def test_batched_and_transposed_products_agree_too():
    numbers = (((1,), (3,)), ((0, 3), (0, 1)))  # (b, k, m, h) and (b, h, n, k)
    lhs = jax.random.normal(jax.random.key(0), (2, 32, 8, 3))
    rhs = jax.random.normal(jax.random.key(1), (2, 3, 16, 32))
    for name in ("mxfp8", "int8_channel"):
        policy = qjax.Policy.all(qjax.Quantizer(name))
        fast, reference = (run(policy, lhs, rhs, i, numbers) for i in ("xla", "reference"))
        chex.assert_trees_all_close(fast, reference, rtol=1e-5, atol=1e-5)


def test_what_is_done_can_be_asked_for():
    def ways(name, implementation="bfloat16", shapes=SHAPES):
        gemm = qjax.Gemm(name, name)
        return {str(plan(implementation, gemm, LABELS, leg, shapes)) for leg in LEGS}

    assert ways("mxfp8") == {"bfloat16 products"}
    assert ways("int8_channel", "xla") == {"native int8"}
    assert ways("e4m3fn_tensor", "xla") == {"native float8"}
    assert ways("nvfp4") == {"emulated"}  # A scale of two levels is no power of two.
    assert ways("mxfp8", "reference") == {"emulated"}
    assert ways("mxfp8", shapes=((1, 96), (96, 32))) == {"emulated"}
    assert ways("mxfp8", None) == {"emulated"}
    gemm = qjax.Gemm("int8_channel", "int8_channel")
    policy = qjax.Policy(fwd=gemm, implementation="bfloat16")
    report = qjax.report(qjax.quantize(lambda x, w: x @ w, policy), *operands())
    assert report.rows[0].how == "bfloat16 products"


def test_an_unknown_implementation_is_refused():
    with pytest.raises(
        ValueError, match=r"must be None, 'reference', 'bfloat16' or 'xla', but 'cuda' came"
    ):
        qjax.Policy(implementation="cuda")


def test_a_tile_with_a_nan_gives_nan_in_every_way():
    lhs, rhs = operands()
    lhs = lhs.at[3, 5].set(jnp.nan)
    for name in ("mxfp8", "int8_channel"):
        policy = qjax.Policy.all(qjax.Quantizer(name))
        for implementation in ("bfloat16", "xla", "reference"):
            out = run(policy, lhs, rhs, implementation)[0][1]
            assert jnp.isnan(out[3]).all()
            assert jnp.isfinite(jnp.delete(out, 3, axis=0)).all()


def test_a_recipe_says_how_all_of_its_products_are_carried_out():
    recipe = qjax.recipes.get("mxfp8")
    fast = recipe.using("bfloat16")
    report = qjax.report(qjax.quantize(lambda x, w: x @ w, fast), *operands())
    assert report.rows[0].how == "bfloat16 products"
    assert fast.using(None) == recipe
    assert hash(fast) != hash(recipe)
