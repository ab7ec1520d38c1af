"""A policy that changes nothing is JAX itself, bit for bit, for every operation over a grid.

All cases of an operation are one program, compiled once for JAX and once through the derivative
rule, which a policy that quantizes nothing is sent through by force.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer
from tests.draws import normal
from tests.quick import QUICK

NOTHING = Policy()


def conv(a, b, strides, padding, numbers, **options):
    return (
        "conv",
        (a, b),
        {
            "window_strides": strides,
            "padding": padding,
            "dimension_numbers": numbers,
            **options,
        },
    )


def dot(a, b, contract, batch=((), ()), **options):
    return "dot", (a, b), {"dimension_numbers": (contract, batch), **options}


def ragged(a, b, sizes, **options):
    return "ragged", (a, b), {"group_sizes": sizes, **options}


CASES = {
    "matmul": dot((3, 9), (9, 5), ((1,), (0,))),
    "transposed": dot((9, 3), (5, 9), ((0,), (1,))),
    "batched": dot((2, 3, 9), (2, 9, 5), ((2,), (1,)), ((0,), (0,))),
    "two batches, exchanged": dot((2, 3, 4, 9), (3, 9, 2), ((3,), (1,)), ((1, 0), (0, 2))),
    "two contracted, exchanged": dot((3, 4, 6), (6, 4, 5), ((1, 2), (1, 0))),
    "vectors": dot((9,), (9,), ((0,), (0,))),
    "outer": dot((3,), (5,), ((), ())),
    "ones": dot((1, 1, 1), (1, 1, 1), ((2,), (1,)), ((0,), (0,))),
    "no rows": dot((0, 4), (4, 2), ((1,), (0,))),
    "no batch": dot((0, 3, 4), (0, 4, 2), ((2,), (1,)), ((0,), (0,))),
    "nothing contracted": dot((3, 0), (0, 5), ((1,), (0,))),
    "highest": dot((3, 9), (9, 5), ((1,), (0,)), precision=jax.lax.Precision.HIGHEST),
    "wide result": dot((3, 9), (9, 5), ((1,), (0,)), preferred_element_type=jnp.float32),
    "line": conv((2, 9, 3), (3, 3, 4), (1,), "SAME", ("NWC", "WIO", "NWC")),
    "plane": conv((2, 5, 6, 3), (3, 2, 3, 4), (1, 1), "VALID", ("NHWC", "HWIO", "NHWC")),
    "channels first": conv((2, 3, 5, 6), (4, 3, 3, 2), (1, 1), "SAME", ("NCHW", "OIHW", "NCHW")),
    "strided": conv((2, 7, 6, 3), (3, 2, 3, 4), (2, 3), "SAME", ("NHWC", "HWIO", "NHWC")),
    "dilated": conv(
        (2, 7, 8, 3), (2, 3, 3, 4), (1, 2), "SAME", ("NHWC", "HWIO", "NHWC"), rhs_dilation=(2, 3)
    ),
    "transposed convolution": conv(
        (2, 3, 4, 3),
        (2, 3, 3, 4),
        (1, 1),
        ((0, 1), (2, 0)),
        ("NHWC", "HWIO", "NHWC"),
        lhs_dilation=(2, 3),
    ),
    "grouped": conv(
        (2, 5, 6, 4), (3, 2, 2, 6), (1, 1), "SAME", ("NHWC", "HWIO", "NHWC"), feature_group_count=2
    ),
    "depthwise": conv(
        (2, 5, 6, 4), (3, 2, 1, 8), (1, 1), "SAME", ("NHWC", "HWIO", "NHWC"), feature_group_count=4
    ),
    "groups of images": conv(
        (4, 5, 6, 3), (3, 2, 3, 6), (1, 1), "SAME", ("NHWC", "HWIO", "NHWC"), batch_group_count=2
    ),
    "padded apart": conv(
        (2, 5, 6, 3), (3, 2, 3, 4), (1, 1), ((2, 0), (-1, 3)), ("NHWC", "HWIO", "NHWC")
    ),
    "volume": conv(
        (1, 3, 4, 5, 2), (2, 2, 3, 2, 3), (1, 2, 1), "SAME", ("NDHWC", "DHWIO", "NDHWC")
    ),
    "one pixel": conv((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), "SAME", ("NHWC", "HWIO", "NHWC")),
    "no images": conv((0, 5, 6, 3), (3, 2, 3, 4), (1, 1), "SAME", ("NHWC", "HWIO", "NHWC")),
    "experts": ragged((7, 4), (3, 4, 5), (2, 0, 5)),
    "rows of nobody": ragged((7, 4), (3, 4, 5), (1, 2, 1)),
    "one expert": ragged((3, 4), (1, 4, 5), (3,)),
}
for text, *shapes in (
    ("ij,jk->ik", (3, 9), (9, 5)),
    ("bqhd,bkhd->bhqk", (2, 3, 2, 8), (2, 5, 2, 8)),
    ("...hqk,...khd->...qhd", (2, 2, 3, 5), (2, 5, 2, 8)),
    ("ij,kj", (3, 9), (5, 9)),
    ("ij,jk->", (3, 4), (4, 5)),
    ("ij,k->ik", (3, 4), (5,)),
    ("b...,b...->b", (3, 4, 2), (3, 4, 2)),
    ("ij,ij->ji", (3, 4), (3, 4)),
    ("ii,ij->j", (3, 3), (3, 4)),
    ("i,->i", (3,), ()),
    ("ij,jk->ik", (0, 3), (3, 2)),
):
    CASES[f"einsum {text} {shapes[0]}"] = ("einsum", tuple(shapes), {"subscripts": text})

KINDS = pytest.mark.parametrize(
    "kinds", [("dot", "einsum", "ragged"), ("conv",)], ids=["products", "convolutions"]
)
DOORS = {"dot": qjax.dot_general, "conv": qjax.conv_general_dilated, "einsum": qjax.einsum}


def plain(kind, x, y, options):
    """JAX's own function."""
    if kind == "ragged":
        return jax.lax.ragged_dot(x, y, jnp.array(options["group_sizes"], jnp.int32))
    if kind == "einsum":
        return jnp.einsum(options["subscripts"], x, y)
    function = {"dot": jax.lax.dot_general, "conv": jax.lax.conv_general_dilated}[kind]
    return function(x, y, **options)


