"""Every law of the registry: one formula for all array libraries, exact derivatives, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling import Dataset, fit, laws
from scaling.fitting.coordinates import Coordinates
from scaling.simulate import default_design, simulate, typical

LAWS = laws.names()


def bound(name: str) -> tuple[laws.Law, dict, dict]:
    law, design = laws.get(name), default_design(name)
    law = law.bind(law, law.columns(design)) if law.bind else law
    return law, typical(name), law.columns(design)


@pytest.mark.parametrize("name", LAWS)
def test_jax_predicts_what_numpy_predicts(name):
    law, params, x = bound(name)
    expected = law.predict(params, x)
    with jax.enable_x64(True):
        p = {k: jnp.asarray(v, jnp.float64) for k, v in params.items()}
        found = jax.jit(lambda p: law.predict(p, x, jnp))(p)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize("name", LAWS)
def test_complex_steps_are_the_derivatives_of_jax(name):
    law, params, x = bound(name)
    y = np.asarray(law.predict(params, x))
    coords = Coordinates(law=law, x={k: np.asarray(v) for k, v in x.items()}, y=y)
    u = coords.coordinates(params)
    _, jac = coords.prediction_and_jacobian(u)
    direction = np.random.default_rng(0).normal(size=u.shape)
    # Along one direction of the coordinates, with JAX differentiating the natural formula.
    natural = coords.natural(u + 1e-30j * direction)
    with jax.enable_x64(True):
        p = {k: jnp.asarray(v, jnp.float64) for k, v in params.items()}
        tangent = {k: jnp.asarray(np.imag(v) / 1e-30, jnp.float64) for k, v in natural.items()}
        along = jax.jit(lambda p, t: jax.jvp(lambda p: law.predict(p, x, jnp), (p,), (t,)))
        _, expected = along(p, tangent)
    expected = np.broadcast_to(np.asarray(expected), y.shape)
    np.testing.assert_allclose(direction @ jac, expected, rtol=1e-8, atol=1e-10 * y.max())


@pytest.mark.parametrize("name", LAWS)
def test_coordinates_round_trip(name):
    law, params, x = bound(name)
    y = np.asarray(law.predict(params, x))
    coords = Coordinates(law=law, x={k: np.asarray(v) for k, v in x.items()}, y=y)
    u = coords.coordinates(params)
    np.testing.assert_allclose(coords.predict(u), y, rtol=1e-10)
    natural = coords.natural(u)
    for key, value in params.items():
        assert float(natural[key]) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_a_law_can_be_rebuilt_by_name(name):
    law, _, _ = bound(name)
    key, options = laws.registry.recipe(law)
    again = laws.get(key, **options)
    assert again.params == law.params
    assert again.predictors == law.predictors
    assert eval(repr(law), {"laws": laws}).params == law.params


@pytest.mark.parametrize("name", laws.published_names())
def test_published_constants_fit_their_law_and_say_where_they_come_from(name):
    constants = laws.published(name)
    assert set(constants.law.complete(constants.params)) == set(constants.law.names)
    assert "arXiv" in constants.source
    assert constants.units


def test_a_law_of_ones_own_takes_a_few_lines():
    mine = laws.Law(
        name="my_offset",
        predictors=("steps",),
        params=(laws.coefficient("A"), laws.exponent("alpha"), laws.coefficient("E")),
        terms=lambda p, x, xp: {"A": -p["alpha"] * xp.log(x["steps"]), "E": 0.0},
    )
    laws.register(mine)
    try:
        truth = {"A": 30.0, "alpha": 0.4, "E": 1.5}
        ds = simulate("my_offset", truth, {"steps": np.geomspace(10, 1e5, 12)})
        assert fit(ds, "my_offset").params == pytest.approx(truth, rel=1e-8)
        assert laws.registry.recipe(mine) is None
        with pytest.raises(ValueError, match="registered already"):
            laws.register(mine)
    finally:
        laws.unregister("my_offset")
    with pytest.raises(ValueError, match="No law is named"):
        laws.get("my_offset")


def test_unknown_names_list_near_ones():
    with pytest.raises(ValueError, match="Near: chinchilla"):
        laws.get("chinchila")
    with pytest.raises(ValueError, match="There are"):
        laws.published("nobody2020")


def test_labels_that_a_law_has_not_seen_are_refused():
    result = fit(simulate("decoupled_eff"), "decoupled_eff")
    with pytest.raises(ValueError, match="cannot know"):
        result.predict({"N": [1e8], "D": [1e9], "fmt": ["INT3"]})
    with pytest.raises(ValueError, match="unquantized"):
        fit(Dataset({"N": [1e8] * 9, "D": [1e9] * 9, "fmt": ["x"] * 9, "loss": [3.0] * 9}),
            "decoupled_eff")  # fmt: skip


def test_a_law_says_what_it_misses():
    law = laws.get("chinchilla")
    with pytest.raises(ValueError, match="missing"):
        law.predict(typical("chinchilla"), {"N": 1e9})
    with pytest.raises(ValueError, match="needs values"):
        law.predict({"A": 1.0}, {"N": 1e9, "D": 1e9})
    with pytest.raises(ValueError, match="no parameter"):
        law.predict(typical("chinchilla") | {"zeta": 1.0}, {"N": 1e9, "D": 1e9})
