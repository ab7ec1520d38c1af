"""HBFP and Accuracy Booster: exact integer products, tiles, and where and when bits are added."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import Quantizer, qtypes, recipes, train
from qjax.recipes import hbfp
from qjax.tiling import Tile
from tests.draws import normal

X = normal(0, (6, 64))
W = normal(1, (64, 48))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for name in ("layer_0", "middle", "later"):
            x = nn.relu(nn.Dense(64, name=name)(x))
        return nn.Dense(10, name="head")(x)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_a_block_is_integers_below_one_power_of_two(bits):
    qtype = qtypes.block_float(bits, 16)
    stored = qjax.encode(X, qtype)
    top = np.abs(np.asarray(X)).reshape(6, 4, 16).max(-1)
    unit = 2.0 ** (np.ceil(np.log2(top)) - (bits - 1))
    codes = np.asarray(stored.decode()).reshape(6, 4, 16) / unit[..., None]
    assert np.array_equal(codes, np.round(codes))
    assert np.abs(codes).max() <= 2 ** (bits - 1) - 1
    # Where the largest element has become a power of two, its block now has a smaller exponent.
    values = np.asarray(stored.decode()).reshape(6, 4, 16)
    same = np.abs(np.frexp(np.abs(values).max(-1))[0]) > 0.5
    again = np.asarray(qjax.cast(stored.decode(), qtype)).reshape(6, 4, 16)
    assert same.sum() > 10
    assert np.array_equal(again[same], values[same])
    assert np.array_equal(qjax.cast(X * 2.0**-40, qtype), stored.decode() * 2.0**-40)
    assert np.array_equal(qjax.cast(-X, qtype), -stored.decode())
    other = qjax.cast(X.at[:, 16:32].mul(7), qtype)
    assert np.array_equal(other[:, :16], stored.decode()[:, :16]), "blocks know nothing of others"


def test_a_product_within_a_block_is_one_integer_product():
    policy = hbfp.policy(6, block=64)
    out = qjax.dot_general(X, W, (((1,), (0,)), ((), ())), policy=policy, key=jax.random.key(0))
    a = Quantizer(qtypes.block_float(6, 64)).encode(X)
    b = Quantizer(qtypes.block_float(6, 64)).encode(W, contract=(0,))
    whole = np.asarray(a.qvalue, np.int64) @ np.asarray(b.qvalue, np.int64)
    unit = 2.0**-5
    scales = np.float64(a.scale.decode()) * np.float64(b.scale.decode())
    assert np.array_equal(out, whole * unit**2 * scales)


def test_square_tiles_of_weights_serve_both_directions():
    fwd, back = (getattr(hbfp.policy(4, tile=24), leg).rhs for leg in ("fwd", "dlhs"))
    assert fwd.qtype == back.qtype
    assert fwd.qtype.tile == Tile(24, 24)
    cast = lambda q, x, axis: np.asarray(q.cast(x, contract=(axis,)))  # noqa: E731
    assert np.array_equal(cast(fwd, W, 0), cast(fwd, W.T, 0).T)
    rows = hbfp.policy(4).fwd.rhs
    assert not np.array_equal(cast(rows, W, 0), cast(rows, W.T, 0).T)


@pytest.mark.parametrize("block", [16, 25, 64, 576])
def test_any_block_serves_any_shape(block):
    policy = hbfp.policy(4, block)
    assert policy.fwd.lhs.qtype.bits_per_element == 4 + 8 / block
    out = qjax.dot_general(X, W, (((1,), (0,)), ((), ())), policy=policy, key=jax.random.key(0))
    assert np.all(np.isfinite(out))


def widths(recipe):
    rows = qjax.report(qjax.quantize(Net(), recipe), X).rows
    return {row.path: row.bits[0] for row in rows}, {row.path: row.flops for row in rows}


def test_hbfp_exempts_no_layer():
    """The paper converts all dot products, and so does its code, the classifier's included."""
    assert set(widths("hbfp4")[0].values()) == {4.125}


def test_the_booster_is_wide_at_both_ends_and_at_the_end():
    early, late = hbfp.stages(block=64)
    assert early == dataclasses.replace(recipes.get("accuracy_booster"), name=early.name)
    bits, flops = widths(early)
    assert bits == {"layer_0": 6.125, "middle": 4.125, "later": 4.125, "head": 6.125}
    assert set(widths(late)[0].values()) == {6.125}
    schedule = train.Piecewise((early, late), (90,))
    chosen = [
        float(jax.jit(lambda t: schedule.recipe(t, None).default.fwd.lhs.qtype.format.width)(t))
        for t in (0, 89, 90, 99)
    ]
    assert chosen == [4, 4, 6, 6]
    # Of 100 steps, the share of products in four bits is what the layers and steps say.
    inner = flops["middle"] + flops["later"]
    total = sum(flops.values())
    run = 90 * sum(flops[p] for p in flops if bits[p] < 5) / (100 * total)
    assert run == pytest.approx(0.9 * inner / total)


@pytest.mark.parametrize("tile", [None, 24])
def test_every_operand_of_the_backward_pass_is_rounded_with_noise_and_none_of_the_forward(tile):
    policy = hbfp.policy(4, tile=tile)
    noisy = {leg: (g.lhs.stochastic, g.rhs.stochastic) for leg in ("fwd", "dlhs", "drhs")
             for g in [getattr(policy, leg)]}  # fmt: skip
    assert noisy == {"fwd": (False, False), "dlhs": (True, True), "drhs": (True, True)}


def test_gradients_are_rounded_without_bias():
    quantizer = hbfp.policy(4, 64).drhs.rhs
    x = 0.9 * jnp.sin(jnp.arange(64.0))
    keys = jax.random.split(jax.random.key(2), 4000)
    mean = jnp.mean(jax.vmap(lambda key: quantizer.cast(x, key=key))(keys), axis=0)
    # The largest element is below the block's largest mantissa, 7/8, or saturates.
    within = jnp.abs(x) <= 7 / 8
    assert np.all(np.abs(mean - x)[within] < 5 * 0.5 * 2.0**-3 / np.sqrt(4000))
