"""The linen door quantizes exactly where asked: inside what lifts and traces, beside models
that nobody quantized, in either order."""

import threading

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Gemm, Policy, Quantizer, Recipe, Rule

X = jax.random.normal(jax.random.key(1), (6, 40))
MXFP8 = Quantizer("mxfp8")
COARSE = Policy.all(Quantizer("mxfp4"))


class MLP(nn.Module):
    width: int = 48

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width, name="up")(x))
        return nn.Dense(40, name="down")(x)


def by_hand(params, x, policy):
    dot = lambda a, b: qjax.dot_general(a, b, (((1,), (0,)), ((), ())), policy=policy)  # noqa: E731
    h = nn.relu(dot(x, params["up"]["kernel"]) + params["up"]["bias"])
    return dot(h, params["down"]["kernel"]) + params["down"]["bias"]


def forward(model, variables, x=X, **kwargs):
    return jax.jit(lambda v, x: model.apply(v, x, **kwargs))(variables, x)


VARIABLES = MLP().init(jax.random.key(0), X)


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


class Parent(nn.Module):
    """Undecorated; one block is quantized, one is not."""

    block: type[nn.Module]

    @nn.compact
    def __call__(self, x):
        return MLP(name="plain")(x), self.block(name="asked")(x)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_a_decorated_class_in_an_undecorated_parent(jit):
    plain, asked = Parent(MLP), Parent(qjax.quantize(MLP, "mxfp8"))
    variables = plain.init(jax.random.key(0), X)
    run = forward if jit else (lambda m, v: m.apply(v, X))
    (a, b), (c, d) = run(plain, variables), run(asked, variables)
    np.testing.assert_array_equal(a, c)
    assert not jnp.array_equal(b, d)
    np.testing.assert_allclose(b, d, atol=0.5)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + MLP()(x), None