def ours(kind, x, y, options, policy):
    """Our function of the same name."""
    if kind == "ragged":
        sizes = jnp.array(options["group_sizes"], jnp.int32)
        return qjax.ragged_dot(x, y, sizes, policy=policy)
    if kind == "einsum":
        return qjax.einsum(options["subscripts"], x, y, policy=policy)
    return DOORS[kind](x, y, **options, policy=policy)


# What is compared is what is computed, which the compiler's last passes do not change. The slow
# tests compile as users do.
def results(function, dtype, kinds, options=QUICK):
    """Results and gradients of all cases of some kinds, from one program."""
    chosen = {name: case for name, case in CASES.items() if case[0] in kinds}

    operands = {
        name: [normal(2 * n + i, shape, dtype) for i, shape in enumerate(shapes)]
        for n, (name, (_, shapes, _)) in enumerate(chosen.items())
    }

    def every(operands):
        found = {}
        for name, (kind, _, options) in chosen.items():
            x, y = operands[name]
            out, pull = jax.vjp(lambda x, y, k=kind, o=options: function(k, x, y, o), x, y)
            weight = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
            found[name] = (out, *pull(weight.astype(out.dtype)))
        return found

    return jax.jit(every).lower(operands).compile(compiler_options=options)(operands)


def nothing(kind, x, y, options):
    """Our function, where nothing is quantized."""
    return ours(kind, x, y, options, NOTHING)


expected = functools.cache(functools.partial(results, plain))


@pytest.fixture
def by_force(monkeypatch):
    """Sends a policy that quantizes nothing through the derivative rule all the same."""
    monkeypatch.setattr(Policy, "is_identity", False)


@KINDS
@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__
)
def test_nothing_quantized_is_jax_bit_for_bit(dtype, kinds, by_force):
    found = results(nothing, dtype, kinds)
    for name, want in expected(dtype, kinds).items():
        chex.assert_trees_all_equal(found[name], want, custom_message=name)
        chex.assert_trees_all_equal_dtypes(found[name], want)


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__
)
def test_nothing_quantized_is_jax_bit_for_bit_as_users_compile_it(dtype, kinds, by_force):
    found, want = (results(f, dtype, kinds, None) for f in (nothing, plain))
    chex.assert_trees_all_equal(found, want)


def test_the_door_hands_the_arguments_to_jax_where_nothing_is_quantized():
    for name, (kind, shapes, options) in CASES.items():
        args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
        one = jax.make_jaxpr(lambda x, y, k=kind, o=options: plain(k, x, y, o))(*args)
        two = jax.make_jaxpr(lambda x, y, k=kind, o=options: ours(k, x, y, o, NOTHING))(*args)
        assert str(one) == str(two), name


