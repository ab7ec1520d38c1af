"""Functions kept apart are traced once, stay calls in the compiled program, and change no bit."""

import jax
import jax.numpy as jnp
import numpy as np

import qjax
from qjax.apart import apart
from qjax.contraction import legs
from tests.draws import normal

X = normal(0, (8, 16))


def test_a_function_is_traced_once_and_its_calls_stay_calls():
    traced = []

    def f(x, power):
        traced.append(x.shape)
        return jnp.sin(x) ** power, jnp.max(x, axis=1)

    kept = apart(f, static_argnames="power")

    def both(x):
        y, top = kept(x, power=2)
        return kept(y, power=2)[0] + top[:, None]

    compiled = jax.jit(both).lower(X).compile()
    assert traced == [(8, 16)]
    assert str(compiled.as_text()).count(" call(") == 2
    y, top = f(X, 2)
    np.testing.assert_allclose(compiled(X), f(y, 2)[0] + top[:, None], rtol=1e-6)


def test_it_may_be_mapped_differentiated_and_called_on_numbers():
    kept = apart(lambda x: jnp.sin(x) * 2)
    np.testing.assert_array_equal(kept(X), jnp.sin(X) * 2)
    np.testing.assert_array_equal(jax.jit(jax.vmap(kept))(X), jnp.sin(X) * 2)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(kept(x))))(X)
    np.testing.assert_allclose(gradient, 2 * jnp.cos(X), rtol=1e-6)
    _, tangent = jax.jit(lambda x: jax.jvp(kept, (x,), (x,)))(X)
    np.testing.assert_allclose(tangent, 2 * jnp.cos(X) * X, rtol=1e-5, atol=1e-6)


def test_layers_of_one_shape_share_the_tracing_of_their_legs(monkeypatch):
    seen, compute = [], legs.compute
    monkeypatch.setattr(legs, "compute", lambda *a: seen.append(a[1]) or compute(*a))
    policy = qjax.Policy.all(qjax.Quantizer("mxfp8"))
    weights = normal(1, (5, 16, 16))

    def loss(x, weights):
        for w in weights:
            x = jnp.tanh(qjax.dot_general(x, w, (((1,), (0,)), ((), ())), policy=policy))
        return jnp.sum(x)

    jax.clear_caches()
    jax.jit(jax.grad(loss, (0, 1))).lower(X, weights)
    assert sorted(seen) == ["dlhs", "drhs", "fwd"]
