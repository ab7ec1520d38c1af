"""The linen door quantizes exactly where asked: inside what lifts and traces, beside models
that nobody quantized, in either order."""

import copy
import pickle
import threading

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, Recipe, Rule
from tests import draws
from tests.linen.models import (
    COARSE,
    MLP,
    MXFP8,
    VARIABLES,
    Block,
    Parent,
    Raw,
    X,
    by_hand,
    forward,
    lifted,
)


@pytest.mark.parametrize("make", ["class", "instance", "decorator"])
def test_a_module_computes_what_its_layers_compute_by_hand(make):
    model = {
        "class": lambda: qjax.quantize(MLP, "mxfp8")(),
        "instance": lambda: qjax.quantize(MLP(), "mxfp8"),
        "decorator": lambda: qjax.quantize("mxfp8")(MLP)(),
    }[make]()
    chex.assert_trees_all_equal(model.init(jax.random.key(0), X), VARIABLES)
    expected = jax.jit(by_hand, static_argnums=2)(VARIABLES["params"], X, Policy.all(MXFP8))
    np.testing.assert_array_equal(forward(model, VARIABLES), expected)
    assert not jnp.array_equal(expected, forward(MLP(), VARIABLES))


@qjax.quantize("mxfp4")
class Decorated(MLP):
    """Its name is that of the quantized class."""


@pytest.mark.parametrize(
    "model", [qjax.quantize(MLP(width=32, name="x"), "int8"), Decorated(), Parent(Decorated)]
)
def test_a_quantized_module_is_pickled_with_its_recipe_and_fields(model):
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert [getattr(again, name) for name in model.__dataclass_fields__] == [
            getattr(model, name) for name in model.__dataclass_fields__
        ]
        assert str(qjax.report(again, X)) == str(qjax.report(model, X))
    if model.name == "x":
        variables = draws.variables(MLP(width=32), X)
        np.testing.assert_array_equal(forward(again, variables), forward(model, variables))


def test_identity_recipe_equals_the_plain_model_bit_for_bit():
    def loss(model, variables):
        return jax.jit(jax.value_and_grad(lambda v: jnp.sum(model.apply(v, X) ** 2)))(variables)

    chex.assert_trees_all_equal(
        loss(qjax.quantize(MLP(), "float32"), VARIABLES), loss(MLP(), VARIABLES)
    )


def test_gradients_go_through_the_quantized_legs():
    policy = Policy.all(MXFP8)
    grads = [
        jax.jit(jax.grad(lambda p, f=f: jnp.sum(f(p) ** 2)))(VARIABLES["params"])
        for f in (
            lambda p: qjax.quantize(MLP(), policy).apply({"params": p}, X),
            lambda p: by_hand(p, X, policy),
        )
    ]
    chex.assert_trees_all_equal(*grads)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_a_decorated_class_in_an_undecorated_parent(jit):
    plain, asked = Parent(MLP), Parent(qjax.quantize(MLP, "mxfp8"))
    variables = draws.variables(plain, X)
    run = forward if jit else (lambda m, v: m.apply(v, X))
    (a, b), (c, d) = run(plain, variables), run(asked, variables)
    np.testing.assert_array_equal(a, c)
    assert not jnp.array_equal(b, d)
    np.testing.assert_allclose(b, d, atol=0.5)


@pytest.mark.parametrize("how", ["remat", "scan", "scan of remat"])
def test_inside_scan_and_remat_it_computes_what_a_loop_computes(how):
    loop, other = (lifted(qjax.quantize(Block, "mxfp8"), h) for h in ("loop", how))
    variables = draws.variables(loop, X)
    params = variables["params"]
    if "scan" in how:
        stacked = jax.tree.map(lambda *a: jnp.stack(a), *(params[f"b{i}"] for i in range(3)))
        given = {"params": {"layers": stacked}}
    else:
        given = variables
    grad = lambda m: jax.jit(jax.value_and_grad(lambda v: jnp.sum(m.apply(v, X) ** 2)))  # noqa: E731
    (value, grads), (expected, expected_grads) = grad(other)(given), grad(loop)(variables)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    if how == "remat":
        chex.assert_trees_all_close(grads, expected_grads, rtol=1e-5, atol=1e-5)
    float_value, _ = grad(lifted(Block, "loop"))(variables)
    assert abs(float(value - float_value)) > 1e-6 * abs(float(value)), "nothing was quantized"


RECIPE = Recipe([Rule(".*Dense.*", COARSE)])


@pytest.mark.parametrize("order", ["float first", "quantized first", "other recipe first"])
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_models_in_one_process_never_affect_each_other(order, jit):
    """Shapes differ between cases, so that no trace is warm when a case begins."""
    n = 2 + ["float first", "quantized first", "other recipe first"].index(order) + 3 * jit
    x = draws.normal(n, (n, 40))
    plain = Raw()
    coarse, fine = qjax.quantize(Raw(), RECIPE), qjax.quantize(Raw(), Policy.all(MXFP8))
    variables = draws.variables(plain, x)
    run = forward if jit else (lambda m, v, x: m.apply(v, x))
    models = {"float": plain, "coarse": coarse, "fine": fine}
    first = {"float first": "float", "quantized first": "coarse", "other recipe first": "fine"}
    names = [first[order], *(m for m in models if m != first[order])]
    out = {name: run(models[name], variables, x) for name in names}
    again = {name: run(models[name], variables, x) for name in reversed(names)}
    chex.assert_trees_all_equal(out, again)

    dense, w = variables["params"]["Dense_0"], variables["params"]["w"]
    numbers = (((1,), (0,)), ((), ()))
    rest = dense["bias"] + 3 * (x @ w)
    for name, policy in (("float", Policy()), ("coarse", COARSE), ("fine", Policy.all(MXFP8))):
        expected = qjax.dot_general(x, dense["kernel"], numbers, policy=policy) + rest
        np.testing.assert_allclose(out[name], expected, rtol=1e-5, atol=1e-5)


