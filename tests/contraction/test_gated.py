"""Operands whose samples choose, and legs whose results are rounded."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer
from qjax.contraction import BitSplit, Chosen, operands
from qjax.contraction.variables import Values
from qjax.rounding import Stochastic
from tests.draws import normal

X = normal(0, (12, 3, 8))
W = normal(1, (8, 5)) / 3
G = normal(2, (12, 3, 5))
NUMBERS = (((2,), (0,)), ((), ()))
LOW, HIGH = Quantizer("int2:float32"), Quantizer("int8:float32")
PARAMS = {
    "kernel": normal(3, (8, 2)),
    "bias": jnp.array([0.1, -0.1]),
}
GATE = operands.Gated(choices=(LOW, HIGH), costs=(1.0, 4.0))


def contract(x, w, params, policy=None, values=None):
    policy = Policy(fwd=Gemm(GATE, None)) if policy is None else policy
    values = Values({"fwd_lhs": params}, {"fwd_lhs": {"cost": jnp.float32(0)}})
    return qjax.dot_general(x, w, NUMBERS, policy=policy, variables=values)


def scores(x, params):
    return np.asarray(x).mean(1) @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def test_every_sample_takes_the_quantizer_of_the_highest_score():
    high = np.argmax(scores(X, PARAMS), axis=1).astype(bool)
    assert 2 < high.sum() < 10
    wanted = np.where(high[:, None, None], HIGH.cast(X, contract=(2,)), LOW.cast(X, contract=(2,)))
    got, state = GATE.apply(X, PARAMS, (), contract=(2,), batch=(), key=None)
    assert np.array_equal(got, wanted)
    assert float(state["cost"]) == pytest.approx(np.where(high, 4.0, 1.0).mean())
    assert np.allclose(contract(X, W, PARAMS), jnp.dot(wanted, W), atol=1e-5)


def test_the_gate_has_the_derivative_of_its_softmax_and_the_operand_that_of_the_identity():
    """By hand: the Jacobian of a softmax times what each choice would give."""
    dx, dparams = jax.grad(lambda x, p: jnp.sum(G * contract(x, W, p)), (0, 1))(X, PARAMS)
    raw = scores(X, PARAMS)
    soft = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    through = np.asarray(G @ W.T)
    each = [
        np.sum(through * np.asarray(q.cast(X, contract=(2,))), axis=(1, 2)) for q in (LOW, HIGH)
    ]
    of_choice = np.stack(each, axis=1)
    of_scores = soft * (of_choice - (soft * of_choice).sum(1, keepdims=True))
    assert np.allclose(dparams["bias"], of_scores.sum(0), rtol=1e-4, atol=1e-4)
    assert np.allclose(dparams["kernel"], np.asarray(X).mean(1).T @ of_scores, rtol=1e-3, atol=1e-4)
    by_gate = (of_scores @ np.asarray(PARAMS["kernel"]).T)[:, None, :] / X.shape[1]
    assert np.allclose(dx, through + by_gate, rtol=1e-3, atol=1e-4)


def test_the_price_pulls_the_mean_cost_to_its_target_from_both_sides():
    cost = float(GATE.apply(X, PARAMS, (), contract=(2,), batch=(), key=None)[1]["cost"])
    for target, sign in ((1.0, 1.0), (4.0, -1.0)):
        gate = operands.Gated(choices=(LOW, HIGH), costs=(1.0, 4.0), price=2.0, target=target)
        penalty, grad = jax.value_and_grad(
            lambda p, g=gate: g.penalty(X, p, contract=(2,), batch=())
        )(PARAMS)
        assert float(penalty) == pytest.approx(2 * abs(cost - target), rel=1e-5)
        assert np.sign(grad["bias"][1]) == sign


def test_incoming_gradients_follow_the_choice_and_have_scales_of_their_own():
    """By hand: the samples of a choice alone are quantized by its quantizer, for both legs."""
    policy = Policy(
        fwd=Gemm(GATE, None), dlhs=Gemm(Chosen((LOW, HIGH))), drhs=Gemm(None, Chosen((LOW, HIGH)))
    )
    high = np.argmax(scores(X, PARAMS), axis=1).astype(bool)
    big = jnp.where(high[:, None, None], 100 * G, G)
    dx, dw = jax.vjp(lambda x, w: contract(x, w, PARAMS, policy), X, W)[1](big)
    parts = np.zeros(G.shape, np.float32)
    parts[high] = HIGH.cast(big[high], contract=(2,))
    parts[~high] = LOW.cast(big[~high], contract=(2,))
    values = GATE.apply(X, PARAMS, (), contract=(2,), batch=(), key=None)[0]
    assert np.allclose(dw, np.einsum("btk,btn->kn", values, parts), rtol=1e-4, atol=1e-3)
    plain = Policy(fwd=Gemm(GATE, None))
    # The gate's own share of dx is that of the plain policy, up to the gradient it comes from.
    by_gate = jax.vjp(lambda x: contract(x, W, PARAMS, plain), X)[1](jnp.asarray(parts))[0]
    assert np.allclose(dx, by_gate, rtol=1e-3, atol=1e-3)


@chex.variants(with_jit=True, without_jit=True)
class Compiled(chex.TestCase):
    def test_it_traces_and_maps(self):
        f = self.variant(lambda p: contract(X, W, p))
        assert np.allclose(f(PARAMS), contract(X, W, PARAMS), atol=1e-6)
        many = jax.tree.map(lambda a: jnp.stack([a, -a]), PARAMS)
        got = self.variant(jax.vmap(lambda p: contract(X, W, p)))(many)
        assert np.allclose(got[0], contract(X, W, PARAMS), atol=1e-6)


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(ValueError, match=r"two choices or more and as many costs"):
        operands.Gated(choices=(LOW,), costs=(1.0,))
    with pytest.raises(ValueError, match=r"nothing was chosen for.*beside an operand of `fwd.lhs`"):
        Chosen((LOW, HIGH)).cast(X)
    with pytest.raises(ValueError, match=r"12 were chosen for"):
        Chosen((LOW, HIGH), jnp.zeros((12, 2))).cast(X[:4])
    with pytest.raises(ValueError, match=r"first axis of an operand.*first axis is the batch"):
        GATE.apply(X, PARAMS, (), contract=(0,), batch=(), key=None)
    with pytest.raises(
        TypeError, match=r"`Gemm.result` must be a Quantizer that remembers nothing"
    ):
        Gemm(result=BitSplit(LOW, HIGH))


def test_results_of_all_legs_are_rounded_last():
    """Against the same contraction without: its results, cast by hand."""
    low = Quantizer("bfloat16")
    plain = Policy.all(Quantizer("mxfp8"))
    rounded = Policy.all(Quantizer("mxfp8"), result=low)

    def out(policy):
        value, back = jax.vjp(lambda x, w: qjax.dot_general(x, w, NUMBERS, policy=policy), X, W)
        return value, back

    (value, _), (got, back) = out(plain), out(rounded)
    assert np.array_equal(got, low.cast(value))
    assert np.any(got != value)
    for wanted, found in zip(out(plain)[1](G), back(G)):
        assert np.array_equal(found, low.cast(wanted))
        assert np.any(found != wanted)
    alone = Policy(fwd=Gemm(result=low))
    assert not alone.is_identity
    assert np.array_equal(out(alone)[0], low.cast(jnp.dot(X, W)))
    back = jax.vjp(lambda x, w: jax.lax.dot_general(x, w, NUMBERS), X, W)[1]
    for wanted, found in zip(back(G), out(alone)[1](G)):
        assert np.array_equal(found, wanted), "gradients pass through"


def test_noise_of_a_result_is_unbiased_and_of_its_own():
    low = Quantizer("e4m3fn", rounding=Stochastic())
    policy = Policy(fwd=Gemm(None, low, result=low))
    assert policy.stochastic
    one = lambda key: qjax.dot_general(X[:, 0], W, (((1,), (0,)), ((), ())), policy=policy, key=key)  # noqa: E731
    many = jax.vmap(one)(jax.random.split(jax.random.key(5), 4000))
    wanted = X[:, 0] @ W
    error = np.asarray(many).std(0) / np.sqrt(4000)
    assert np.all(np.abs(many.mean(0) - wanted) < 5 * error)
    assert "fwd result" in str(
        qjax.report(
            lambda x: qjax.dot_general(
                x, W, (((1,), (0,)), ((), ())), policy=policy, key=jax.random.key(0)
            ),
            X[:, 0],
        )
    )
