"""What is captured is what the operands were, in every door and inside every construct."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

import qjax
from qjax.ptq import Statistics
from tests.draws import normal, variables

BATCHES = [normal(n, (4, 6, 8)) * (n + 1) for n in range(3)]
ALL = np.concatenate(BATCHES)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(8, name="dense")(x), None


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="first")(x)
        stacked = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = stacked(name="stack")(x, None)
        return nn.MultiHeadDotProductAttention(2, name="attention")(x)


VARIABLES = variables(Model(), BATCHES[0])


@pytest.fixture(scope="module")
def seen() -> Statistics:
    return qjax.capture(Model(), VARIABLES, BATCHES, bins=64)


def test_a_summary_is_of_all_elements_of_all_batches(seen):
    first = seen["first/lhs"]
    np.testing.assert_array_equal(first.channels, np.abs(ALL).max((0, 1)))
    assert first.absmax == np.abs(ALL).max()
    assert first.count == ALL.size
    assert first.histogram.sum() == ALL.size
    # Bins are compared in float32, as they were filled.
    bins = np.clip(np.floor(np.abs(ALL) * np.float32(64 / first.absmax)), 0, 63).astype(int)
    np.testing.assert_array_equal(first.histogram, np.bincount(bins.ravel(), minlength=64))
    np.testing.assert_allclose(first.rms, np.sqrt(np.mean(ALL**2)), rtol=1e-5)


def test_weights_loops_and_attention_are_seen_by_name(seen):
    kernel = VARIABLES["params"]["first"]["kernel"]
    np.testing.assert_array_equal(seen["first/rhs"].channels, np.abs(kernel).max(1))
    stack = VARIABLES["params"]["stack"]["dense"]["kernel"]
    assert seen["stack/dense/rhs"].absmax == np.abs(stack).max()
    assert seen["stack/dense/lhs"].count == 3 * ALL.size
    assert {"attention/qk/lhs", "attention/av/rhs", "attention/out/lhs"} <= set(seen.operands)


def test_statistics_are_a_pytree(seen):
    again = jax.tree.map(np.asarray, seen)
    assert again["first/lhs"].absmax == seen["first/lhs"].absmax


def test_percentiles_bound_their_share(seen):
    first = seen["first/lhs"]
    assert first.percentile(100) == first.absmax
    bounds = [first.percentile(p) for p in (50, 90, 99, 100)]
    assert bounds == sorted(bounds)
    for percent in (50, 90, 99):
        bound = first.percentile(percent)
        assert np.mean(np.abs(ALL) <= bound) >= percent / 100
        assert np.mean(np.abs(ALL) <= bound - first.absmax / 64) < percent / 100
    with pytest.raises(ValueError, match="above 0 and at most 100"):
        first.percentile(0)


def test_parts_merge_into_the_whole(seen):
    again = qjax.capture(Model(), VARIABLES, BATCHES, path="first", bins=64)
    assert set(again.operands) == {"first/lhs", "first/rhs"}
    both = again["first/lhs"].merge(seen["first/lhs"])
    assert both.count == 2 * ALL.size
    np.testing.assert_array_equal(both.histogram, 2 * seen["first/lhs"].histogram)
    with pytest.raises(ValueError, match="join histograms up to"):
        again["first/lhs"].merge(seen["first/rhs"])


def test_other_doors_see_the_same(seen):
    weights = VARIABLES["params"]["first"]["kernel"]

    def function(w, x):
        with jax.named_scope("first"):
            return jax.vmap(lambda row: row @ w)(x)

    found = qjax.capture(function, weights, BATCHES, bins=64)
    layer = nnx.Linear(8, 8, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel.set_value(weights)
    module = qjax.capture(layer, None, BATCHES, bins=64)
    for other in (found["first/lhs"], module["lhs"]):
        np.testing.assert_array_equal(other.channels, seen["first/lhs"].channels)
        np.testing.assert_array_equal(other.histogram, seen["first/lhs"].histogram)


@pytest.mark.parametrize("recipe", ["int8_tensor", "nvfp4"])
def test_static_scales_of_a_batch_are_its_own(recipe):
    quantizer = qjax.Quantizer(recipe)
    chosen = qjax.recipes.get(qjax.Policy(fwd=qjax.Gemm(quantizer, quantizer)))
    model, x = nn.Sequential([nn.Dense(32)]), normal(1, (4, 32))
    variables = model.init(jax.random.key(0), x)
    static = qjax.capture(model, variables, [x]).static(chosen)
    dynamic = qjax.quantize(model, chosen).apply
    fixed = qjax.quantize(model, static).apply
    np.testing.assert_array_equal(dynamic(variables, x), fixed(variables, x))
    # A larger input meets the bound that was seen, where a dynamic scale would follow it.
    assert not np.array_equal(dynamic(variables, 8 * x), fixed(variables, 8 * x))
    assert np.all(np.isfinite(fixed(variables, 8 * x)))


def test_nothing_to_see_is_an_error():
    with pytest.raises(ValueError, match="at least one batch"):
        qjax.capture(Model(), VARIABLES, [])
    with pytest.raises(ValueError, match="no contraction matched"):
        qjax.capture(Model(), VARIABLES, BATCHES[:1], path="elsewhere")
