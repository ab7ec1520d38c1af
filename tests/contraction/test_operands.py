"""Trained operands: their values and derivatives are those of the estimators, in every leg."""

import dataclasses
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, calibration, formats, gradients, operands
from qjax.contraction.operands import Operand
from qjax.contraction.variables import Values
from qjax.qtypes import QType
from qjax.tiling import Tile
from tests.draws import normal

X = normal(0, (6, 16))
W = normal(1, (16, 5)) / 4
DELAYED = Quantizer("int4:float32", calibration=calibration.Delayed(length=3))
NUMBERS = (((1,), (0,)), ((), ()))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ternary(Operand):
    """The example of the documentation."""

    @property
    def qtype(self):
        return QType(formats.TERNARY, Tile(), formats.FLOAT32)  # type: ignore[arg-type]

    def apply(self, x, params, state, *, contract, batch, key):
        scale = jax.lax.stop_gradient(jnp.mean(jnp.abs(x)))
        return gradients.round_through(jnp.clip(x / scale, -1, 1)) * scale, state


def squash(x):
    return jnp.tanh(x)


MEMBERS = {
    "lsq": operands.LSQ(bits=3),
    "lsq unsigned": operands.LSQ(bits=2, signed=False),
    "lsq channel": operands.LSQ(bits=3, granularity="channel"),
    "lsq+": operands.LSQPlus(bits=3),
    "lsq+ channel": operands.LSQPlus(bits=3, granularity="channel"),
    "pact": operands.PACT(bits=2, bound=0.3, decay=1e-2),
    "bits": operands.LearnedBits(bits=3.3, price=1e-2),
    "point": operands.LearnedPoint(bits=5),
    "spaced": operands.Spaced(bits=3, low=-1.0, high=1.0),
    "spaced, learned ends": operands.Spaced(bits=3, low=-1.0, learned=("low", "high")),
    "soft levels": operands.SoftLevels(bits=3),
    "bounded": operands.L1Bounded(accumulator=12),
    "bounded and centred": operands.L1Bounded(accumulator=12, centred=True, price=1e-3),
    "ternary": Ternary(),
    "mapped": operands.Mapped(squash, operands.LSQ(bits=3)),
    "mapped pact": operands.Mapped(squash, operands.PACT(bits=3, bound=0.3, decay=1e-2)),
    "estimated": operands.Estimated(Quantizer("mxfp4")),
    "delayed": operands.Estimated(
        Quantizer("int4:float32", calibration=calibration.Delayed(length=3))
    ),
}


def dot(x, w, policy, variables, key=None):
    return qjax.dot_general(x, w, NUMBERS, policy=policy, variables=variables, key=key)


def apply(operand, x, params, contract):
    state = operand.state(x, contract=contract, batch=())
    return operand.apply(x, params, state, contract=contract, batch=(), key=None)[0]


@pytest.mark.parametrize("name", MEMBERS)
def test_a_contraction_is_that_of_the_estimators_values_and_differentiates_through_them(name):
    """Left and right operand, with six operands quantized behind: the oracle nests by hand."""
    operand = MEMBERS[name]
    policy = dataclasses.replace(Policy.all(Quantizer("mxfp8")), fwd=Gemm(operand, operand))
    made = Values()
    dot(X, W, policy, made)
    inner = dataclasses.replace(policy, fwd=Gemm())

    def ours(x, w, params):
        return jnp.sum(jnp.sin(dot(x, w, policy, Values(params, made.quant))))

    def oracle(x, w, params):
        left = apply(operand, x, params.get("fwd_lhs", {}), (1,))
        right = apply(operand, w, params.get("fwd_rhs", {}), (0,))
        return jnp.sum(jnp.sin(qjax.dot_general(left, right, NUMBERS, policy=inner)))

    assert made.params is not None
    got, expected = (jax.value_and_grad(f, (0, 1, 2))(X, W, made.params) for f in (ours, oracle))
    chex.assert_trees_all_equal(got, expected)
    assert np.isfinite(got[0])
    learned = jax.tree.leaves(got[1][2])
    assert bool(learned) == (name not in ("spaced", "ternary", "estimated", "delayed"))
    assert all(np.any(np.asarray(g) != 0) for g in learned)


@pytest.mark.parametrize("name", MEMBERS)
def test_policies_with_operands_are_values(name):
    policy = Policy(fwd=Gemm(MEMBERS[name], None))
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(pickle.loads(pickle.dumps(policy))) == hash(policy)
    leaves, tree = jax.tree.flatten(policy)
    assert jax.tree.unflatten(tree, leaves) == policy
    assert MEMBERS[name].qtype.bits_per_element <= 16


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_first_step_is_that_of_the_paper(granularity):
    lsq = operands.LSQ(bits=4, granularity=granularity)
    step = lsq.params(W, contract=(0,), batch=())["step"]
    axis = None if granularity == "tensor" else 0
    expected = 2 * np.mean(np.abs(np.asarray(W)), axis=axis, keepdims=axis == 0) / np.sqrt(7)
    np.testing.assert_allclose(step, expected, rtol=1e-6)
    zeros = lsq.params(jnp.zeros_like(W), contract=(0,), batch=())
    values, _ = lsq.apply(jnp.zeros_like(W), zeros, (), contract=(0,), batch=(), key=None)
    np.testing.assert_array_equal(values, 0)


