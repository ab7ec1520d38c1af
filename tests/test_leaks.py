"""Models in one process keep to themselves: no recipe, state or trace passes from one to another.

What the linen door, and stateless recipes, do beside each other is in the tests of each door;
here are operands that learn and remember, and programs that are compiled once.
"""

import itertools
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qjax
from qjax import Policy, recipes
from qjax.contraction.variables import Values
from qjax.recipes import fp8_delayed, hbfp
from tests.draws import normal

X = normal(0, (5, 16))
W = normal(1, (16, 16)) / 4
NUMBERS = (((1,), (0,)), ((), ()))
POLICIES = {
    "float": Policy(),
    "remembering": fp8_delayed.policy(length=3),
    "learning": recipes.get("lsq4").default,
    "stateless": recipes.get("mxfp4_rne").default,
}
# Every pair is met in both orders.
ORDERS = [
    tuple(POLICIES),
    tuple(reversed(POLICIES)),
    ("learning", "float", "stateless", "remembering"),
    ("remembering", "stateless", "float", "learning"),
]


class Layer(nnx.Module):
    def __init__(self):
        self.up = nnx.Linear(16, 16, use_bias=False, rngs=nnx.Rngs(0))
        self.up.kernel[...] = W

    def __call__(self, x):
        return self.up(x)


def product(w, x):
    return x @ w


def by_hand(policy, xs):
    """The layer called on each of `xs` in turn, its state handed on by hand."""
    params, quant, out = None, None, []
    if policy.is_identity:
        return [x @ W for x in xs]
    made = Values()
    qjax.dot_general(xs[0], W, NUMBERS, policy=policy, variables=made)
    params, quant = made.params, made.quant
    for x in xs:
        values = Values(params, quant)
        out.append(qjax.dot_general(x, W, NUMBERS, policy=policy, variables=values))
        quant = values.quant
    return out


def through_nnx(policy, first):
    model = Layer() if policy.is_identity else qjax.quantize(Layer(), policy, example=(first,))
    run = nnx.jit(lambda model, x: model(x))
    return lambda x: run(model, x)


def through_a_function(policy, first):
    if policy.is_identity:
        run = jax.jit(product)
        return lambda x: run(W, x)
    function = qjax.quantize(product, policy, weights=["w"])
    held = {"quant": function.init(W, first)}
    run = jax.jit(lambda x, quant: function.advance(W, x, quant=quant))

    def call(x):
        out, held["quant"] = run(x, held["quant"])
        return out

    return call


DOORS = pytest.mark.parametrize("door", [through_nnx, through_a_function])


@DOORS
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: f"{order[0]} first")
def test_models_that_learn_and_remember_never_affect_each_other(door, order):
    """Turn by turn in one process; shapes differ between cases, so that no trace is warm."""
    rows = 2 + ORDERS.index(order)
    xs = [factor * X[:1].repeat(rows, 0) for factor in (1.0, 3.0, 0.5)]
    models = {name: door(POLICIES[name], xs[0]) for name in order}
    found = {name: [] for name in order}
    for x, name in itertools.product(xs, order):
        found[name].append(models[name](x))
    for name, policy in POLICIES.items():
        chex.assert_trees_all_close(found[name], by_hand(policy, xs), rtol=1e-5, atol=1e-6)
    differ = [jnp.abs(a[1] - b[1]).max() for a, b in itertools.combinations(found.values(), 2)]
    assert min(differ) > 1e-3


@DOORS
def test_threads_with_recipes_of_their_own_do_not_meet(door):
    xs = [factor * X for factor in (1.0, 3.0, 0.5)]
    found, barrier = {}, threading.Barrier(len(POLICIES))

    def work(name):
        barrier.wait()  # All trace at once.
        call = door(POLICIES[name], xs[0])
        found[name] = [call(x) for x in xs]

    threads = [threading.Thread(target=work, args=(name,)) for name in POLICIES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == set(POLICIES)
    for name, policy in POLICIES.items():
        chex.assert_trees_all_close(found[name], by_hand(policy, xs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["fp8_delayed", "lsq4", "a2q_p16", "int4_hq_lss"])
def test_a_step_of_nnx_is_traced_once_while_values_and_keys_move(name):
    model = qjax.quantize(Layer(), name, example=(X,), rngs=nnx.Rngs(quant=0))
    wrt = nnx.DiffState(0, nnx.Any(nnx.Param, qjax.nnx.Cotangent))
    traces = []

    @nnx.jit
    def step(model, x):
        traces.append(1)
        grads = nnx.grad(lambda model: jnp.mean(model(x) ** 2), argnums=wrt)(model)
        params = nnx.state(model, nnx.Param)
        new = jax.tree.map(lambda p, g: p - 0.1 * g, params, qjax.nnx.take(model, grads))
        nnx.update(model, new)

    once = traced(traces, lambda: step(model, X))
    for factor in (2.0, 3.0):
        step(model, factor * X)
    assert len(traces) == once


@pytest.mark.parametrize("name", ["fp8_delayed", "lsq4", "a2q_p16", "int4_hq_lss"])
def test_a_function_is_traced_once_while_values_and_keys_move(name):
    function, traces = qjax.quantize(product, name, weights=["w"]), []
    quant = function.init(W, X, quant_key=jax.random.key(0))

    @jax.jit
    def step(w, x, quant, key):
        traces.append(1)
        return function.advance(w, x, quant=quant, quant_key=key)

    for turn in range(3):
        out, quant = step(W, (1.0 + turn) * X, quant, jax.random.key(turn))
    assert np.all(np.isfinite(out))
    assert len(traces) == 1


def traced(traces, call):
    """How often the first call traces: nnx may trace once for shapes and once to compile."""
    call()
    return len(traces)


def test_widths_are_numbers_of_one_program_in_every_door():
    """The mantissas of block floating point change from call to call; nothing is compiled anew."""
    traces = {"function": 0, "nnx": 0}
    graph, state = nnx.split(Layer())

    @jax.jit
    def of_function(bits, w, x):
        traces["function"] += 1
        return qjax.quantize(product, hbfp.policy(bits), weights=["w"])(
            w, x, quant_key=jax.random.key(0)
        )

    @jax.jit
    def of_nnx(bits, state, x):
        traces["nnx"] += 1
        layer = nnx.merge(graph, state)
        return qjax.quantize(layer, hbfp.policy(bits), rngs=jax.random.key(0))(x)

    for bits in (3, 5, 8):
        forward = hbfp.policy(bits).fwd
        lhs = forward.lhs.cast(X, contract=(1,))
        expected = lhs @ forward.rhs.cast(W, contract=(0,))
        np.testing.assert_allclose(of_function(bits, W, X), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(of_nnx(bits, state, X), expected, rtol=1e-5, atol=1e-6)
    assert traces == {"function": 1, "nnx": 1}