def lifted(block, how):
    """A stack of three blocks, as a loop, a scan, or a scan of rematerialized blocks."""

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            if how == "loop":
                for i in range(3):
                    x, _ = block(name=f"b{i}")(x)
                return x
            inner = nn.remat(block) if "remat" in how else block
            if how == "remat":
                for i in range(3):
                    x, _ = inner(name=f"b{i}")(x)
                return x
            scan = nn.scan(
                inner, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            return scan(name="layers")(x, None)[0]

    return Stack()


@pytest.mark.parametrize("how", ["remat", "scan", "scan of remat"])
def test_inside_scan_and_remat_it_computes_what_a_loop_computes(how):
    loop, other = (lifted(qjax.quantize(Block, "mxfp8"), h) for h in ("loop", how))
    variables = loop.init(jax.random.key(0), X)
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


class Raw(nn.Module):
    """Contracts by a layer, by @, by jnp.dot and by jnp.einsum."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.lecun_normal(), (40, 40))
        return nn.Dense(40)(x) + x @ w + jnp.dot(x, w) + jnp.einsum("ij,jk->ik", x, w)


RECIPE = Recipe([Rule(".*Dense.*", COARSE)])


@pytest.mark.parametrize("order", ["float first", "quantized first", "other recipe first"])
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_models_in_one_process_never_affect_each_other(order, jit):
    """Shapes differ between cases, so that no trace is warm when a case begins."""
    n = 2 + ["float first", "quantized first", "other recipe first"].index(order) + 3 * jit
    x = jax.random.normal(jax.random.key(n), (n, 40))
    plain = Raw()
    coarse, fine = qjax.quantize(Raw(), RECIPE), qjax.quantize(Raw(), Policy.all(MXFP8))
    variables = plain.init(jax.random.key(0), x)
    run = forward if jit else (lambda m, v, x: m.apply(v, x))
    models = {"float": plain, "coarse": coarse, "fine": fine}
    first = {"float first": "float", "quantized first": "coarse", "other recipe first": "fine"}
    names = [first[order], *(m for m in models if m != first[order])]
    out = {name: run(models[name], variables, x) for name in names}
    again = {name: run(models[name], variables, x) for name in reversed(names)}
    chex.assert_trees_all_equal(out, again)

    kernel, w = variables["params"]["Dense_0"]["kernel"], variables["params"]["w"]
    numbers = (((1,), (0,)), ((), ()))
    raw = 3 * (x @ w)
    for name, policy in (("float", Policy()), ("coarse", COARSE), ("fine", Policy.all(MXFP8))):
        expected = qjax.dot_general(x, kernel, numbers, policy=policy) + raw
        np.testing.assert_allclose(out[name], expected, rtol=1e-5, atol=1e-5)


def test_a_jitted_block_is_not_shared_between_models():
    """`nn.jit` caches traces; the float and the quantized model each get their own."""

    class Jitted(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jit(MLP)(name="mlp")(x)

    for shape in ((3, 40), (5, 40)):
        x = jax.random.normal(jax.random.key(0), shape)
        variables = Jitted().init(jax.random.key(0), x)
        models = [Jitted(), qjax.quantize(Jitted(), Policy.all(MXFP8))]
        if shape[0] == 5:
            models.reverse()
        out = [m.apply(variables, x) for m in models]
        if shape[0] == 5:
            out.reverse()
        params = variables["params"]["mlp"]
        np.testing.assert_allclose(out[0], by_hand(params, x, Policy()), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            out[1], by_hand(params, x, Policy.all(MXFP8)), rtol=1e-5, atol=1e-6
        )


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


class Attend(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Embed(11, 32, name="embed")(x)
        mask = nn.make_causal_mask(jnp.ones(x.shape[:-1]))
        x = nn.MultiHeadDotProductAttention(num_heads=2, name="attn")(x, mask=mask)
        x = nn.DenseGeneral((4, 8), name="wide")(x)
        x = nn.DenseGeneral(32, axis=(-2, -1), name="narrow")(x)
        return nn.Dense(11, name="lm_head")(x)


TOKENS = jnp.arange(10).reshape(2, 5) % 11


def test_report_lists_every_contraction_and_what_is_left_in_high_precision():
    report = qjax.report(qjax.quantize(Attend(), "mxfp8"), TOKENS, strict=True)
    rows = {row.path: row for row in report.rows}
    layers = ["attn/query", "attn/key", "attn/value", "attn/out", "wide", "narrow"]
    assert set(rows) == {*layers, "attn/qk", "attn/av", "lm_head"}
    assert len(report.rows) == 9
    for path, row in rows.items():
        assert row.quantized == (path != "lm_head")
    assert "high precision by rule 'logits and embeddings'" in rows["lm_head"].why
    assert rows["narrow"].formats == ("mxfp8",) * 6
    assert rows["narrow"].bits == (8.25,) * 6
    assert rows["wide"].flops == 2 * 2 * 5 * 32 * 32
    assert rows["attn/qk"].op == "einsum"
    assert "lm_head" in str(report)
    assert report.to_csv().count("\n") == 10
    assert report.to_markdown().splitlines()[2].startswith("| attn/query | dot_general |")


def test_report_of_a_float_model_lists_the_same_contractions():
    report = qjax.report(Attend(), TOKENS)
    assert len(report.rows) == 9
    assert not any(row.quantized for row in report.rows)


def test_report_counts_the_turns_of_a_scan():
    report = qjax.report(lifted(qjax.quantize(Block, "mxfp8"), "scan"), X)
    assert [row.times for row in report.rows] == [3, 3]
    assert report.rows[0].flops == 3 * 2 * 6 * 40 * 48
    assert all(row.quantized for row in report.rows)


def test_strict_raises_where_a_raw_contraction_was_asked_for():
    model = qjax.quantize(Raw(), Policy.all(MXFP8))
    report = qjax.report(model, X)
    assert sum(row.missed for row in report.rows) == 3
    with pytest.raises(ValueError, match=r"Not quantized as asked.*\n.*call qjax\."):
        qjax.report(model, X, strict=True)


def test_a_rule_that_matches_nothing_is_reported():
    recipe = Recipe([Rule("decodr/.*", COARSE), Rule(".*up", Policy.all(MXFP8))])
    model = qjax.quantize(MLP(), recipe)
    with pytest.warns(UserWarning, match=r"Rule 1.*'decodr/\.\*'.*no contraction.*'up', 'down'"):
        model.apply(VARIABLES, X)
    with pytest.raises(ValueError, match=r"Rule 1 of recipe 'custom'"):
        qjax.report(model, X, strict=True)


def test_a_recipe_that_matches_nothing_at_all_raises():
    model = qjax.quantize(MLP(), Recipe([Rule("nowhere", COARSE)]))
    with pytest.raises(ValueError, match=r"'nowhere'.*'up', 'down'.*optional=True"):
        model.apply(VARIABLES, X)


def test_the_innermost_decoration_decides():
    inner = qjax.quantize(MLP, "mxfp4_rne")
    outer = qjax.quantize(Parent, "mxfp8")(inner)
    rows = {row.path: row for row in qjax.report(outer, X).rows}
    assert rows["plain/up"].formats[0] == "mxfp8"
    assert rows["asked/up"].formats[0] == "mxfp4"


def test_quantizing_again_replaces_the_recipe():
    model = qjax.quantize(qjax.quantize(MLP(), "mxfp8"), "mxfp4_rne")
    assert {row.formats[0] for row in qjax.report(model, X).rows} == {"mxfp4"}


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
