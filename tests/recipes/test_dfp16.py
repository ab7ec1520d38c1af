"""DFP16: shared exponents, chains that cannot overflow, and ones that do and say so."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import recipes
from qjax.contraction import IntegerAccumulator, overflows
from qjax.recipes import dfp16

DOT = (((1,), (0,)), ((), ()))
CODES = dfp16.policy().fwd.lhs


def test_a_tensor_has_one_exponent_and_fourteen_to_fifteen_bits():
    tensor = CODES.encode(jnp.array([0.5, -1.25, 3.9, 0.001]))
    np.testing.assert_array_equal(tensor.qvalue, [4096, -10240, 31949, 8])
    assert tensor.scale.decode(jnp.float32) == 2.0**-13
    for seed in range(5):
        x = jnp.exp2(10.0 * seed - 20) * jax.random.normal(jax.random.key(seed), (256,))
        tensor = CODES.encode(x)
        step = float(tensor.scale.decode(jnp.float32).reshape(()))
        assert np.log2(step) % 1 == 0
        assert 2**14 <= np.abs(tensor.qvalue).max() < 2**15
        below = np.abs(np.asarray(tensor.qvalue)) < 32767
        assert np.all(np.abs(x - tensor.decode())[below] <= step / 2)
        np.testing.assert_array_equal(CODES.encode(4 * x).qvalue, tensor.qvalue)


@pytest.mark.parametrize(("bits", "error"), [(16, 3.5e-5), (15, 7.0e-5), (13, 2.8e-4), (8, 9.1e-3)])
def test_normal_numbers_lose_what_was_counted(bits, error):
    x = jax.random.normal(jax.random.key(0), (1 << 14,))
    lost = dfp16.policy(bits).fwd.lhs.cast(x) - x
    assert float(jnp.linalg.norm(lost) / jnp.linalg.norm(x)) == pytest.approx(error, rel=0.05)


def explicit(x, w, bits, chain, *, wrap=False):
    """int64 sums of chains (of int32 where they wrap), converted to float32 and added in order."""
    a, b = (dfp16.policy(bits).fwd.lhs.encode(v) for v in (x, w))
    codes = [np.asarray(t.qvalue).astype(np.int64) for t in (a, b)]
    total = np.zeros((len(x), w.shape[1]), np.float32)
    for k in range(0, x.shape[1], chain):
        part = codes[0][:, k : k + chain] @ codes[1][k : k + chain]
        total += (part.astype(np.int32) if wrap else part).astype(np.float32)
    scales = [np.float32(t.scale.decode(jnp.float32)).reshape(()) for t in (a, b)]
    return total * scales[0] * scales[1]


@pytest.mark.parametrize(("bits", "chain"), [(16, 2), (15, 8), (14, 32), (13, 128)])
def test_safe_chains_equal_integers_of_64_bits(bits, chain):
    """Two products of 15 digits fit 31, eight of 14, 32 of 13, 128 of 12."""
    policy = dfp16.policy(bits)
    assert policy.fwd.accumulator.length == chain
    worst = jnp.full((3, 140), 1.9999)
    for x in (worst, jax.random.normal(jax.random.key(0), (3, 140))):
        w = jnp.ones((140, 2)) * 1.9999 if x is worst else x.T
        out = qjax.dot_general(x, w, DOT, policy=policy)
        np.testing.assert_array_equal(out, explicit(x, w, bits, chain))


def test_unsafe_chains_wrap_on_adversarial_numbers_and_say_where():
    k = 512
    normal = [jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((2, k), (k, 2)))]
    worst = [
        jnp.full((2, k), 1.9999).at[1].set(0.01).at[1, 0].set(1.9999),
        jnp.full((k, 2), 1.9999),
    ]
    chain = IntegerAccumulator(32, 32, "wrap")
    for (x, w), expected in ((normal, [False, False]), (worst, [True, False])):
        codes = [CODES.encode(v).qvalue for v in (x, w)]
        found = np.asarray(overflows(chain, *codes))
        np.testing.assert_array_equal(found.any(1), expected)
        out = qjax.dot_general(x, w, DOT, policy=dfp16.policy(16, 32))
        right = np.isclose(out, explicit(x, w, 16, 32), rtol=1e-6)
        np.testing.assert_array_equal(right, ~found)
        np.testing.assert_array_equal(out, explicit(x, w, 16, 32, wrap=True))


@pytest.mark.parametrize("length", [64, 256])
def test_gaussian_numbers_overflow_as_often_as_a_random_walk_leaves_the_range(length):
    """A sum of n products is normal with deviation s t sqrt(n). Where one such sum is beyond the
    range with probability p, some sum on the way is with p at least and 2 p at most (Levy)."""
    draws = [
        np.random.default_rng(i).normal(size=s) for i, s in enumerate(((40, length), (length, 40)))
    ]
    # As large as the shared exponent allows: codes reach 15 bits.
    codes = [CODES.encode(jnp.float32(1.9999 * v / np.abs(v).max())).qvalue for v in draws]
    found = np.asarray(overflows(IntegerAccumulator(32, length, "wrap"), *codes))
    deviation = np.prod([np.asarray(c, np.float64).std() for c in codes]) * np.sqrt(length)
    beyond = math.erfc(2.0**31 / deviation / np.sqrt(2))
    # Rows and columns share operands, so counts spread more than those of 1600 free sums.
    spread = 5 * np.sqrt(beyond / found.size) * 2
    assert beyond - spread < found.mean() < 2 * beyond + spread
    assert (found.mean() > 0.05) == (length == 256), "chains of 256 are too long for 16 bits"


def test_gradients_are_those_of_float32_to_four_digits_at_16_bits_and_to_two_at_8():
    x, w = (
        jax.random.normal(jax.random.key(0), (8, 27)),
        jax.random.normal(jax.random.key(1), (27, 4)),
    )

    @jax.jit
    def legs(x, w):
        def run(policy):
            out, pull = jax.vjp(lambda x, w: qjax.dot_general(x, w, DOT, policy=policy), x, w)
            return out, *pull(jnp.sin(x @ w))

        return run(qjax.Policy()), run(dfp16.policy()), run(dfp16.policy(8))

    for exact, fine, coarse in zip(*legs(x, w), strict=True):
        errors = [
            float(jnp.linalg.norm(v - exact) / jnp.linalg.norm(exact)) for v in (fine, coarse)
        ]
        assert errors[0] < 2e-4
        assert 3e-3 < errors[1] < 5e-2


def test_all_layers_are_integers():
    recipe = recipes.get("dfp16")
    assert recipe.match("lm_head", "dot_general")[1].policy == dfp16.policy()