def test_a_jitted_block_is_not_shared_between_models():
    """`nn.jit` caches traces; the float and the quantized model each get their own."""

    class Jitted(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jit(MLP)(name="mlp")(x)

    for shape in ((3, 40), (5, 40)):
        x = draws.normal(0, shape)
        variables = draws.variables(Jitted(), x)
        models = [Jitted(), qjax.quantize(Jitted(), Policy.all(MXFP8))]
        if shape[0] == 5:
            models.reverse()
        out = [m.apply(variables, x) for m in models]
        if shape[0] == 5:
            out.reverse()
        params = variables["params"]["mlp"]
        for got, policy in zip(out, (Policy(), Policy.all(MXFP8))):
            expected = jax.jit(by_hand, static_argnums=2)(params, x, policy)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_two_threads_with_two_recipes():
    models = {name: qjax.quantize(MLP(), name) for name in ("mxfp8", "mxfp4_rne")}
    expected = {name: forward(m, VARIABLES) for name, m in models.items()}
    got: dict[str, list] = {name: [] for name in models}

    def work(name):
        for _ in range(5):
            got[name].append(models[name].apply(VARIABLES, X))

    threads = [threading.Thread(target=work, args=(name,)) for name in models]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for name, results in got.items():
        for result in results:
            np.testing.assert_allclose(result, expected[name], rtol=1e-5, atol=1e-6)


def test_noise_depends_on_the_key_and_on_the_path_of_the_layer_only():
    noisy = Quantizer("mxfp4", rounding=qjax.rounding.Stochastic(), scale="floor")
    policy = Policy(fwd=Gemm(lhs=noisy))
    model = qjax.quantize(MLP(), policy)

    class Longer(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.relu(nn.Dense(48, name="up")(x))
            nn.Dense(3, name="aside")(x)
            return nn.Dense(40, name="down")(h)

    params = VARIABLES["params"]
    more = {"params": params | {"aside": {"kernel": jnp.ones((40, 3)), "bias": jnp.ones(3)}}}
    run = lambda m, v, seed: m.apply(v, X, rngs={"quant": jax.random.key(seed)})  # noqa: E731
    np.testing.assert_array_equal(
        run(model, VARIABLES, 0), run(qjax.quantize(Longer(), policy), more, 0)
    )
    assert not jnp.array_equal(run(model, VARIABLES, 0), run(model, VARIABLES, 1))
    with pytest.raises(ValueError, match=r"rngs=\{'quant': key\}"):
        model.apply(VARIABLES, X)


def test_wrong_targets_and_recipes_are_refused():
    with pytest.raises(ValueError, match=r"unbound module"):
        qjax.quantize(MLP().bind(VARIABLES), "mxfp8")
    with pytest.raises(TypeError, match=r"`quantize` needs a recipe"):
        qjax.quantize(MLP())
    with pytest.raises(TypeError, match=r"flax.linen or flax.nnx, or a function, but 3"):
        qjax.quantize(3, "mxfp8")
    with pytest.raises(TypeError, match=r"of type dict came") as caught:
        qjax.quantize(VARIABLES, "mxfp8")
    assert len(str(caught.value)) < 200  # Variables may be gigabytes.


class Parts(nn.Module):
    def setup(self):
        self.encoder = nn.Dense(40)
        self.decoder = nn.Dense(40)

    def __call__(self, x):
        return self.decoder(self.encode(x))

    def encode(self, x):
        return self.encoder(x)


def test_a_method_given_to_apply_as_a_function_is_quantized_too():
    model, plain = qjax.quantize(Parts(), "mxfp4"), Parts()
    variables = plain.init(jax.random.key(0), X)
    expected = model.apply(variables, X, method="encode")
    assert not jnp.array_equal(expected, plain.apply(variables, X, method="encode"))
    # The class that was quantized is the one whose methods are at hand.
    for method in (Parts.encode, lambda model, x: model.encoder(x)):
        np.testing.assert_array_equal(model.apply(variables, X, method=method), expected)
        made = model.init(jax.random.key(0), X, method=method)["params"]
        chex.assert_trees_all_equal(made, {"encoder": variables["params"]["encoder"]})
    assert jnp.array_equal(
        plain.apply(variables, X, method=Parts.encode), plain.bind(variables).encode(X)
    )


class Written(nn.Module):
    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.lecun_normal(), (40, 40))
        return qjax.einsum("bi,ij->bj", x, w, policy=COARSE)


class Holder(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="out")(Written(name="inner")(x))


def test_a_policy_given_in_the_code_stands_under_the_path_of_its_module():
    for model in (Holder(), qjax.quantize(Holder(), "mxfp8")):
        assert [row.path for row in qjax.report(model, X).rows] == ["inner", "out"]
