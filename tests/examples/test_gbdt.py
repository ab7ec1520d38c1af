"""Boosted trees on integer gradients: sums are exact, noise is fair, trees are scikit-learn's."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qjax.rounding import NearestAway, Stochastic

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"
ROWS = 300


@pytest.fixture(scope="module")
def boosting():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import boosting

        yield boosting


def derivatives(seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)
    first = rng.standard_normal(rows).astype(np.float32)
    return jnp.asarray(first), jnp.asarray(rng.random(rows), jnp.float32)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_levels_stay_in_their_range_and_noise_is_fair(boosting, bits):
    from boosting.histograms import levels, quantize

    many = levels(bits)
    assert many == {2: 2, 3: 6, 4: 14, 5: 30}[bits]
    first, second = derivatives()
    draws = 400
    drawn = jax.vmap(
        lambda key: quantize(first, second, bits=bits, rounding=Stochastic(), key=key)
    )(jax.random.split(jax.random.key(bits), draws))
    values, scales = np.asarray(drawn.values, int), np.asarray(drawn.scales[0])
    assert drawn.values.dtype == jnp.int8
    assert np.abs(values[..., 0]).max() == many // 2
    assert values[..., 1].min() == 0
    assert values[..., 1].max() == many
    exact = np.stack([first, second], axis=-1) / scales
    part = exact - np.floor(exact)
    error = np.abs(values.mean(0) - exact) / np.sqrt(np.maximum(part * (1 - part), 0.01) / draws)
    assert error.max() < 5


def test_nearest_loses_small_gradients_and_noise_does_not(boosting):
    from boosting.histograms import quantize

    first = jnp.full(2000, 0.1).at[0].set(-1.0)
    second = jnp.ones(2000)
    sums = {}
    for rule in (NearestAway(), Stochastic()):
        q = quantize(first, second, bits=2, rounding=rule, key=jax.random.key(0))
        assert np.all(np.asarray(q.values)[:, 1] == 1), "second derivatives that are alike are one"
        assert float(q.scales[1]) == 1
        sums[rule] = float(np.asarray(q.values, int)[:, 0].sum() * float(q.scales[0]))
    exact = float(first.sum())
    assert abs(sums[Stochastic()] - exact) < 4 * np.sqrt(2000 * 0.1 * 0.9) < exact
    assert sums[NearestAway()] == -1.0


@pytest.mark.parametrize(("rows", "many", "half"), [
    (127, 2, 8), (128, 2, 16), (8, 30, 8), (9, 30, 16), (2184, 30, 16), (2185, 30, 32),
])  # fmt: skip
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_leaf_of_each_width_does_not_overflow(boosting, rows, many, half, sign):
    from boosting.histograms import WIDTHS, Gradients, histogram, width

    assert WIDTHS[int(width(rows, many))] == half
    levels = np.tile(np.int8([sign * many // 2, many]), (rows, 1))
    sums = histogram(
        jnp.zeros((1, rows), jnp.uint8),
        Gradients(jnp.asarray(levels), jnp.ones(2)),
        jnp.ones(rows, jnp.bool_),
        many=many,
        size=2,
    )
    assert sums[0, 0].tolist() == [sign * rows * many // 2, rows * many]


@pytest.mark.parametrize("chosen", [0, 1, 60, 128, ROWS])
def test_histograms_are_exact_and_the_sibling_is_the_difference(boosting, chosen):
    from boosting.histograms import Gradients, histogram

    build = jax.jit(histogram, static_argnames=("many", "size"))
    rng = np.random.default_rng(chosen)
    bins = rng.integers(0, 7, (3, ROWS)).astype(np.uint8)
    levels = np.stack([rng.integers(-3, 4, ROWS), rng.integers(0, 7, ROWS)], -1).astype(np.int8)
    mask = rng.permutation(ROWS) < chosen
    given = Gradients(jnp.asarray(levels), jnp.ones(2))
    expected = np.zeros((3, 7, 2), int)
    for f in range(3):
        np.add.at(expected[f], bins[f, mask], levels[mask].astype(int))
    every, part, rest = (
        build(jnp.asarray(bins), given, jnp.asarray(m), many=6, size=7)
        for m in (np.ones(ROWS, bool), mask, ~mask)
    )
    assert part.dtype == jnp.int32
    assert np.array_equal(part, expected)
    assert jnp.array_equal(every - part, rest)


def test_a_float_tree_is_that_of_scikit_learn(boosting):
    from boosting.trees import Shape
    from sklearn.ensemble import HistGradientBoostingRegressor

    rng = np.random.default_rng(0)
    x = rng.integers(0, 50, (ROWS, 3)).astype(float)
    y = np.sin(x[:, 0] / 9) + 0.2 * x[:, 1] * (x[:, 2] > 20) + 0.1 * rng.standard_normal(ROWS)
    bins = boosting.Bins.of(x)
    options = boosting.Options(
        loss="squared", rounds=5, shape=Shape(leaves=6, rows=7, bins=bins.count)
    )
    target = jnp.asarray(y, jnp.float32)
    forest = boosting.fit(jnp.asarray(bins(x)), target, jax.random.key(0), options=options)
    mine = boosting.predict(forest, jnp.asarray(bins(x)))[0]
    theirs = HistGradientBoostingRegressor(
        max_iter=5, max_leaf_nodes=6, min_samples_leaf=7, early_stopping=False
    ).fit(x, y)
    assert np.allclose(mine, theirs.predict(x), atol=1e-4)


def test_empty_bins_change_nothing(boosting):
    from boosting.trees import Shape

    rng = np.random.default_rng(2)
    bins = jnp.asarray(rng.integers(0, 9, (2, ROWS)), jnp.uint8)
    target = jnp.asarray(rng.integers(0, 2, ROWS), jnp.int32)
    scores = []
    for room in (9, 16):
        shape = Shape(leaves=6, rows=1, bins=room)
        options = boosting.Options(loss="logistic", bits=2, rounds=3, shape=shape)
        forest = boosting.fit(bins, target, jax.random.key(0), options=options)
        scores.append(boosting.predict(forest, bins))
    assert jnp.array_equal(*scores)


def test_leaves_are_refitted_from_float_derivatives(boosting):
    from boosting.trees import Shape, Tree, leaf_of

    rng = np.random.default_rng(1)
    bins = jnp.asarray(rng.integers(0, 9, (2, ROWS)), jnp.uint8)
    target = jnp.asarray((np.asarray(bins[0]) + rng.integers(0, 5, ROWS)) > 6, jnp.int32)
    values = {}
    for refit in (True, False):
        options = boosting.Options(
            loss="logistic", bits=2, refit=refit, rounds=1, rate=1.0,
            shape=Shape(leaves=4, rows=5, bins=9),
        )  # fmt: skip
        forest = boosting.fit(bins, target, jax.random.key(0), options=options)
        tree = Tree(*(part[0, 0] for part in forest.trees))
        leaf = np.asarray(leaf_of(tree, bins))
        p = np.asarray(target).mean()
        first, second = p - np.asarray(target), np.full(ROWS, p * (1 - p))
        exact = [-first[leaf == n].sum() / second[leaf == n].sum() for n in range(4)]
        values[refit] = np.asarray(tree.value), exact
    assert np.allclose(*values[True], atol=1e-5)
    assert not np.allclose(*values[False], atol=1e-2)


def test_the_command_writes_a_table_in_which_noise_beats_nearest(boosting, tmp_path, capsys):
    import gbdt

    from qjax import train

    out = tmp_path / "table.csv"
    small = ["--rounds", "20", "--leaves", "5", "--seeds", "2", "--out", str(out)]
    assert gbdt.main(["--data", "breast_cancer", "--bits", "2", *small]) == 0
    means = {row["method"]: row["mean"] for row in train.read_table(out)}
    assert set(means) == {"float", "stochastic", "nearest", "stochastic, no refit", "scikit-learn"}
    assert means["stochastic"] > means["nearest"]
    assert means["stochastic"] == pytest.approx(means["float"], abs=0.01)
    assert means["float"] == pytest.approx(means["scikit-learn"], abs=0.01)
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad",
    [["--data", "iris2"], ["--leaves", "1"], ["--seeds", "0"], ["--bits", "9"], ["--rate", "0"]],
)
def test_wrong_arguments_are_refused_by_name(boosting, bad, capsys):
    import gbdt

    with pytest.raises(SystemExit):
        gbdt.parse(bad)
    assert bad[0] in capsys.readouterr().err


def test_bits_and_tables_out_of_range_are_refused(boosting):
    with pytest.raises(ValueError, match=r"`bits` must be 2 to 7"):
        boosting.Options(loss="logistic", bits=8)
    with pytest.raises(ValueError, match=r"`loss` must be one of"):
        boosting.Options(loss="hinge")
    with pytest.raises(ValueError, match=r"finite numbers"):
        boosting.Bins.of(np.array([[np.nan]]))