def test_lsq_plus_takes_the_whole_range_of_the_first_values():
    plus = operands.LSQPlus(bits=3, granularity="channel")
    params = plus.params(W, contract=(0,), batch=())
    low, high = plus.range
    np.testing.assert_allclose(
        params["offset"] + low * params["step"], W.min(0, keepdims=True), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        params["offset"] + high * params["step"], W.max(0, keepdims=True), rtol=1e-5, atol=1e-6
    )


def test_penalties_are_priced_and_differentiable():
    policy = Policy(fwd=Gemm(MEMBERS["pact"], MEMBERS["bits"]))
    made = Values()
    dot(X, W, policy, made)

    def total(params):
        values = Values(params, made.quant)
        dot(X, W, policy, values)
        return sum(values.penalties.values())

    value, grads = jax.value_and_grad(total)(made.params)
    assert float(value) == pytest.approx(1e-2 * 0.3**2 + 1e-2 * 3.3)
    assert float(grads["fwd_lhs"]["bound"]) == pytest.approx(2e-2 * 0.3)
    assert float(grads["fwd_rhs"]["bits"]) == pytest.approx(1e-2)


def test_a_forward_state_moves_on_with_every_call():
    """Delayed scaling: the bound of a call is the largest magnitude of the calls before it."""
    delayed = Quantizer("int4:float32", calibration=calibration.Delayed(length=2))
    policy = Policy(fwd=Gemm(delayed, None))
    made = Values()
    dot(X, W, policy, made)
    assert made.quant is not None
    held, largest = made.quant, []
    for scale in (1.0, 4.0, 2.0, 2.0):
        values = Values({}, held)
        out = dot(X * scale, W, policy, values)
        largest.append(float(jnp.max(jnp.abs(X))) * scale)
        held = values.quant
        past = [*[0.0, 0.0], *largest][-2:][::-1]
        np.testing.assert_allclose(jnp.ravel(held["fwd_lhs"]), past, rtol=1e-6)
        assert np.all(np.isfinite(out))


def test_each_pair_of_an_einsum_of_three_learns_values_of_its_own():
    policy, made = Policy(fwd=Gemm(operands.LSQ(), None)), Values()
    out = qjax.einsum("ij,jk,lk->il", X, W, W, policy=policy, variables=made)
    assert set(made.params) == {"pair0_fwd_lhs", "pair1_fwd_lhs"}

    def by_pairs(params):
        first, second = ({"fwd_lhs": params[f"pair{n}_fwd_lhs"]} for n in range(2))
        y = qjax.einsum("ij,jk->ik", X, W, policy=policy, variables=Values(first, {}))
        return qjax.einsum("lk,ik->il", W, y, policy=policy, variables=Values(second, {}))

    def together(params):
        held = Values(params, {})
        return qjax.einsum("ij,jk,lk->il", X, W, W, policy=policy, variables=held)

    np.testing.assert_allclose(out, by_pairs(made.params), rtol=1e-5)
    got, expected = (
        jax.grad(lambda p, f=f: jnp.sum(jnp.sin(f(p))))(made.params) for f in (together, by_pairs)
    )
    for name, leaf in expected.items():
        np.testing.assert_allclose(got[name]["step"], leaf["step"], rtol=1e-4)


def test_what_cannot_work_is_said():
    lsq = operands.LSQ()
    with pytest.raises(TypeError, match=r"`Policy.dlhs.rhs`.*stand in `Policy.fwd`"):
        Policy(dlhs=Gemm(None, lsq))
    with pytest.raises(ValueError, match=r"`dot_general`.*no `variables`"):
        dot(X, W, Policy(fwd=Gemm(lsq, None)), None)
    with pytest.raises(ValueError, match=r"'fwd_lhs'.*`Values\(\)`"):
        dot(X, W, Policy(fwd=Gemm(lsq, None)), Values({}, {}))
    noisy = operands.Estimated(
        Quantizer("mxfp4", rounding=qjax.rounding.Stochastic(), scale="floor")
    )
    with pytest.raises(ValueError, match=r"no key came"):
        dot(X, W, Policy(fwd=Gemm(noisy, None)), Values())
    with pytest.raises(ValueError, match=r"`LSQ` takes `bits`.*from 2 to 16"):
        operands.LSQ(bits=1)
