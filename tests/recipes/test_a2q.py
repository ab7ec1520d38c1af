"""A2Q and A2Q+: an accumulator of P bits is never left, by any input, before and after training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, recipes
from qjax.contraction.accumulators import IntegerAccumulator
from qjax.contraction.variables import Values
from qjax.formats import Int
from qjax.recipes import a2q
from tests.draws import normal

DIMENSIONS = (((1,), (0,)), ((), ()))
BITS, K, N = 4, 48, 24
X = normal(0, (32, K))
W = normal(1, (K, N))
Y = jnp.tanh(X @ normal(2, (K, N)))


def trained(policy, steps):
    """Weights and learned values after some steps of a small regression."""
    values = Values()
    qjax.dot_general(X, W, DIMENSIONS, policy=policy, variables=values)
    optimizer = optax.sgd(0.3)

    def loss(both):
        kernel, params = both
        used = Values(params, {})
        out = qjax.dot_general(X, kernel, DIMENSIONS, policy=policy, variables=used)
        return jnp.mean((out - Y) ** 2) + sum(used.penalties.values(), jnp.float32(0))

    def one(carry, _):
        both, state = carry
        updates, state = optimizer.update(jax.grad(loss)(both), state)
        return (optax.apply_updates(both, updates), state), None

    both = (W, values.params)
    (both, _), _ = jax.jit(lambda c: jax.lax.scan(one, c, None, length=steps))(
        (both, optimizer.init(both))
    )
    return both


def codes_of(policy, kernel, params):
    made, _ = policy.fwd.rhs.apply(kernel, params, (), contract=(0,), batch=(), key=None)
    codes = np.asarray(made / jnp.exp2(params["log_step"]), np.float64)
    assert np.allclose(codes, np.round(codes), atol=1e-4)
    return np.round(codes)


def adversaries(codes, signed):
    """For each column the inputs that drive its sum furthest up and furthest down."""
    low, high = (-8, 7) if signed else (0, 15)
    up = np.where(codes > 0, high, low if signed else 0).T
    down = np.where(codes > 0, low if signed else 0, high).T
    return np.concatenate([up, down])


def emulated(inputs, codes, accumulator, order):
    """The sums in an accumulator that wraps, and exactly."""
    policy = Policy(
        fwd=Gemm(
            Quantizer(Int(6, narrow=False)),
            Quantizer(Int(8)),
            accumulator=IntegerAccumulator(accumulator, overflow="wrap"),
        )
    )
    x, w = inputs[:, order], codes[order]
    got = qjax.dot_general(
        jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32), DIMENSIONS, policy=policy
    )
    return np.asarray(got), x @ w, np.cumsum(x[:, :, None] * w[None], axis=1)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("accumulator", [9, 12])
def test_no_input_overflows_before_or_after_training(accumulator, signed, centred):
    policy = a2q.policy(accumulator, bits=BITS, centred=centred, signed=signed)
    order = np.random.default_rng(0).permutation(K)
    top = 2 ** (accumulator - 1) - 1
    for steps in (0, 40):
        kernel, params = trained(policy, steps)
        codes = codes_of(policy, kernel, params["fwd_rhs"])
        assert np.any(codes)
        wrapped, exact, prefixes = emulated(adversaries(codes, signed), codes, accumulator, order)
        assert np.array_equal(wrapped, exact)
        assert np.abs(prefixes).max() <= top
        used = np.abs(exact).max() / top
        assert used > 0.25 or (accumulator, steps) != (12, 0), "the accumulator is made use of"


def test_without_the_bound_the_same_accumulator_overflows():
    codes = np.asarray(jnp.clip(jnp.round(W * 3), -7, 7), np.float64)
    wrapped, exact, _ = emulated(adversaries(codes, True), codes, 10, np.arange(K))
    assert not np.array_equal(wrapped, exact)


def test_narrower_accumulators_make_sparser_weights_and_centring_fewer():
    zeros = {}
    for centred in (False, True):
        for accumulator in (8, 10, 14):
            policy = a2q.policy(accumulator, centred=centred)
            params = policy.fwd.rhs.params(W, contract=(0,), batch=())
            zeros[accumulator, centred] = np.mean(codes_of(policy, W, params) == 0)
        assert zeros[8, centred] > zeros[10, centred] > zeros[14, centred]
    assert zeros[10, True] < zeros[10, False]


def test_the_penalty_is_how_far_the_learned_sums_are_above_the_limit():
    operand = a2q.policy(10).fwd.rhs
    params = operand.params(W, contract=(0,), batch=())
    above = {**params, "log_norm": params["log_step"] + np.log2(operand.limit) + 2}
    assert float(operand.penalty(W, params, contract=(0,), batch=())) == pytest.approx(0, abs=1e-6)
    got = float(operand.penalty(W, above, contract=(0,), batch=()))
    assert got == pytest.approx(a2q.PRICE * 2 * N, rel=1e-4)


def test_the_last_layer_has_eight_bits_and_no_limit():
    match = recipes.get("a2q_plus_p12").match("lm_head", "dot_general")
    assert match is not None
    lhs, rhs = match[1].policy.fwd.lhs, match[1].policy.fwd.rhs
    assert (lhs.bits, lhs.granularity) == (8, "tensor")
    assert (type(rhs).__name__, rhs.bits, rhs.granularity) == ("LSQ", 8, "channel")


@pytest.mark.parametrize(("signed", "limit"), [(False, 127.996), (True, 255.992)])
def test_inputs_without_a_sign_reach_twice_as_far_and_leave_half_the_limit(signed, limit):
    weights = a2q.policy(16, bits=8, signed=signed).fwd.rhs
    assert float(weights.limit) == pytest.approx(limit, abs=1e-3)
