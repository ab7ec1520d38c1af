"""Operands that come encoded: the same bits as with the quantizer that made them, or an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer
from qjax.quantizer import Stored
from tests.draws import normal

NUMBERS = (((1,), (0,)), ((), ()))
X = normal(0, (8, 48))
W = normal(1, (48, 16))


def product(x, w, policy, **settings):
    return jax.jit(lambda x, w: qjax.dot_general(x, w, NUMBERS, policy=policy, **settings))(x, w)


@pytest.mark.parametrize("name", ["mxfp8", "int8", "nvfp4", "e3m2fn"])
@pytest.mark.parametrize("implementation", [None, "bfloat16", "xla"])
def test_a_stored_operand_gives_the_bits_of_its_quantizer(name, implementation):
    policy = qjax.recipes.get(name).using(implementation).default
    tensor = policy.fwd.rhs.encode(W, contract=(0,))
    assert np.array_equal(product(X, W, policy), product(X, tensor, policy))


def test_the_left_operand_may_be_stored_too():
    policy = qjax.recipes.get("int8").default
    tensor = policy.fwd.lhs.encode(X, contract=(1,))
    both = policy.fwd.rhs.encode(W, contract=(0,))
    assert np.array_equal(product(X, W, policy), product(tensor, both, policy))


def test_gradients_of_the_other_operand_see_the_stored_values():
    policy = Policy(fwd=Gemm("mxfp8", "mxfp8"))
    tensor = policy.fwd.rhs.encode(W, contract=(0,))
    gradient = jax.grad(lambda x: jnp.sum(product(x, tensor, policy)))(X)
    np.testing.assert_array_equal(gradient, jnp.ones((8, 16)) @ tensor.decode().T)


def test_another_type_is_refused_with_both_names():
    tensor = Quantizer("mxfp4").encode(W, contract=(0,))
    with pytest.raises(ValueError, match="takes mxfp8 as `rhs`, but a tensor packed as mxfp4"):
        product(X, tensor, qjax.recipes.get("mxfp8").default)
    with pytest.raises(ValueError, match="takes an array of floating point as `rhs`"):
        product(X, tensor, Policy())


def test_tiles_along_other_axes_are_refused():
    tensor = Quantizer("mxfp8").encode(W, contract=(1,))
    with pytest.raises(ValueError, match="Encode the operand along the axes"):
        product(X, tensor, qjax.recipes.get("mxfp8").default)


def test_einsum_of_three_refuses_packed_operands():
    tensor = Quantizer("int8_channel").encode(W, contract=(0,))
    policy = Policy(fwd=Gemm("int8_channel", "int8_channel"))
    with pytest.raises(ValueError, match="products of two"):
        qjax.einsum("ab,bc,cd->ad", X, tensor, W.T, policy=policy)


def test_it_is_a_pytree():
    stored = Stored(Quantizer("mxfp4").encode(W, contract=(0,)))
    leaves, tree = jax.tree.flatten(stored)
    again = jax.tree.unflatten(tree, leaves)
    assert again.qtype == stored.qtype
    assert not again.stochastic
    assert jax.tree.unflatten(tree, [None] * len(leaves)) is not None
