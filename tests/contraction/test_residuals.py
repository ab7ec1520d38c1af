"""What the backward pass is given: floats, codes, or codes quantized again; and clip masks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, calibration
from qjax.contraction import SAVED, BitSplit, Hadamard
from tests.draws import normal

DOT = (((1,), (0,)), ((), ()))
DOTS = jax.checkpoint_policies.dots_saveable
INT8, INT4 = Quantizer("int8_channel"), Quantizer("int4_channel")
X, W, G = (normal(i, s) for i, s in enumerate(((16, 32), (32, 64), (16, 64))))
# Clips every element beyond one.
UNIT = Quantizer(qjax.QType("int4", qjax.Tile(), "float32"), calibration=calibration.Fixed(1.0))


def gradients(policy, x=X, w=W, g=G):
    function = lambda x, w: qjax.dot_general(x, w, DOT, policy=policy)  # noqa: E731

    @jax.jit
    def both(x, w, g):
        out, pull = jax.vjp(function, x, w)
        return out, *pull(g)

    return both(x, w, g)


def test_codes_are_what_the_gradients_multiply():
    out, dx, dw = gradients(Policy(Gemm(INT8, INT4), residuals="codes"))
    x, w = INT8.cast(X), INT4.cast(W, contract=(0,))
    np.testing.assert_array_equal(out, gradients(Policy(Gemm(INT8, INT4)))[0])
    np.testing.assert_allclose(dx, G @ w.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw, x.T @ G, rtol=1e-5, atol=1e-5)


def test_requantized_codes_are_quantized_as_the_legs_say():
    legs = (Gemm(INT8, INT4), Gemm(INT4, INT8), Gemm(INT4, INT8))
    _, dx, dw = gradients(Policy(*legs, residuals="requantize"))
    x, w = INT8.cast(X), INT4.cast(W, contract=(0,))
    np.testing.assert_allclose(
        dx, INT4.cast(G) @ INT8.cast(w, contract=(1,)).T, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        dw, INT4.cast(x, contract=(0,)).T @ INT8.cast(G, contract=(0,)), rtol=1e-5, atol=1e-5
    )


def test_codes_of_transformed_operands_give_gradients_of_the_operands():
    policy = Policy(Gemm(INT4, INT4, transform=Hadamard(32, seed=0)), residuals="codes")
    _, dx, dw = gradients(policy)
    h = np.asarray(Hadamard(32, seed=0).first(jnp.eye(32)))
    x, w = INT4.cast(X @ h), INT4.cast(h.T @ W, contract=(0,))
    np.testing.assert_allclose(dx, (G @ w.T) @ h.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dw, h @ (x.T @ G), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("residuals", ["float", "codes"])
@pytest.mark.parametrize("transform", [None, Hadamard(32, seed=0)])
def test_the_gradient_of_what_saturates_is_zero(residuals, transform):
    policy = Policy(Gemm(UNIT, INT8, transform=transform), residuals=residuals, clip=True)
    _, dx, dw = gradients(policy)
    h = np.eye(32) if transform is None else np.asarray(transform.first(jnp.eye(32)))
    x, w = X @ h, h.T @ W
    if residuals == "codes":
        x, w = UNIT.cast(x), INT8.cast(w, contract=(0,))
    inside = np.abs(X @ h) <= 1
    assert 0.1 < inside.mean() < 0.9
    np.testing.assert_allclose(dx, np.where(inside, G @ w.T, 0) @ h.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dw, h @ (x.T @ G), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("quantizer", [INT8, Quantizer("mxfp8"), INT4])
def test_codes_take_a_third_of_the_memory_of_floats(quantizer, clip):
    """What one layer keeps of its operands, weights included, from the types of the vjp."""

    def kept(policy):
        function = lambda x, w: qjax.dot_general(x, w, DOT, policy=policy)  # noqa: E731
        pull = jax.eval_shape(lambda x, w: jax.vjp(function, x, w)[1], X, W)
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(pull))

    floats = kept(Policy(Gemm(quantizer, quantizer)))
    assert floats == 4 * (X.size + W.size)
    codes = kept(Policy(Gemm(quantizer, quantizer), residuals="codes", clip=clip))
    assert codes <= 0.35 * floats


def test_bfloat16_operands_keep_their_dtypes():
    x, w, g = (a.astype(jnp.bfloat16) for a in (X, W, G))
    for policy in (
        Policy(Gemm(INT8, INT8), residuals="codes"),
        Policy(Gemm(INT8, None), residuals="codes", clip=True),
    ):
        assert {a.dtype for a in gradients(policy, x, w, g)} == {jnp.dtype(jnp.bfloat16)}


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(ValueError, match="'requantize'"):
        Policy(Gemm(INT8, INT8), Gemm(None, INT8), residuals="codes")
    with pytest.raises(ValueError, match="BitSplit"):
        Policy(Gemm(BitSplit(INT4, INT4)), residuals="codes")
    with pytest.raises(ValueError, match=r"Policy.residuals.*'packed'"):
        Policy(residuals="packed")  # type: ignore[arg-type]


def test_what_a_model_saves_may_be_codes_alone():
    """Twelve layers between which much is computed; everything but codes is computed again."""
    policy = Policy(Gemm("mxfp8", "mxfp8"), residuals="codes")
    weights = [jax.ShapeDtypeStruct((64, 64), jnp.float32)] * 12
    x = jax.ShapeDtypeStruct((512, 64), jnp.float32)

    def model(policy):
        def layers(x, *weights):
            for w in weights:
                x = jax.nn.gelu(qjax.dot_general(x, w, DOT, policy=policy)) + jnp.tanh(x)
            return x

        return layers

    def saved(function):
        kept = jax.tree.leaves(jax.eval_shape(lambda *a: jax.vjp(function, *a)[1], x, *weights))
        return [leaf for leaf in kept if leaf.shape != (64, 64)]

    size = lambda leaves: sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)  # noqa: E731
    names = jax.checkpoint_policies.save_only_these_names(SAVED)
    low = saved(jax.checkpoint(model(policy), policy=names))
    assert [leaf.dtype.name for leaf in low].count("float8_e4m3fn") == 12
    assert size(low) < 0.35 * size(saved(model(policy)))
    assert size(low) < 0.35 * size(saved(jax.checkpoint(model(Policy()), policy=DOTS)))


def test_gradients_from_codes_alone_are_the_same():
    policy = Policy(Gemm(INT8, INT4), clip=True, residuals="codes")
    function = lambda x, w: jnp.sum(qjax.dot_general(x, w, DOT, policy=policy) * G)  # noqa: E731
    names = jax.checkpoint_policies.save_only_these_names(SAVED)
    low = jax.jit(jax.grad(jax.checkpoint(function, policy=names), (0, 1)))(X, W)
    for one, two in zip(low, jax.jit(jax.grad(function, (0, 1)))(X, W), strict=True):
        np.testing.assert_array_equal(one, two)
