"""Scale rules, bounds that clip or remember, zero points and scales of scales."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qjax
from qjax import calibration, formats, qtypes
from qjax.quantizer import Quantizer, ShiftSqueeze
from qjax.rounding import Ceil

NVFP4_BLOCK = np.float32(
    [0.1, -0.25, 0.4, 0.55, -0.7, 0.85, 1, -1.15, 1.3, 1.45, -1.6, 1.75, 1.9, -2.05, 2.2, 2.4]
)


def exponent(amax: float, name: str, rule: str) -> int:
    """The exponent of the scale that a rule draws for one tile with this maximum."""
    x = jnp.zeros(32).at[0].set(amax)
    return int(Quantizer(name, scale=rule).encode(x).scale.qvalue[0]) - 127


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8", "mxfp6_e2m3", "mxint8"])
def test_rules_agree_with_their_definitions_at_and_beside_every_threshold(name):
    format = qtypes.parse(name).format
    top, emax = format.max, int(np.floor(np.log2(format.max)))
    mantissa = 1.0 + 2.0 ** -np.arange(1, 8)
    for base in (1.0, top, (top + 2.0 ** (emax + 1)) / 2, *mantissa, 2 - 2.0**-5):
        for x in (np.nextafter(np.float32(base), 0), base, np.nextafter(np.float32(base), 9e9)):
            x = float(np.float32(x))
            down = int(np.floor(np.log2(x))) - emax
            fits = x <= top * 2.0**down
            assert exponent(x, name, "floor") == down
            assert exponent(x, name, "ceil") == int(np.ceil(np.log2(x))) - emax
            assert exponent(x, name, "rceil") == (down if fits else down + 1)
            assert exponent(x, name, "topbinade") == (down if fits else down + 1)
            middle = (top + 2.0 ** (emax + 1)) / 2
            assert exponent(x, name, "midmax") == (down if x <= middle * 2.0**down else down + 1)


@pytest.mark.parametrize("name", ["mxfp4", "mx6"])
@pytest.mark.parametrize("rule", calibration.RULES)
def test_rules_hold_for_maxima_below_the_smallest_normal_number(name, rule):
    sizes = np.r_[0:5, 1 << np.arange(23), (1 << np.arange(2, 27)) - 1].astype(np.int32)
    x = jnp.zeros((len(sizes), 32)).at[:, 0].set(jnp.asarray(sizes).view(jnp.float32))
    stored = Quantizer(name, scale="floor" if rule == "search" else rule).encode(x)
    scale = stored.scale if stored.scale.scale is None else stored.scale.scale
    got = np.asarray(scale.qvalue)[:, 0].astype(int) - 127
    bound = formats.extended(jnp.asarray(sizes))
    wanted = calibration.exponent_of(bound, qtypes.parse(name).format, rule)
    assert np.array_equal(got, np.maximum(wanted, -127))


@pytest.mark.parametrize("bits", [4, 5])
def test_exponents_of_scales_end_where_their_format_does(bits):
    scale = formats.PowerOfTwo(bits)
    least, top = scale.min_exponent, scale.top_exponent
    quantizer = Quantizer(
        dataclasses.replace(qtypes.parse("mxfp4"), scale=qtypes.QType(scale)), scale="floor"
    )
    power = np.arange(least - 3, top + 6)
    x = np.zeros((power.size, 32), np.float32)
    x[:, 0] = 2.0**power
    exponent = np.clip(power - 2, least, top)  # FP4 ends in the binade of 4
    units = np.minimum(2.0 ** (power - exponent), 6.0)
    wanted = np.where(units <= 0.25, 0.0, units) * 2.0**exponent
    stored = quantizer.encode(x)
    np.testing.assert_array_equal(stored.scale.decode().ravel(), 2.0**exponent)
    np.testing.assert_array_equal(stored.decode()[:, 0], wanted)
    np.testing.assert_array_equal(quantizer.cast(x)[:, 0], wanted)


def test_even_rounds_the_maximum_to_the_mantissa_first():
    # e2m1 keeps one bit: 1.75 ties and goes to 2.
    assert [exponent(x, "mxfp4", "even") for x in (1.5, 1.74, 1.75, 1.9, 2.0)] == [
        -2,
        -2,
        -1,
        -1,
        -1,
    ]


def test_searching_never_does_worse_than_its_candidates():
    x = jax.random.normal(jax.random.key(0), (64, 64))

    def error(**options):
        cast = Quantizer("mxfp4", **options).cast(x)
        return jnp.sum(((cast - x) ** 2).reshape(64, 2, 32), axis=-1)

    best = error(scale="search")
    assert (best <= error(scale="floor")).all()
    assert (best <= error(scale="ceil")).all()
    assert float(best.sum()) < 0.99 * float(error(scale="floor").sum())
    for name in ("int4_channel", "nvfp4"):
        found = Quantizer(name, calibration=calibration.Search())
        cast = found.cast(x)
        assert jnp.array_equal(cast, found.encode(x).decode())
        assert ((cast - x) ** 2).sum() <= ((qjax.cast(x, name) - x) ** 2).sum()


def test_nvfp4_follows_the_published_order_of_operations():
    x = np.concatenate([NVFP4_BLOCK, np.zeros(15, np.float32), np.float32([3.0])])
    stored = qjax.encode(jnp.asarray(x), "nvfp4")
    assert float(formats.E4M3FN.load(stored.scale.qvalue)[0]) == 352
    assert float(stored.scale.scale.decode()[0]) == np.float32(1) / np.float32(896)
    codes = formats.E2M1FN.load(stored.qvalue)[:16]
    assert codes.tolist() == [0.5, -0.5, 1, 1.5, -2, 2, 3, -3, 3, 4, -4, 4, 4, -6, 6, 6]


def test_nvfp4_keeps_small_tensors():
    x = jax.random.normal(jax.random.key(0), (4, 64))
    for factor in (1.0, 1e-4, 1e-12, 1e-30):
        relative = jnp.abs(qjax.cast(x * factor, "nvfp4") / factor - x).mean()
        assert float(relative) < 0.1


def test_subtile_offsets_follow_their_pair():
    x = jnp.array([1.0, 0.9, 0.3, 0.2] + [0.0] * 12)
    stored = qjax.encode(x, "mx6")
    # Int(5) reaches 15 = 1.875 * 2**3: the tile's exponent is -3, a pair's may be -4.
    assert stored.scale.scale.decode().tolist() == [0.125]
    assert stored.scale.qvalue.tolist()[:2] == [1, 0]
    assert stored.qvalue.tolist()[:4] == [8, 7, 5, 3]
    assert qtypes.MX9.bits_per_element == 9.0


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("mx6", 6.0),
        ("mx4", 4.0),
        ("vs_quant", 4.25),
        ("nf4_double", 4.126953125),
        ("deepseek_1x128", 8.25),
    ],
)
def test_bits_of_nested_scales(name, bits):
    assert qtypes.parse(name).bits_per_element == bits


def test_zero_points_cover_the_range_and_keep_zero_exact():
    x = jnp.array([[0.0, 0.1, 3.0, 5.1], [-1.0, 0.0, 1.0, 2.0], [-5.0, -3.0, -1.0, 0.0]])
    stored = qjax.encode(x, "uint8_channel")
    assert jnp.array_equal(stored.decode(), qjax.cast(x, "uint8_channel"))
    assert jnp.array_equal(stored.decode() == 0, x == 0)
    assert stored.zero_point.qvalue.ravel().tolist() == [0, 85, 255]
    assert float(jnp.abs(stored.decode() - x).max()) <= 0.51 * 5.1 / 255


def test_bounds_that_clip():
    x = jnp.concatenate([jnp.linspace(-1, 1, 999), jnp.array([100.0])])[None]
    type = qtypes.INT8_CHANNEL

    def bound(method) -> float:
        return float(Quantizer(type, calibration=method).encode(x).scale.decode()[0, 0]) * 127

    assert bound(calibration.AbsMax()) == pytest.approx(100, rel=1e-6)
    assert bound(calibration.Percentile(99.0)) == pytest.approx(0.99, abs=0.01)
    rms = float(jnp.sqrt((x**2).mean()))
    assert bound(calibration.RootMeanSquare(2.0)) == pytest.approx(2 * rms, rel=1e-5)
    assert bound(calibration.Fixed(2.0)) == pytest.approx(2.0, rel=1e-6)
    assert bound(calibration.Entropy()) < 90
    rows = jnp.array([[1.0, 2.0], [6.0, 4.0]])
    mean = Quantizer("int8_tensor", calibration=calibration.MeanAbsMax())
    assert float(mean.encode(rows).scale.decode().ravel()[0]) * 127 == pytest.approx(4.0, rel=1e-6)


def divergence(histogram, edge, levels):
    """TensorRT's divergence of a clipped histogram from its merged and spread one, as described."""
    p = histogram[:edge].astype(np.float64).copy()
    p[-1] += histogram[edge:].sum()
    q = np.zeros(edge)
    for level in range(levels):
        inside = [i for i in range(edge) if i * levels // edge == level]
        full = [i for i in inside if histogram[i] > 0]
        for i in full:
            q[i] = histogram[inside].sum() / len(full)
    p, q = p / p.sum() + 1e-6, q / q.sum() + 1e-6
    return (p * np.log(p / q)).sum()


def test_bounds_that_clip_equal_their_definitions_in_numpy():
    x = np.asarray(jax.random.t(jax.random.key(3), 3.0, (3, 700)))
    sizes = np.abs(x)

    def bounds(method):
        found, _ = method(jnp.asarray(x), (1,))
        return np.asarray(found).view(np.float32)[:, 0]

    for percent in (50.0, 99.0, 100.0):
        wanted = np.percentile(sizes, percent, axis=1)
        # Positions between two elements are float32 numbers there.
        assert bounds(calibration.Percentile(percent)) == pytest.approx(wanted, rel=1e-5)
    root = np.sqrt((x.astype(np.float64) ** 2).mean(axis=1))
    assert bounds(calibration.RootMeanSquare(2.0)) == pytest.approx(2 * root, rel=1e-6)
    moments = 3.12 * root - 2.064 * sizes.mean(axis=1)
    assert bounds(calibration.sawb(2)) == pytest.approx(moments, rel=1e-5)
    levels, bins, candidates = 16, 128, 12
    edges = np.linspace(levels, bins, candidates).astype(int)
    wanted = []
    for row in sizes:
        place = np.minimum((row / row.max() * np.float32(bins)).astype(int), bins - 1)
        histogram = np.bincount(place, minlength=bins)
        costs = [divergence(histogram, edge, levels) for edge in edges]
        wanted.append(row.max() * edges[np.argmin(costs)] / bins)
    method = calibration.Entropy(levels=levels, bins=bins, candidates=candidates)
    assert bounds(method) == pytest.approx(np.array(wanted), rel=1e-6)


def test_a_search_finds_the_fraction_of_least_error_of_every_tile():
    x = jax.random.t(jax.random.key(4), 3.0, (5, 256))
    search = calibration.Search()
    found = Quantizer("int4_channel", calibration=search).cast(x)
    tried = [
        jnp.stack([Quantizer("int4_channel", calibration=calibration.Fixed(top)).cast(row[None])[0]
                   for row, top in zip(x, jnp.abs(x).max(axis=1) * jnp.float32(fraction))])
        for fraction in search.fractions
    ]  # fmt: skip
    errors = jnp.stack([((values - x) ** 2).sum(axis=1) for values in tried])
    assert jnp.array_equal(((found - x) ** 2).sum(axis=1), errors.min(axis=0))


def test_entropy_keeps_the_range_of_a_uniform_tensor_and_clips_a_long_tail():
    uniform = jnp.linspace(-1, 1, 20000)[None]
    tail = jax.random.t(jax.random.key(0), 2.0, (1, 20000))
    quantizer = Quantizer("int8_channel", calibration=calibration.Entropy())
    assert float(quantizer.encode(uniform).scale.decode()[0, 0]) * 127 > 0.9
    assert float(quantizer.encode(tail).scale.decode()[0, 0]) * 127 < 0.8 * float(
        jnp.abs(tail).max()
    )


def test_delayed_scaling_follows_the_published_trace():
    quantizer = Quantizer("e4m3fn_tensor", calibration=calibration.Delayed(length=4))
    state = quantizer.init((8,))
    used = []
    for amax in (1.0, 4.0, 2.0, 2.0, 2.0, 2.0, 2.0):
        x = jnp.zeros(8).at[0].set(amax)
        used.append(float(jnp.max(state)))
        values, state = quantizer.step(x, state)
    assert used == [0.0, 1.0, 4.0, 4.0, 4.0, 4.0, 2.0]
    assert float(values[0]) == 2.0
    with pytest.raises(ValueError, match="init"):
        quantizer.cast(x)


def test_states_pass_through_scan_and_clip_by_the_past():
    quantizer = Quantizer("e4m3fn_tensor", calibration=calibration.Delayed(length=2))
    xs = jnp.array([[1.0, 0.5], [8.0, 0.5], [1.0, 0.5]])
    _, ys = jax.lax.scan(lambda s, x: quantizer.step(x, s)[::-1], quantizer.init((2,)), xs)
    assert ys[:, 0].tolist() == [1.0, 1.0, 1.0]
    average = Quantizer("int8_tensor", calibration=calibration.MovingAverage(0.5))
    state = average.init((2,))
    for x in xs:
        _, state = average.step(x, state)
    assert float(state.ravel()[0]) == 2.75


def test_scales_may_round_up_so_that_nothing_saturates():
    x = jax.random.normal(jax.random.key(1), (8, 64))
    up = Quantizer(qtypes.VS_QUANT, scale=Quantizer(qtypes.VS_QUANT.scale, rounding=Ceil()))
    stored = up.encode(x)
    scale = stored.layout.spread(stored.scale.decode())
    assert float((jnp.abs(x) / scale).max()) <= 7.0 + 1e-5


def test_squeezing_beats_the_bare_format_on_a_narrow_far_away_tensor():
    x = jnp.exp(jax.random.normal(jax.random.key(0), (1000,)) * 3) * 1e-9
    squeezed = ShiftSqueeze().cast(x)
    relative = jnp.median(jnp.abs(squeezed / x - 1))
    assert float(relative) < 0.2
    assert float(jnp.median(jnp.abs(qjax.cast(x, "e5m2") / x - 1))) == 1.0
    assert ShiftSqueeze().cast(jnp.zeros(3)).tolist() == [0, 0, 0]
    assert float(jnp.max(squeezed)) == pytest.approx(float(jnp.max(x)), rel=1e-3)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((5, 128, 3), (0, 1)), ((640, 3), (0,)), ((4, 96, 2, 8), (1,)), ((3, 70, 5), (0, 1))]
    + [((64, 2, 40), (0, 2)), ((66, 128), (1,)), ((4, 320), (0, 1)), ((0, 640, 3), (0, 1))],
)
def test_maxima_in_groups_are_maxima(shape, axes):
    """In every order of the axes that is taken in parts; a NaN is larger than everything."""
    x = np.asarray(jax.random.normal(jax.random.key(0), shape)).copy()
    x[..., :1] = np.where(np.abs(x[..., :1]) > 2, np.nan, x[..., :1])
    want = np.abs(x).view(np.int32).max(axis=axes, keepdims=True, initial=0)
    np.testing.assert_array_equal(calibration.largest(jnp.asarray(x), axes), want)
