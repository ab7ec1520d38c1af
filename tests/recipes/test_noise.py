"""Keys of noise follow from the path and the number, and no two contractions share theirs."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qjax
from qjax import Policy, Quantizer, rounding
from qjax.recipes.noise import Noise, at
from qjax.recipes.rewrite import Decision, rewrite
from qjax.recipes.walk import path_of

KEY = jax.random.key(3)
NOISY = Policy.all(Quantizer("int4_channel", rounding=rounding.Stochastic()))


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_no_two_contractions_share_a_key_and_a_traced_count_is_as_good_as_a_known_one():
    noise, paths = Noise(KEY), ("", "a", "a/b", "b/a")
    keys = {(path, n): data(noise.draw(path)) for n in range(50) for path in paths}
    # Each of the operands of a contraction XORs a small number of its own.
    assert len({(a ^ role, b ^ role) for a, b in keys.values() for role in range(16)}) == 3200
    for n in range(3):
        draw = jax.jit(lambda n: Noise(KEY, counts={"a/b": n}).draw("a/b"))
        assert data(draw(n)) == keys["a/b", n]
    assert data(at(KEY, "a/b")) == keys["a/b", 0] != data(at(KEY, "a"))
    longer = jax.random.key(3, impl="rbg")  # four words
    drawn = {data(Noise(longer).draw(path)) for path in paths}
    assert len(drawn) == 4
    assert len(data(longer)) == 4


def test_copies_turns_devices_and_backward_rules_never_meet():
    noise = Noise(KEY, counts={"": 1, "a": 0})
    others = [noise, *(noise.turn(t) for t in range(2)), noise.folded(0), noise.backward()]
    later = Noise(KEY, counts={"": 2, "a": 1}).backward()
    keys = [data(n.copy().draw(path)) for n in (*others, later) for path in ("", "a")]
    assert len(set(keys)) == len(keys)


def f(x, w):
    with jax.named_scope("a"):
        return x @ w


def in_a_call(x, w):
    inner = jax.jit(f)
    return inner(inner(x, w), w)


def in_a_remat(x, w):
    return jax.checkpoint(f)(jax.checkpoint(f)(x, w), w)


def in_branches(x, w):
    for _ in range(2):
        x = jax.lax.cond(x.sum() > 1e9, lambda x: x, lambda x: f(x, w), x)
    return x


@pytest.mark.parametrize("function", [in_a_call, in_a_remat, in_branches])
def test_constructs_change_no_key(function):
    """Two products, wherever they stand, round as the first and the second at their path."""
    x, w = jnp.ones((4, 8)) / 3, jax.random.normal(KEY, (8, 8))
    choose = lambda op, scopes: Decision(NOISY, path_of(scopes))  # noqa: E731
    plain = rewrite(lambda x, w: f(f(x, w), w), choose)
    expected = jax.value_and_grad(lambda x: plain(x, w, key=KEY).sum())(x)
    got = jax.value_and_grad(lambda x: rewrite(function, choose)(x, w, key=KEY).sum())(x)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def test_calls_of_one_rule_draw_apart_in_both_passes():
    @jax.custom_vjp
    def own(x, w):
        return f(x, w)

    own.defvjp(lambda x, w: (f(x, w), (x, w)), lambda saved, g: (f(g, saved[1].T), saved[1]))
    choose = lambda op, scopes: Decision(NOISY, path_of(scopes))  # noqa: E731
    x, w = jax.random.normal(KEY, (2, 4, 8))[0], jax.random.normal(KEY, (8, 8))
    both = rewrite(lambda a, b: (own(a, w), own(b, w)), choose)
    out, pull = jax.vjp(lambda a, b: both(a, b, key=KEY), x, x)
    assert not jnp.array_equal(*out)
    assert not jnp.array_equal(*pull((x, x)))
    assert all(jnp.all(jnp.isfinite(y)) for y in itertools.chain(out, pull((x, x))))


def test_the_test_of_a_loop_and_its_body_draw_apart(monkeypatch):
    drawn, draw = [], Noise.draw

    def noted(self, path):
        drawn.append(self.counts.get(path, 0))
        return draw(self, path)

    monkeypatch.setattr(Noise, "draw", noted)
    x, w = jnp.ones((4, 8)), jnp.ones((8, 8)) / 9
    choose = lambda op, scopes: Decision(NOISY, path_of(scopes))  # noqa: E731
    loop = lambda x: jax.lax.while_loop(lambda x: f(x, w).sum() > 20, lambda x: f(x, w), x)  # noqa: E731
    assert jnp.all(jnp.isfinite(rewrite(loop, choose)(x, key=KEY)))
    assert set(drawn) == {0, 1}


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="a", use_bias=False)(x)


X, W = jnp.ones((2, 4)), jnp.ones((4, 3))


def without_a_key(door, policy):
    """A quantized product of a layer "a", as a function of its inputs and weight."""
    if door == "linen":
        model = qjax.quantize(Layer(), policy)
        return lambda x, w: model.apply({"params": {"a": {"kernel": w}}}, x)
    if door == "nnx":
        layer = nnx.Sequential(nnx.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(0)))
        graph, state = nnx.split(qjax.quantize(layer, policy))
        return lambda x, w: nnx.merge(graph, jax.tree.map(lambda _: w, state))(x)
    return qjax.quantize(f, policy)


@pytest.mark.parametrize(
    ("door", "path", "remedy"),
    [
        ("linen", "a", r"`rngs=\{'quant': key\}`"),
        ("nnx", "layers/0", r"`rngs=nnx.Rngs\(quant=0\)`"),
        ("function", "a", "`quant_key=key`"),
    ],
)
def test_a_key_that_did_not_come_is_missed_where_it_would_be_drawn_from(door, path, remedy):
    for leg in ("dlhs", "drhs"):
        run = without_a_key(door, Policy(**{leg: getattr(NOISY, leg)}))
        np.testing.assert_array_equal(run(X, W), X @ W)
        with pytest.raises(ValueError, match=f"`{leg}` of '{path}' draws noise.* {remedy}"):
            jax.grad(lambda w, run=run: run(X, w).sum())(W)
    with pytest.raises(ValueError, match=f"`fwd` of '{path}' draws noise.* {remedy}"):
        without_a_key(door, NOISY)(X, W)
