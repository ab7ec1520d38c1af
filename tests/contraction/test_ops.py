"""The explicit doors say what is wrong: what was asked of which argument, what came, what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Policy, Quantizer, Rule
from tests.draws import normal

NUMBERS = (((1,), (0,)), ((), ()))
SIX = Policy.all(Quantizer("mxfp8"))
NOISY = Policy.all(Quantizer("mxfp4", rounding=qjax.rounding.Stochastic(), scale="floor"))
ONES = jnp.ones((4, 4))


def test_integer_operands_are_refused():
    with pytest.raises(TypeError, match=r"`lhs`.*floating point.*int32.*astype"):
        qjax.dot_general(jnp.ones((2, 4), jnp.int32), ONES, NUMBERS, policy=SIX)


def test_a_string_is_no_policy():
    with pytest.raises(TypeError, match=r"`policy` as a qjax.Policy.*'mxfp8'.*recipes.get"):
        qjax.einsum("ij,jk", ONES, ONES, policy="mxfp8")  # type: ignore[arg-type]


def test_noise_without_a_key_is_refused_forward_and_backward():
    with pytest.raises(ValueError, match=r"key"):
        qjax.dot_general(ONES, ONES, NUMBERS, policy=NOISY)
    backward = Policy(dlhs=NOISY.dlhs)
    fn = lambda x: qjax.dot_general(x, ONES, NUMBERS, policy=backward).sum()  # noqa: E731
    with pytest.raises(ValueError, match=r"key.*rngs"):
        jax.grad(fn)(ONES)


@pytest.mark.parametrize("key", [3, jnp.zeros((2,)), jax.random.split(jax.random.key(0), 3)])
def test_a_wrong_key_is_refused(key):
    with pytest.raises(ValueError, match=r"`key` as one random key.*jax.random.key\(seed\)"):
        qjax.dot_general(ONES, ONES, NUMBERS, policy=NOISY, key=key)


def test_subscripts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"names 3 axes, but its operand has 2"):
        qjax.einsum("ijk,jk->ik", ONES, ONES, policy=SIX)
    with pytest.raises(ValueError, match=r"names 2 operands, but 3 came"):
        qjax.einsum("ij,jk->ik", ONES, ONES, ONES, policy=SIX)


def test_a_misspelt_recipe_lists_near_names():
    with pytest.raises(ValueError, match=r"'mxpf8'.*Did you mean.*'mxfp8'"):
        qjax.quantize(lambda x: x, "mxpf8")


def test_a_misspelt_operation_in_a_rule_lists_near_names():
    with pytest.raises(ValueError, match=r"'dot'.*Did you mean 'dot_general'"):
        Rule(".*", SIX, ops=("dot",))


def test_a_broken_pattern_is_refused():
    with pytest.raises(ValueError, match=r"`Rule.path`.*regular expression.*'\(a'"):
        Rule("(a", SIX)


def test_a_policy_of_strings_is_refused():
    with pytest.raises(TypeError, match=r"`Policy.fwd`.*'mxfp8'.*recipes.get"):
        Policy(fwd="mxfp8")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5,), (5,)),
        ((4, 5), (5,)),
        ((5,), (5, 3)),
        ((4, 5), (5, 3)),
        ((2, 4, 5), (5, 3)),
        ((4, 5), (2, 5, 3)),
        ((2, 4, 5), (2, 5, 3)),
        ((2, 1, 4, 5), (3, 5, 3)),
        ((2, 4, 5), (5,)),
        ((0, 4, 5), (5, 3)),
    ],
)
def test_matmul_is_that_of_jax_and_quantizes_as_einsum_does(a, b):
    a, b = normal(0, a), normal(1, b)

    def value_and_grads(f):
        return jax.value_and_grad(lambda a, b: jnp.sum(f(a, b) ** 2), (0, 1))(a, b)

    def plain(a, b):
        return qjax.matmul(a, b, policy=qjax.Policy())

    np.testing.assert_array_equal(plain(a, b), jnp.matmul(a, b))
    for got, expected in zip(
        jax.tree.leaves(value_and_grads(plain)), jax.tree.leaves(value_and_grads(jnp.matmul))
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    policy = qjax.Policy(fwd=qjax.Gemm("int8_channel", "e4m3fn"))
    rows = qjax.cast(a, "int8_channel")
    expected = jnp.matmul(rows, qjax.cast(b, "e4m3fn"))
    np.testing.assert_allclose(qjax.matmul(a, b, policy=policy), expected, rtol=1e-5, atol=1e-5)


def test_matmul_says_which_axes_do_not_fit():
    with pytest.raises(ValueError, match=r"last axis of shape \(2, 3\) with the last but one"):
        qjax.matmul(jnp.ones((2, 3)), jnp.ones((2, 3)), policy=qjax.Policy())
    with pytest.raises(ValueError, match="a scalar has no axis"):
        qjax.matmul(jnp.float32(1), jnp.ones(3), policy=qjax.Policy())
