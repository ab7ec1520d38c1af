"""States of cotangents come back through the backward pass, joined by their maximum."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, calibration
from qjax.contraction import facts
from qjax.contraction.axes import OperandAxes
from qjax.contraction.plans import REFERENCE, Plan
from qjax.contraction.variables import Values
from tests.draws import normal

X = normal(0, (6, 8))
W = normal(1, (8, 8)) / 4
NUMBERS = (((1,), (0,)), ((), ()))
DELAYED = Quantizer("e5m2:float32", calibration=calibration.Delayed(length=3))
AVERAGE = Quantizer("e5m2:float32", calibration=calibration.MovingAverage(decay=0.5))
ONE = Policy(dlhs=Gemm(DELAYED, None))
EACH = Policy(dlhs=Gemm(DELAYED, AVERAGE), drhs=Gemm(AVERAGE, DELAYED))


def dot(x, w, policy, quant):
    values = Values({}, quant)
    return qjax.dot_general(x, w, NUMBERS, policy=policy, variables=values), values.quant


def made(policy, x=X, w=W):
    values = Values()
    qjax.dot_general(x, w, NUMBERS, policy=policy, variables=values)
    return values.quant


def test_the_next_states_are_those_of_the_quantizers_on_their_operands():
    """All four operands of the backward pass; gradients equal those of casts by hand."""
    cotangent = jnp.cos(jnp.arange(48.0)).reshape(6, 8)

    @jax.jit
    def backward(quant, cotangent):
        _, pull, after = jax.vjp(
            lambda x, w, quant: dot(x, w, EACH, quant), X, W, quant, has_aux=True
        )
        return pull(cotangent), after

    quant = made(EACH)
    for turn in range(3):
        (dx, dw, following), after = backward(quant, cotangent)
        chex.assert_trees_all_equal(after, quant)  # Handed on unchanged in the forward pass.
        expected = {}
        step = lambda q, name, x, axis, quant=quant: q.step(x, quant[name], contract=(axis,))  # noqa: E731
        g, expected["dlhs_lhs"] = step(DELAYED, "dlhs_lhs", cotangent, 1)
        w, expected["dlhs_rhs"] = step(AVERAGE, "dlhs_rhs", W, 1)
        np.testing.assert_allclose(dx, g @ w.T, rtol=1e-5, atol=1e-6)
        x, expected["drhs_lhs"] = step(AVERAGE, "drhs_lhs", X, 0)
        g, expected["drhs_rhs"] = step(DELAYED, "drhs_rhs", cotangent, 0)
        np.testing.assert_allclose(dw, x.T @ g, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_equal(following, expected)
        quant, cotangent = following, cotangent * (2 - turn)


def chain(x, quant, times):
    """The same layer, called several times: the state goes on from call to call."""
    for _ in range(times):
        x, quant = dot(x, W, ONE, quant)
    return jnp.sum(jnp.sin(x))


def largest_cotangents(x, times):
    """Of every call, with the state `made` gives, in which each is bounded by its own tensor."""
    found, x_of = [], [x]
    for _ in range(times):
        x_of.append(x_of[-1] @ W)
    g = jnp.cos(x_of[-1])
    for _ in range(times):
        found.append(float(jnp.max(jnp.abs(g))))
        g = DELAYED.step(g, DELAYED.init(g.shape, contract=(1,)), contract=(1,))[0] @ W.T
    return found


def over_devices(run, outputs):
    """Each of three devices runs a third of the rows, and all have the same state."""
    mesh = jax.make_mesh((3,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(run, mesh=mesh, in_specs=(jax.P("d"), jax.P()), out_specs=outputs)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("lift", ["plain", "remat", "scan", "vmap", "jit", "shard_map"])
def test_several_calls_are_joined_by_their_maximum(lift, times):
    def scanned(x, quant):
        turn = lambda carry, _: (dot(*(carry[0], W, ONE, carry[1])), None)  # noqa: E731
        return jnp.sum(jnp.sin(jax.lax.scan(turn, (x, quant), None, length=times)[0][0]))

    def mapped(x, quant):
        run = functools.partial(chain, times=times)
        return jnp.sum(jax.vmap(run, (0, None))(x.reshape(3, 2, 8), quant))

    def split(x, quant):
        run = lambda x, quant: jax.lax.psum(chain(x, quant, times), "d")  # noqa: E731
        return over_devices(run, jax.P())(x, quant)

    run = {
        "plain": functools.partial(chain, times=times),
        "remat": jax.checkpoint(functools.partial(chain, times=times)),
        "jit": jax.jit(functools.partial(chain, times=times)),
        "scan": scanned,
        "vmap": mapped,
        "shard_map": split,
    }[lift]
    state = jax.jit(jax.grad(run, 1))(X, made(ONE))["dlhs_lhs"]
    found = largest_cotangents(X, times)
    np.testing.assert_allclose(
        jnp.ravel(state), [max(found), 0, 0], rtol=0.2 * (lift in ("vmap", "shard_map")) + 1e-5
    )


def test_models_that_are_mapped_together_keep_states_of_their_own():
    many = jnp.stack([X, 2 * X, X * 0])
    quant = jax.tree.map(lambda a: jnp.stack([a] * 3), made(ONE))
    run = lambda x, quant: jnp.sum(dot(x, W, ONE, quant)[0] ** 2)  # noqa: E731
    got = jax.vmap(jax.grad(run, 1))(many, quant)["dlhs_lhs"]
    alone = [jax.grad(run, 1)(x, made(ONE))["dlhs_lhs"] for x in many]
    np.testing.assert_allclose(got, jnp.stack(alone), rtol=1e-6)
    assert float(got[1, 0].max()) > 1.9 * float(got[0, 0].max()) > 0


def test_a_forward_state_is_one_for_all_of_a_batch_and_for_all_devices():
    policy = Policy(fwd=Gemm(DELAYED, None))

    def run(x, quant):
        return dot(x, W, policy, quant)

    out, after = jax.vmap(run, (0, None), (0, None))(X.reshape(3, 2, 8), made(policy))
    assert out.shape == (3, 2, 8)
    np.testing.assert_allclose(after["fwd_lhs"].ravel(), [jnp.max(jnp.abs(X)), 0, 0])
    rows, split = over_devices(run, (jax.P("d"), jax.P()))(X, made(policy))
    chex.assert_trees_all_close((rows.reshape(out.shape), split), (out, after), rtol=1e-6)


def test_without_states_nothing_is_added_to_the_program():
    """No equation more than a call that knows of no variables, forward and backward."""
    policy = Policy.all(Quantizer("mxfp8"))

    def program(variables):
        run = lambda x, w: jnp.sum(  # noqa: E731
            qjax.dot_general(x, w, NUMBERS, policy=policy, variables=variables())
        )
        return str(jax.make_jaxpr(jax.grad(run, (0, 1)))(X, W))

    assert program(Values) == program(lambda: None)
    assert program(lambda: Values(diagnose=True)) != program(Values)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("mxfp4", REFERENCE),
        ("mxfp4", Plan("bfloat16")),
        ("int4:float32", REFERENCE),
        ("int4:float32", Plan("int8", outside=True)),
        ("uint4:float32_uint4", REFERENCE),
        ("e2m1fn", Plan("bfloat16")),
    ],
)
def test_facts_are_those_of_the_codes(name, way):
    quantizer = Quantizer(name)
    x = X * jnp.exp2(jnp.arange(8.0) - 6)
    sums = facts.of_quantizer(quantizer, x, OperandAxes((1,), ()), None, way=way)
    tensor = quantizer.encode(x, contract=(1,))
    signal, noise, beyond, lost, elements = map(float, sums)
    assert elements == x.size
    assert 10 * np.log10(signal / noise) == pytest.approx(
        float(qjax.diagnostics.sqnr(x, tensor.decode())), abs=1e-3
    )
    values = np.asarray(tensor.decode())
    assert lost == np.sum((values == 0) & (np.asarray(x) != 0))
    if "uint" not in name:
        assert beyond == np.sum(np.asarray(qjax.diagnostics.beyond(x, tensor)))


def test_a_transform_before_a_state_is_refused():
    transform = qjax.contraction.transforms.Hadamard(8)
    policy = Policy(dlhs=Gemm(DELAYED, None, transform=transform))
    with pytest.raises(ValueError, match=r"`dot_general`.*Hadamard.*`dlhs`.*Leave out one"):
        made(policy)
