"""Functions whose operands learn and remember: values are arguments, in every construct."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, Recipe, Rule, calibration, operands
from qjax.contraction.variables import Values
from tests.draws import normal

X = normal(0, (4, 8))
W = normal(1, (8, 8)) / 3
STACK = normal(2, (3, 8, 8)) / 3
DELAYED = Quantizer("e4m3fn:float32", calibration=calibration.Delayed(length=4))
LSQ = operands.LSQ(bits=4)
POLICY = Policy(fwd=Gemm(DELAYED, LSQ), dlhs=Gemm(DELAYED, None))
NUMBERS = (((1,), (0,)), ((), ()))


def plain(w, x):
    return jnp.tanh(x @ w)


def jitted(w, x):
    return jnp.tanh(jax.jit(lambda a, b: a @ b)(x, w))


def remat(w, x):
    return jax.checkpoint(plain)(w, x)


def branches(w, x):
    return jax.lax.cond(x.sum() > 1e9, lambda x: x * 2, lambda x: plain(w, x), x)


CONSTRUCTS = [plain, jitted, remat, branches]


def by_hand(w, x, params, quant):
    values = Values(params, quant)
    out = qjax.dot_general(x, w, NUMBERS, policy=POLICY, variables=values)
    return jnp.sum(jnp.sin(jnp.tanh(out))), values.quant


@pytest.mark.parametrize("function", CONSTRUCTS)
def test_values_states_and_gradients_are_those_by_hand(function):
    quantized = qjax.quantize(function, POLICY, weights=0)
    quant = quantized.init(W, X)
    made = Values()
    qjax.dot_general(X, W, NUMBERS, policy=POLICY, variables=made)
    chex.assert_trees_all_close(jax.tree.leaves(quant["params"]), jax.tree.leaves(made.params))

    @jax.jit
    @jax.grad
    def step(quant):
        out, after = quantized.advance(W, X, quant=quant)
        return jnp.sum(jnp.sin(out)) + sum(0 * leaf.sum() for leaf in jax.tree.leaves(after))

    _, after = jax.jit(lambda quant: quantized.advance(W, X, quant=quant))(quant)
    (_, states), expected = jax.value_and_grad(
        lambda params, held: by_hand(W, X, params, held), (0, 1), has_aux=True
    )(made.params, made.quant)
    chex.assert_trees_all_close(jax.tree.leaves(after["quant"]), jax.tree.leaves(states), rtol=1e-5)
    got = step(quant)
    assert len(jax.tree.leaves(got["params"])) == 1
    for name, tree in (("params", expected[0]), ("quant", expected[1])):
        chex.assert_trees_all_close(
            jax.tree.leaves(got[name]), jax.tree.leaves(tree), rtol=1e-4, atol=1e-6
        )
    assert float(jnp.max(jax.tree.leaves(got["quant"])[0])) > 0


def layers(stack, x):
    return jax.lax.scan(lambda x, w: (plain(w, x), None), x, stack)[0]


def recurrent(w, x):
    return jax.lax.scan(lambda x, _: (plain(w, x), None), x, None, length=3)[0]


def loop(w, x):
    return jax.lax.fori_loop(0, jnp.int32(x.shape[0] - 1), lambda _, x: plain(w, x), x)


def unrolled(weights, x):
    for w in weights:
        x = plain(w, x)
    return x


def test_a_stack_of_layers_has_values_for_each():
    scanned, one = (qjax.quantize(f, POLICY, weights=0) for f in (layers, unrolled))
    quant, each = scanned.init(STACK, X), one.init(list(STACK), X)
    assert [leaf.shape[0] for leaf in jax.tree.leaves(quant)] == [3] * 3
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *_by_layer(each))
    chex.assert_trees_all_close(jax.tree.leaves(quant), jax.tree.leaves(stacked), rtol=1e-5)
    out, after = jax.jit(lambda q: scanned.advance(STACK, X, quant=q))(quant)
    expected, others = one.advance(list(STACK), X, quant=each)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *_by_layer(others))
    chex.assert_trees_all_close(jax.tree.leaves(after), jax.tree.leaves(stacked), rtol=1e-5)


def _by_layer(values):
    names = list(values["params"])
    return [{c: values[c][name] for c in ("params", "quant")} for name in names]


@pytest.mark.parametrize("function", [recurrent, loop])
def test_turns_of_a_loop_share_their_values(function):
    quantized = qjax.quantize(function, POLICY, weights=0)
    quant = quantized.init(W, X)
    (step,) = jax.tree.leaves(quant["params"])
    assert step.shape == ()
    out, after = jax.jit(lambda q: quantized.advance(W, X, quant=q))(quant)
    held, x = Values({"fwd_rhs": {"step": step}}, _plain_states(quant)), X
    for _ in range(3):
        x = jnp.tanh(qjax.dot_general(x, W, NUMBERS, policy=POLICY, variables=held))
    np.testing.assert_allclose(out, x, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(_plain_states(after), held.quant, rtol=1e-5)
    assert len(qjax.report(quantized, W, X, strict=True).rows) == 1


def _plain_states(quant):
    leaves = jax.tree_util.tree_leaves_with_path(quant["quant"])
    return {path[-1].key: leaf for path, leaf in leaves}


def test_a_recurrent_state_of_the_backward_pass_is_the_largest_over_turns():
    policy = Policy(dlhs=Gemm(DELAYED, None))
    quantized = qjax.quantize(recurrent, policy, weights=0)
    quant = quantized.init(W, X)
    got = jax.grad(lambda q: jnp.sum(quantized.advance(W, X, quant=q)[0]))(quant)

    def chain(held):
        values, x = Values({}, held), X
        for _ in range(3):
            x = jnp.tanh(qjax.dot_general(x, W, NUMBERS, policy=policy, variables=values))
        return jnp.sum(x)

    expected = jax.grad(chain)(_plain_states(quant))
    chex.assert_trees_all_close(_plain_states(got), expected, rtol=1e-5)
    assert float(expected["dlhs_lhs"][0].max()) > 1


def test_what_needs_no_values_makes_none_and_adds_nothing():
    quantized = qjax.quantize(layers, "mxfp8", weights=0)
    assert quantized.init(STACK, X) == {}
    program = lambda f: str(jax.make_jaxpr(f)(STACK, X))  # noqa: E731
    assert program(quantized) == program(lambda w, x: quantized.advance(w, x, quant={})[0])


def test_facts_are_collected_in_constructs():
    quantized = qjax.quantize(layers, "mxfp4_rne", weights=0, diagnostics=True)
    quant = quantized.init(STACK, X)
    grads, after = jax.grad(
        lambda q: (lambda out: (jnp.sum(out[0]), out[1]))(quantized.advance(STACK, X, quant=q)),
        has_aux=True,
    )(quant)
    sums = {
        path[-1].key: np.asarray(leaf)
        for tree in (after, grads)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree["quant_diagnostics"])
        if np.any(np.asarray(leaf))
    }
    assert set(sums) == {f"{leg}_{s}" for leg in ("fwd", "dlhs", "drhs") for s in ("lhs", "rhs")}
    for name, leaf in sums.items():
        assert leaf.shape == (3, 5)
        assert np.all(leaf[:, 0] > leaf[:, 1]), name


def test_recipes_whose_operands_hold_no_values_need_none():
    function = qjax.quantize(plain, "bitnet_b158", weights=0)
    np.testing.assert_array_equal(function(W, X), function(W, X, quant={}))
    jitless = qjax.quantize(jitted, "bitnet_b158", weights=0)
    assert jitless.init(W, X) == {}
    np.testing.assert_allclose(jitless(W, X), function(W, X), rtol=1e-6)


def split(w, x):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {"in_specs": (jax.P(), jax.P("i")), "out_specs": jax.P("i")}
    return jax.shard_map(plain, mesh=mesh, **specs)(w, x)


def test_devices_share_what_is_learned_and_join_states_by_the_largest():
    """As one device finds them: maxima of the parts are the maximum of the whole, not a sum."""
    one, two = (qjax.quantize(f, POLICY, weights=0, diagnostics=True) for f in (plain, split))
    # With a history; without one each part would be scaled by its own maximum.
    quant, made = one.init(W, X), two.init(W, X)
    quant["quant"] = jax.tree.map(lambda state: jnp.full_like(state, 2.0), quant["quant"])
    other = jax.tree.unflatten(jax.tree.structure(made), jax.tree.leaves(quant))

    def run(f, quant):
        def loss(quant):
            out, after = f.advance(W, X, quant=quant)
            return jnp.sum(jnp.sin(out)), after

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(quant)

    assert jax.tree.map(jnp.shape, other) == jax.tree.map(jnp.shape, made)
    expected, got = (jax.tree.leaves_with_path(run(*each)) for each in ((one, quant), (two, other)))
    for (path, a), (_, b) in zip(expected, got, strict=True):
        if "quant_diagnostics" in jax.tree_util.keystr(path):
            # Sums over devices, of which each casts the whole weight: the ratios are the same.
            a, b = a / jnp.maximum(a.max(), 1e-9), b / jnp.maximum(b.max(), 1e-9)
            a, b = a[:2], b[:2]
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6, err_msg=str(path))


def test_what_cannot_work_is_said():
    quantized = qjax.quantize(plain, POLICY, weights=0)
    with pytest.raises(ValueError, match=r"`quant` is None.*f\.init"):
        quantized(W, X)
    with pytest.raises(ValueError, match=r"'fwd_lhs'.*'quant'.*`init`"):
        quantized(W, X, quant={"params": {}})

    @jax.custom_vjp
    def own(w, x):
        return x @ w

    own.defvjp(lambda w, x: (own(w, x), (w, x)), lambda saved, g: saved)

    def model(w, x):
        with jax.named_scope("mine"):
            x = own(w, x)
        return plain(w, x)

    learning = Recipe([Rule(".*", POLICY)])
    quantized = qjax.quantize(model, learning, weights=0)
    said = r"learn or remember inside the `jax.custom_vjp` at 'mine': 'mine' by rule '\.\*'"
    for call in (quantized.init, quantized, lambda *args: qjax.report(quantized, *args)):
        with pytest.raises(ValueError, match=said + r"\. .*`Rule\('mine', policy\)`"):
            call(W, X)
    # As it says: the one there holds no values, and that beside it learns.
    stateless = Policy(fwd=Gemm(Quantizer("mxfp8"), None))
    both = qjax.quantize(model, Recipe([Rule("mine", stateless), *learning.rules]), weights=0)
    quant = both.init(W, X)
    assert len(jax.tree.leaves(quant["params"])) == 1
    step = jax.grad(lambda quant: jnp.sum(both(W, X, quant=quant)))(quant)["params"]
    assert float(jnp.abs(jax.tree.leaves(step)[0])) > 0
