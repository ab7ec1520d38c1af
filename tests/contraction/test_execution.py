"""Every way of carrying out a product gives what the float32 reference gives."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax.contraction import blockscaled
from qjax.contraction.axes import dot_general_labels
from qjax.contraction.devices import Device
from qjax.contraction.execution import execute
from qjax.contraction.plans import choose, plan
from qjax.contraction.policy import LEGS
from tests.draws import normal

SHAPES = ((64, 96), (96, 32))
NUMBERS = (((1,), (0,)), ((), ()))
LABELS = dot_general_labels(2, 2, *NUMBERS)
CPU, TPU = Device("cpu"), Device("tpu")
AMPERE, HOPPER, BLACKWELL = (Device("gpu", (n, 0)) for n in (8, 9, 10))
TYPES = ["mxfp8", "bfp8", "int8_channel", "int8_tensor", "e4m3fn_tensor", "e4m3fn"]


def operands(scale=1.0):
    return [scale * normal(i, s) for i, s in enumerate(SHAPES)]


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
    lhs = normal(0, (2, 32, 8, 3))
    rhs = normal(1, (2, 3, 16, 32))
    for name in ("mxfp8", "int8_channel"):
        policy = qjax.Policy.all(qjax.Quantizer(name))
        fast, reference = (run(policy, lhs, rhs, i, numbers) for i in ("xla", "reference"))
        chex.assert_trees_all_close(fast, reference, rtol=1e-5, atol=1e-5)


def test_results_in_another_order_agree_too():
    """XLA may move a transposition through a product; its CPU has not every product."""
    policy = qjax.Policy.all(qjax.Quantizer("mxfp8"))

    def turned(implementation):
        def f(lhs, rhs):
            asked = dataclasses.replace(policy, implementation=implementation)
            return qjax.dot_general(lhs, rhs, NUMBERS, policy=asked).T

        loss = jax.grad(lambda *x: jnp.sin(f(*x)).sum(), argnums=(0, 1))
        lhs, rhs = operands()
        stacked = jnp.stack([rhs, 2 * rhs], 1)
        return jax.jit(loss)(lhs, rhs), jax.jit(jax.vmap(f, (None, 1), 1))(lhs, stacked)

    chex.assert_trees_all_close(turned("bfloat16"), turned("reference"), rtol=1e-5, atol=1e-4)


def chosen(name, implementation, shapes=SHAPES, device=CPU, other=None, legs=LEGS):
    gemm = qjax.Gemm(name, other or name)
    return {str(plan(implementation, gemm, LABELS, leg, shapes, device=device)) for leg in legs}


def test_what_is_done_can_be_asked_for():
    ways = functools.partial(chosen, implementation="bfloat16")
    assert ways("mxfp8") == {"bfloat16 products"}
    assert ways("nvfp4") == {"emulated"}  # A scale of two levels is no power of two.
    assert ways("mxfp8", implementation="reference") == {"emulated"}
    assert ways("mxfp8", shapes=((1, 96), (96, 32))) == {"emulated"}
    gemm = qjax.Gemm("int8_channel", "int8_channel")
    policy = qjax.Policy(fwd=gemm, implementation="bfloat16")
    report = qjax.report(qjax.quantize(lambda x, w: x @ w, policy), *operands())
    assert report.rows[0].how == "bfloat16 products"


def test_products_of_the_device_are_taken_where_it_has_them():
    ways = functools.partial(chosen, implementation="xla")
    assert ways("int8_channel") == {"native int8"}
    assert ways("e4m3fn_tensor") == {"native float8"}
    assert ways("e4m3fn_tensor", device=AMPERE) == {"bfloat16 products"}
    assert ways("e4m3fn_tensor", device=HOPPER, other="e5m2_tensor") == {"native float8"}
    assert ways("int4_channel", device=TPU) == {"native int4"}
    assert ways("int4_channel") == {"native int8"}
    assert ways("mxfp8", device=HOPPER) == {"bfloat16 products"}
    assert ways("mxfp8", device=BLACKWELL) == {"native block-scaled"}
    assert ways("mxfp8", device=BLACKWELL, other="mxfp8_e5m2") == {"native block-scaled"}
    assert ways("nvfp4", device=BLACKWELL) == {"native block-scaled"}
    # A block that the end of the axis cuts short is no block of the hardware's.
    cut = ((64, 40), (40, 32))
    assert ways("mxfp8", device=BLACKWELL, shapes=cut, legs=("fwd",)) == {"bfloat16 products"}


def test_the_automatic_choice_is_for_large_exact_products():
    large = ((128, 256), (256, 64))
    ways = functools.partial(chosen, implementation=None, shapes=large)
    assert ways("int8_channel") == {"native int8"}
    assert ways("mxfp8") == {"bfloat16 products"}
    assert ways("mxfp8", device=BLACKWELL) == {"bfloat16 products"}  # Their sums are their own.
    assert ways("nvfp4") == {"emulated"}
    assert ways("mxfp8", shapes=SHAPES) == {"emulated"}


def test_sums_that_overflow_int32_are_not_asked_of_int8():
    long = ((64, 2**17), (2**17, 64))
    assert chosen("int8_channel", "xla", long, legs=("fwd",)) == {"bfloat16 products"}
    assert chosen("int8_channel", "xla", long, legs=("drhs",)) == {"native int8"}


def test_the_reason_against_a_faster_way_is_told():
    def reason(name, implementation, leg="fwd", **device):
        gemm = qjax.Gemm(name, name)
        return choose(implementation, gemm, LABELS, leg, SHAPES, **device)[1]

    assert "capability 10.0" in reason("mxfp8", "xla", device=HOPPER)
    assert "capability 8.9" in reason("e4m3fn_tensor", "xla", device=AMPERE)
    assert reason("nvfp4", "bfloat16") == "values that are no bfloat16"
    assert reason("mxfp8", "reference") == reason("mxfp8", "bfloat16") == ""
    assert "fewer than 64" in reason("mxfp8", None)
    traced = qjax.Quantizer(qjax.formats.Float(jnp.int32(4), jnp.int32(3)))
    assert reason(traced, None) == "bits that are traced"
    weights = qjax.Policy(fwd=qjax.Gemm(None, "mxfp4"))
    report = qjax.report(qjax.quantize(lambda x, w: x @ w, weights), *operands())
    assert report.rows[0].how == "emulated (an operand is not quantized)"


@pytest.mark.parametrize(("name", "dtype"), [("int8_channel", "s8"), ("e4m3fn_tensor", "f8e4m3fn")])
def test_a_native_product_is_in_the_compiled_program_or_said_to_be_widened(name, dtype):
    policy = qjax.Policy(fwd=qjax.Gemm(name, name), implementation="xla")
    f = qjax.quantize(lambda x, w: x @ w, policy)
    text = jax.jit(f).lower(*operands()).compile().as_text()
    kinds = dict(re.findall(r"%([\w.-]+) = (\w+)\[", text))
    (dot,) = re.findall(r" dot\(%?([\w.-]+),", text)
    how = qjax.report(f, *operands()).rows[0].how
    assert "native" in how
    assert (kinds[dot] != dtype) == ("widens" in how)


@pytest.mark.parametrize("name", ["mxfp8", "mxfp8_e5m2", "nvfp4"])
def test_block_scaled_operands_are_those_of_the_reference(name):
    """No device here multiplies them, so `jax.nn.scaled_matmul` stands by its definition."""
    quantizer = qjax.Quantizer(name)
    x = normal(0, (2, 64, 3, 5))  # b, k, m, l: k and l contracted
    tensor = quantizer.encode(x, contract=(3, 1), batch=(0,))
    codes, scales, top = blockscaled.matrices(tensor, [[0], [2], [3, 1]])
    block = quantizer.qtype.tile.contract
    assert (codes.dtype, scales.dtype) == (quantizer.qtype.format.dtype, scales.dtype)
    wide = jnp.repeat(scales.astype(jnp.float32), block, axis=-1)
    values = codes.astype(jnp.float32) * wide * top
    want = quantizer.cast(x, contract=(3, 1), batch=(0,)).transpose(0, 2, 3, 1).reshape(2, 3, -1)
    np.testing.assert_array_equal(values, want)


@pytest.mark.parametrize("name", ["mxfp8", "nvfp4"])
def test_block_scaled_products_are_lowered_for_the_device_that_has_them(name):
    gemm, shapes = qjax.Gemm(name, name), ((2, 16, 64), (64, 32))
    labels = dot_general_labels(3, 2, ((2,), (0,)), ((), ()))
    way = plan("xla", gemm, labels, "fwd", shapes, device=BLACKWELL)
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    run = jax.jit(lambda *x: execute(way, labels, "fwd", gemm, x, None))
    assert jax.eval_shape(run, *arrays).shape == (2, 16, 32)
    assert "block_scaled_dot" in run.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()


def test_an_unknown_implementation_is_refused():
    with pytest.raises(
        ValueError, match=r"must be one of \(None, 'reference', .*, but 'cuda' came"
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