@KINDS
def test_a_quantizer_that_loses_nothing_changes_no_result(kinds):
    """float32 operands cast to float32: all six go the whole way and come back as they were."""
    lossless = Policy.all(Quantizer(qjax.formats.Float(8, 23)))
    found = results(lambda k, x, y, o: ours(k, x, y, o, lossless), jnp.float32, kinds)
    for name, want in expected(jnp.float32, kinds).items():
        for a, b in zip(found[name], want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)


def test_precision_and_the_type_of_the_result_are_honoured_when_quantized():
    policy = Policy.all(Quantizer("mxfp8"))
    x, y = jnp.ones((3, 32), jnp.bfloat16), jnp.ones((32, 5), jnp.bfloat16)
    highest = jax.lax.Precision.HIGHEST

    def run(x, y):
        numbers = (((1,), (0,)), ((), ()))
        return qjax.dot_general(x, y, numbers, highest, jnp.float32, policy=policy)

    def products(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield eqn
            for inner in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "jaxpr")):
                if hasattr(inner, "jaxpr"):
                    yield from products(inner.jaxpr)

    whole = jax.make_jaxpr(lambda x, y: jax.vjp(run, x, y)[1](jnp.ones((3, 5))))(x, y)
    found = list(products(whole.jaxpr))
    assert len(found) == 3
    assert {eqn.params["precision"] for eqn in found} == {(highest, highest)}
    assert run(x, y).dtype == jnp.float32
    assert {g.dtype for g in jax.vjp(run, x, y)[1](jnp.ones((3, 5)))} == {jnp.dtype(jnp.bfloat16)}


def second(product, x, y):
    """Derivatives of a gradient along a direction, forward and reverse over reverse."""
    gradient = jax.grad(lambda x, y: jnp.sum(jnp.tanh(product(x, y))), (0, 1))
    along = (jnp.cos(x), jnp.sin(y))

    def scalar(x, y):
        return sum(map(jnp.vdot, gradient(x, y), along))

    return jax.jit(lambda: (jax.jvp(gradient, (x, y), along)[1], jax.grad(scalar, (0, 1))(x, y)))()


def straight(names):
    """A product whose legs are exact ones of operands with straight-through roundings."""

    def cast(n, v, axis):
        if names[n] is None:
            return v
        values = Quantizer(names[n]).cast(jax.lax.stop_gradient(v), contract=(axis,))
        return v + jax.lax.stop_gradient(values - v)

    def forward(x, y):
        return cast(0, x, 1) @ cast(1, y, 0), (x, y)

    def backward(saved, g):
        x, y = saved
        return cast(2, g, 1) @ cast(3, y, 1).T, cast(4, x, 0).T @ cast(5, g, 0)

    product = jax.custom_vjp(lambda x, y: forward(x, y)[0])
    product.defvjp(forward, backward)
    return product


SIX = ("mxfp8", "mxfp4", "int8_channel", "nf4_block64", None, "e4m3fn_channel")


@pytest.mark.parametrize(
    ("names", "implementation"), [(SIX, None), (("int8_channel",) * 6, "xla"), ((None,) * 6, None)]
)
def test_a_gradient_is_differentiated_with_straight_through_roundings(
    names, implementation, by_force
):
    x, y = (normal(i, s) for i, s in enumerate(((3, 8), (8, 4))))
    gemms = [Gemm(*names[i : i + 2]) for i in (0, 2, 4)]
    policy = Policy(*gemms, implementation=implementation)
    numbers = (((1,), (0,)), ((), ()))
    ours = second(lambda x, y: qjax.dot_general(x, y, numbers, policy=policy), x, y)
    # Where nothing is rounded, sums are those of JAX.
    bound = 1e-6 if names == (None,) * 6 else 1e-5
    chex.assert_trees_all_close(ours, second(straight(names), x, y), rtol=bound, atol=bound)


def test_codes_that_are_kept_have_no_second_derivative_and_say_so():
    policy = Policy(Gemm(None, "int8_channel"), residuals="codes")
    numbers = (((1,), (0,)), ((), ()))
    with pytest.raises(ValueError, match="residuals='float'"):
        second(
            lambda x, y: qjax.dot_general(x, y, numbers, policy=policy),
            jnp.ones((3, 8)),
            jnp.ones((8, 4)),
        )


@pytest.mark.parametrize("name", ["batched", "grouped", "experts", "einsum ij,kj (3, 9)"])
def test_gradients_of_nothing_quantized_are_those_of_finite_differences(name, by_force):
    kind, shapes, options = CASES[name]
    x, y = (0.5 * normal(i, s) for i, s in enumerate(shapes))
    function = lambda x, y: ours(kind, x, y, options, NOTHING)  # noqa: E731
    jax.test_util.check_grads(function, (x, y), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)
