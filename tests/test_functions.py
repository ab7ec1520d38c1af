"""The function door: any JAX function, paths by named scopes, and no leak in either order."""

import functools
import threading
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import qjax
from qjax.recipes.matching import UnmatchedRuleWarning
from tests.draws import normal

X = normal(0, (4, 64))
W = normal(1, (64, 64)) / 8
HEAD = qjax.Recipe(
    (qjax.Rule("head", qjax.Policy()), qjax.Rule(".*", qjax.Policy.all(qjax.Quantizer("mxfp8"))))
)


def mlp(params, x):
    with jax.named_scope("hidden"):
        x = jax.nn.relu(x @ params["hidden"])
    with jax.named_scope("head"):
        return x @ params["head"]


PARAMS = {"hidden": W, "head": W.T}


def test_a_recipe_chooses_by_named_scopes():
    report = qjax.report(qjax.quantize(mlp, HEAD), PARAMS, X)
    assert [(row.path, row.quantized) for row in report.rows] == [("hidden", True), ("head", False)]


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: x @ w,
        jnp.dot,
        jnp.matmul,
        lambda x, w: jnp.einsum("ij,jk->ik", x, w),
        jax.jit(lambda x, w: jnp.tensordot(x, w, 1)),
    ],
)
@pytest.mark.parametrize("float_first", [True, False])
def test_float_and_quantized_never_affect_each_other(product, float_first):
    # Fresh shapes in every case, so that no cache of another case can hide a leak.
    x, w = X[: 2 + float_first], W
    quantized = jax.jit(qjax.quantize(product, "mxfp4_rne"))
    plain = jax.jit(product)
    calls = [plain, quantized] if float_first else [quantized, plain]
    out = {call: call(x, w) for call in calls}
    exact = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    assert np.abs(out[plain] - exact).max() < 1e-5
    assert np.abs(out[quantized] - exact).max() > 1e-2


def test_two_recipes_in_two_threads_do_not_meet():
    alone = {r: qjax.quantize(mlp, r)(PARAMS, X) for r in ("mxfp4_rne", "mxfp8")}
    found = {}

    def work(recipe):
        for _ in range(3):
            found[recipe] = qjax.quantize(mlp, recipe)(PARAMS, X)

    threads = [threading.Thread(target=work, args=(r,)) for r in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chex.assert_trees_all_equal(found, alone)


def test_what_is_no_array_is_static_and_passes_through():
    def f(x, scale, names, *, flag):
        return {"y": x @ W * (scale if flag else 0.0), "names": [n.upper() for n in names]}

    out = qjax.quantize(f, "mxfp8")(X, 2.0, ["a"], flag=True)
    assert out["names"] == ["A"]
    chex.assert_shape(out["y"], X.shape)


def test_gradients_maps_and_compilation_compose():
    quantized = qjax.quantize(mlp, "mxfp8")
    loss = lambda params, x: quantized(params, x).sum()  # noqa: E731
    eager = jax.grad(loss)(PARAMS, X)
    chex.assert_trees_all_equal(eager, jax.jit(jax.grad(loss))(PARAMS, X))
    rows = jax.vmap(functools.partial(quantized, PARAMS))(X)
    chex.assert_trees_all_equal(rows, quantized(PARAMS, X))


def test_a_stochastic_recipe_needs_a_key_and_says_so():
    noisy = qjax.quantize(mlp, "mxfp4")
    loss = lambda params, **kw: noisy(params, X, **kw).sum()  # noqa: E731
    with pytest.raises(ValueError, match="no key came"):
        jax.grad(loss)(PARAMS)
    one, same, other = (
        jax.grad(functools.partial(loss, quant_key=jax.random.key(i)))(PARAMS) for i in (0, 0, 1)
    )
    chex.assert_trees_all_equal(one, same)
    assert not jnp.array_equal(one["hidden"], other["hidden"])


def test_weights_are_named_by_position_or_by_name():
    policy = qjax.Policy(fwd=qjax.Gemm(None, "mxfp4"))
    left = lambda w, x: jnp.tanh(w).T @ x  # noqa: E731
    want = qjax.quantize(lambda x, w: x @ jnp.tanh(w), policy)(X, W)
    for weights in (0, "w", ("w",)):
        quantized = qjax.quantize(left, policy, weights=weights)
        got = quantized(W, X.T)
        np.testing.assert_array_equal(quantized(x=X.T, w=W), got)
        chex.assert_trees_all_close(got.T, want, atol=1e-6)
    for wrong in ("v", 2, -1):
        with pytest.raises(ValueError, match=rf"the argument {wrong!r}, but the function takes"):
            qjax.quantize(left, policy, weights=wrong)
    qjax.quantize(lambda *xs: xs[0] @ xs[1], policy, weights=1)


def test_a_rule_that_matches_nothing_is_told():
    policy = qjax.Policy.all(qjax.Quantizer("mxfp8"))
    with pytest.raises(ValueError, match="'hiden'"):
        qjax.quantize(mlp, qjax.Recipe((qjax.Rule("hiden", policy),)))(PARAMS, X)
    recipe = qjax.Recipe((qjax.Rule("hiden", policy), qjax.Rule(".*", policy)))
    with pytest.warns(UnmatchedRuleWarning, match="'hiden'"):
        qjax.quantize(mlp, recipe)(PARAMS, X)


@pytest.mark.parametrize("door", ["function", "linen", "nnx"])
def test_an_exemption_that_matches_nothing_is_told_where_something_is_quantized(door):
    def run(*rules):
        recipe = qjax.Recipe(rules)
        if door == "function":
            return qjax.quantize(mlp, recipe)(PARAMS, X)
        if door == "nnx":
            return qjax.quantize(nnx.Linear(64, 4, rngs=nnx.Rngs(0)), recipe)(X)
        return qjax.quantize(nn.Dense(4), recipe).init(jax.random.key(0), X)

    low = qjax.Rule(".*", qjax.Policy.all(qjax.Quantizer("mxfp8")))
    with pytest.warns(UnmatchedRuleWarning, match="'haed'"):
        run(qjax.Rule("haed", qjax.Policy()), low)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(qjax.Rule("haed", qjax.Policy(), optional=True), low)
        run(qjax.Rule("haed", qjax.Policy()), qjax.Rule(".*", qjax.Policy()))


def test_the_original_function_stays_as_it_is():
    before = mlp(PARAMS, X)
    qjax.quantize(mlp, "mxfp4_rne")(PARAMS, X)
    chex.assert_trees_all_equal(mlp(PARAMS, X), before)


@pytest.mark.parametrize(("other", "missed"), [(jnp.int32, False), (jnp.float32, True)])
def test_integers_are_no_gap_in_a_report_unless_they_meet_floats(other, missed):
    counts = jnp.ones((4, 64), jnp.int32)

    def f(x, w):
        product = jax.lax.dot_general(counts, w.astype(other), (((1,), (0,)), ((), ())))
        return x @ w + product.astype(jnp.float32)

    row = next(r for r in qjax.report(qjax.quantize(f, "mxfp8"), X, W).rows if not r.quantized)
    assert row.missed is missed
    assert ("int32: convert" if missed else "exact") in row.why
