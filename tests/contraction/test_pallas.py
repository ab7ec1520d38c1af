"""Kernels give the bits of the reference, run step by step, and are lowered for devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax.contraction import pallas
from qjax.contraction.axes import dot_general_labels
from qjax.contraction.devices import Device
from qjax.contraction.plans import choose
from qjax.contraction.policy import LEGS
from tests.draws import normal

CPU, GPU, TPU = Device("cpu"), Device("gpu", (9, 0)), Device("tpu")
NUMBERS = (((1,), (0,)), ((), ()))
PLATFORMS = {"gpu": "cuda", "tpu": "tpu"}


def wide(shape, seed=0):
    """Numbers of all magnitudes, with a zero tile, a NaN and an infinity."""
    random = np.random.default_rng(seed)
    x = (random.standard_normal(shape) * np.exp2(random.uniform(-150, 126, shape))).astype(
        "float32"
    )
    x[0], x[(1,) * x.ndim], x[(2,) * x.ndim] = 0, np.nan, -np.inf
    return jnp.asarray(x, jnp.float32)


def same(got, want):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(
            np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8)
        ),
        got,
        want,
    )
    assert jax.tree.structure(got) == jax.tree.structure(want)


@pytest.mark.parametrize(
    ("name", "shape", "contract"),
    [
        ("mxfp8", (6, 64), (1,)),
        ("mxfp8", (96, 12), (0,)),
        ("mxfp4", (3, 64, 8), (1,)),
        ("mxint8", (4, 3, 64), (2,)),
        ("mxfp6_e2m3", (64, 16), (0,)),
        ("bfp8", (5, 128), (1,)),
    ],
)
def test_one_pass_gives_the_bits_of_the_quantizer(name, shape, contract):
    quantizer, x = qjax.Quantizer(name), wide(shape)
    assert pallas.tiled(quantizer, shape, contract) == ""
    options = {"contract": contract, "target": "interpreted"}
    same(pallas.encode(quantizer, x, **options), quantizer.encode(x, contract=contract))
    same(pallas.cast(quantizer, x, **options), quantizer.cast(x, contract=contract))
    narrow = pallas.cast(quantizer, x, dtype=jnp.bfloat16, **options)
    same(narrow, quantizer.cast(x, contract=contract, dtype=jnp.bfloat16))


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4", "mxint8"])
def test_ties_go_to_the_even_neighbour_as_the_quantizer_has_it(name):
    """Multiples of a power of two: most lie half-way between two values of a four-bit type."""
    quantizer = qjax.Quantizer(name)
    x = (jnp.arange(1024.0) - 512).reshape(16, 64) / 16
    same(pallas.cast(quantizer, x, target="interpreted"), quantizer.cast(x))


@pytest.mark.parametrize("rule", ["floor", "ceil", "rceil", "even"])
def test_every_rule_of_scales_is_the_quantizers(rule):
    quantizer, x = qjax.Quantizer("mxfp8", scale=rule), wide((8, 64))
    got = pallas.encode(quantizer, x, target="interpreted")
    same(got, quantizer.encode(x))


@pytest.mark.parametrize(
    ("quantizer", "shape", "why"),
    [
        (qjax.Quantizer("nvfp4"), (4, 64), "single powers of two"),
        (qjax.Quantizer("mxfp8"), (4, 40), "cut short"),
        (
            qjax.Quantizer("mxfp8", rounding=qjax.rounding.Stochastic(), scale="floor"),
            (4, 64),
            "rounding",
        ),
        (qjax.Quantizer("mxfp8", scale="search"), (4, 64), "single powers of two"),
    ],
)
def test_what_the_kernel_cannot_do_is_said(quantizer, shape, why):
    assert why in pallas.tiled(quantizer, shape, (1,))


@pytest.mark.parametrize("name", ["int4_channel", "int4_group128", "mxfp4"])
def test_products_with_packed_weights_are_those_of_the_reference(name):
    """Whole numbers, whose sums are exact in every order; then the order of the kernel."""
    x = jnp.round(4 * normal(0, (5, 512)))
    w = jnp.round(2 * normal(1, (512, 48))).clip(-6, 6)
    scale = 6 if name == "mxfp4" else 7
    w = w.at[::32].set(scale)  # so that every scale is one
    tensor = qjax.Quantizer(name).encode(w, contract=(0,))
    got = pallas.matmul(x, tensor, target="interpreted")
    np.testing.assert_array_equal(got, np.asarray(x, np.float64) @ np.asarray(tensor.decode()))
    if name != "mxfp4":  # whose grid has no 5
        np.testing.assert_array_equal(tensor.decode(), w)

    x, w = normal(0, (5, 512)), normal(2, (512, 48))
    tensor = qjax.Quantizer(name).encode(w, contract=(0,))
    got = pallas.matmul(x, tensor, target="interpreted")
    padded = jnp.pad(x, ((0, 11), (0, 0)))
    total = jnp.zeros((16, 48))
    for part in range(0, 512, 64):
        half = slice(part, part + 64)
        total += padded[:, half] @ tensor.decode()[half]
    np.testing.assert_allclose(got, total[:5], rtol=0, atol=2e-6 * float(jnp.abs(total).max()))


@pytest.mark.parametrize("target", PLATFORMS)
def test_kernels_are_lowered_for_the_devices_that_run_them(target):
    platform = (PLATFORMS[target],)
    quantizer = qjax.Quantizer("mxfp8")
    for shape, contract in (((16, 256), (1,)), ((64, 24), (0,))):
        run = jax.jit(lambda x, c=contract: pallas.encode(quantizer, x, contract=c, target=target))
        assert run.trace(jnp.zeros(shape)).lower(lowering_platforms=platform).as_text()
    for name in ("int4_group128", "mxfp4"):
        tensor = qjax.Quantizer(name).encode(jnp.ones((512, 128)), contract=(0,))
        run = jax.jit(lambda x, w: pallas.matmul(x, w, target=target))
        traced = run.trace(jnp.zeros((8, 512)), tensor)
        assert traced.lower(lowering_platforms=platform).as_text()


def test_policies_take_kernels_where_they_fit():
    shapes, labels = ((32, 64), (64, 32)), dot_general_labels(2, 2, *NUMBERS)

    def ways(gemm, implementation, device, leg="fwd"):
        return str(choose(implementation, gemm, labels, leg, shapes, device=device)[0])

    both, weights = qjax.Gemm("mxfp8", "mxfp8"), qjax.Gemm(None, "mxfp4")
    for leg in LEGS:
        assert "quantized by Pallas" in ways(both, "pallas", GPU, leg)
    assert "packed weights" in ways(weights, "pallas", TPU)
    assert ways(weights, "pallas", TPU, "drhs") == ways(weights, "xla", TPU) == "emulated"
    assert ways(qjax.Gemm("int8_channel", "int8_channel"), "pallas", GPU) == "bfloat16 products"
    with pytest.raises(ValueError, match=r"not compiled on cpu.*'pallas_interpreted'"):
        ways(both, "pallas", CPU)


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4"])
def test_a_policy_by_kernels_computes_what_the_reference_does(name):
    lhs = normal(0, (2, 32, 64))
    rhs = normal(1, (64, 32))
    numbers = (((2,), (0,)), ((), ()))
    for policy in (
        qjax.Policy.all(qjax.Quantizer(name)),
        qjax.Policy(fwd=qjax.Gemm(None, "mxfp4")),
    ):

        def loss(lhs, rhs, implementation, policy=policy):
            asked = dataclasses.replace(policy, implementation=implementation)
            return jnp.sin(qjax.dot_general(lhs, rhs, numbers, policy=asked) / 8).sum()

        run = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
        got, want = (run(lhs, rhs, i) for i in ("pallas_interpreted", "reference"))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * float(jnp.abs(b).max()))
