"""Closed forms against printed numbers, and against brute-force minimization of the laws."""

import itertools
import math

import numpy as np
import pytest

from scaling import laws
from scaling.capacity import gmse_float, gmse_uniform, grid_error
from scaling.closed import chinchilla, kumar, sun
from scaling.closed.allocation import allocate_bits
from scaling.closed.isoloss import solve_for
from scaling.tables.formats import CHANNEL_BLOCK

SUN = laws.published("sun2025").params
KUMAR = laws.published("kumar2024").params
PTQ = laws.published("kumar2024_ptq").params
BILLION = 1e9


def loss_sun(**points):
    return laws.published("sun2025").predict(**points)


@pytest.mark.parametrize(
    ("layout", "block", "trillions"),
    [
        ((8, 7), 128, 1730),
        ((4, 3), 128, 27.33),
        ((2, 1), 128, 0.3928),
        ((4, 3), 32, 37.9),
        ((4, 3), 512, 21.4),
        ((4, 3), CHANNEL_BLOCK, 14.8),
        ((5, 2), 128, 19.4),
        ((3, 2), 128, 4.80),
        ((2, 3), 128, 4.44),
    ],
)
def test_suns_critical_data(layout, block, trillions):
    found = sun.critical_data(SUN, BILLION, *layout, block)
    assert found / 1e12 == pytest.approx(trillions, rel=3e-3)
    around = found * np.array([0.99, 1.0, 1.01])
    losses = loss_sun(N=BILLION, D=around, E=layout[0], M=layout[1], B=block)
    assert losses[1] < min(losses[0], losses[2])


def test_suns_layouts_are_those_of_the_paper():
    printed = "E0M0 E1M0 E1M1 E2M1 E2M2 E3M2 E3M3 E4M3 E4M4 E5M4 E5M5 E6M5 E6M6 E7M6 E7M7 E8M7"
    found = [sun.best_layout(SUN, bits) for bits in range(1, 17)]
    assert " ".join(f"E{e}M{m}" for e, m in found) == printed


def test_suns_best_split_is_stationary():
    for bits in (4.0, 8.0, 16.0):
        E, M = sun.best_split(SUN, bits)
        assert pytest.approx(bits) == E + M + 1
        strength = [sun.precision_strength(SUN, E + h, M - h) for h in (-0.01, 0.0, 0.01)]
        assert strength[1] > max(strength[0], strength[2])
        power = SUN["delta"] + SUN["nu"]
        assert strength[1] == pytest.approx(sun.bits_strength(SUN) * bits**power)
    assert sun.bits_strength(SUN) == pytest.approx(160.697, rel=1e-5)


def loss_at_bits(N, D, P, B=128.0):
    E, M = sun.best_split(SUN, P)
    return loss_sun(N=N, D=D, E=E, M=M, B=B)


@pytest.mark.parametrize(("D", "bits"), [(1e11, 4.27), (1e12, 5.18), (1e13, 6.28), (1e14, 7.62)])
def test_suns_optimal_precision_at_fixed_data(D, bits):
    found = sun.optimal_precision_at_data(SUN, D, 128)
    assert found == pytest.approx(bits, abs=0.005)
    # At a fixed cost N P is constant, so that more bits mean fewer parameters.
    grid = np.linspace(found - 0.5, found + 0.5, 1001)
    losses = [loss_at_bits(1e10 / p, D, p) for p in grid]
    assert grid[int(np.argmin(losses))] == pytest.approx(found, abs=2e-3)


def test_suns_optimal_precision_at_fixed_size():
    N, C = 1e9, 1e22
    found = sun.optimal_precision_at_size(SUN, N, C, 128)
    grid = np.linspace(found - 0.5, found + 0.5, 1001)
    losses = [loss_at_bits(N, C / (sun.COST * N * p), p) for p in grid]
    assert grid[int(np.argmin(losses))] == pytest.approx(found, abs=2e-3)


@pytest.mark.parametrize(
    ("C", "bits"),
    [(1e20, 3.949), (1e21, 4.190), (1e24, 5.005), (1e27, 5.979), (1e30, 7.142), (1e31, 7.578),
     (1e33, 8.531)],
)  # fmt: skip
def test_suns_optimal_precision(C, bits):
    found = sun.optimal_precision(SUN, C, 128)
    assert found == pytest.approx(bits, abs=6e-4)

    def best_loss(p):
        N = np.geomspace(1e6, 1e18, 6001)
        return loss_at_bits(N, C / (sun.COST * N * p), p).min()

    around = [best_loss(found + h) for h in (-0.05, 0.0, 0.05)]
    assert around[1] < min(around[0], around[2])


@pytest.mark.parametrize(
    ("layout", "block", "small", "large"),
    [
        ((1, 1), 32, 3.5463, 2.7526),
        ((1, 1), 512, 3.6148, 2.8681),
        ((4, 3), CHANNEL_BLOCK, 3.4613, 2.6091),
        ((0, 7), CHANNEL_BLOCK, 3.5254, 2.7173),
    ],
)
def test_suns_reference_losses(layout, block, small, large):
    E, M = layout
    assert loss_sun(N=40894464, D=1.048576e10, E=E, M=M, B=block) == pytest.approx(small, abs=6e-5)
    assert loss_sun(N=679477248, D=1.048576e11, E=E, M=M, B=block) == pytest.approx(large, abs=6e-5)


def test_suns_effective_size_reproduces_the_loss():
    N, D, P, B = 1e9, 1e12, 6.0, 128.0
    effective = sun.effective_size(SUN, N, D, P, B)
    base = SUN["n"] * effective ** -SUN["alpha"] + SUN["d"] * D ** -SUN["beta"] + SUN["epsilon"]
    assert base == pytest.approx(float(loss_at_bits(N, D, P, B)), rel=1e-12)


def test_kumars_optimal_precision_is_seven_bits_with_the_shifts():
    assert kumar.optimal_precision(KUMAR) == pytest.approx(7.002, abs=5e-4)
    gains = [float(kumar.capacity(KUMAR, p)) * 16 / p for p in (4, 6, 7, 8, 16)]
    assert gains == pytest.approx([0.764, 1.630, 1.692, 1.656, 0.994], abs=5e-4)


def test_without_shifts_the_optimum_is_a_constant_of_three_equal_factors():
    assert kumar.equal_optimum() == pytest.approx(1.90381, abs=5e-6)
    x = kumar.equal_optimum()
    assert math.exp(x) == pytest.approx(1 + 3 * x)
    equal = {f"gamma_{t}": 2.0 for t in kumar.TENSORS}
    assert kumar.optimal_precision(equal) == pytest.approx(2.0 * x, abs=1e-6)
    unshifted = {k: 0.0 if k.startswith("n_") else v for k, v in KUMAR.items()}
    assert kumar.optimal_precision(unshifted) == pytest.approx(3.5, abs=0.06)


def test_the_optimal_precision_minimizes_kumars_loss_at_every_budget():
    law = laws.published("kumar2024")
    best = kumar.optimal_precision(KUMAR)
    for C in (1e20, 1e23):
        losses = []
        for p in (best - 0.2, best, best + 0.2):
            N, D = kumar.optimum_at_precision(KUMAR, C, p)
            assert kumar.COST * N * D * p == pytest.approx(C)
            losses.append(float(law.predict(N=N, D=D, P_w=p, P_a=p, P_kv=p)))
            nearby = N * np.geomspace(0.5, 2, 201)
            data = C / (kumar.COST * nearby * p)
            around = law.predict(N=nearby, D=data, P_w=p, P_a=p, P_kv=p)
            assert losses[-1] == pytest.approx(around.min(), abs=1e-12)
        assert losses[1] < min(losses[0], losses[2])


@pytest.mark.parametrize(
    ("N", "bits", "expected"),
    [(3e7, 3, 1.64e10), (3e7, 4, 8.9e10), (3e7, 5, 4.8e11), (8e9, 4, 6.0e11), (8e9, 6, 1.8e13)],
)
def test_kumars_critical_data(N, bits, expected):
    params = KUMAR | PTQ | {"b_post": 0.0}
    found = kumar.critical_data(params, N, bits)
    assert found == pytest.approx(expected, rel=0.03)
    D = found * np.array([0.98, 1.0, 1.02])
    delta = laws.get("kumar_ptq").predict(PTQ | {"b_post": 0.0}, {"N": N, "D": D, "P_post": bits})
    total = params["B"] * D ** -params["beta"] + delta
    assert total[1] < min(total[0], total[2])


def test_kumars_half_points():
    found = [kumar.half_point(KUMAR, t) for t in kumar.TENSORS]
    assert found == pytest.approx([2.666, 4.642, 2.980], abs=5e-4)
    for t, bits in zip(kumar.TENSORS, found):
        assert kumar.factor(bits, KUMAR[f"gamma_{t}"], KUMAR[f"n_{t}"]) == pytest.approx(0.5)
    # The activation factor vanishes where the paper's runs diverge.
    assert KUMAR["n_a"] * KUMAR["gamma_a"] == pytest.approx(3.11, abs=5e-3)


def test_hoffmanns_frontier_needs_unrounded_exponents():
    unrounded = laws.published("hoffmann2022")
    a, b = chinchilla.allocation_exponents(unrounded.params)
    assert a == pytest.approx(0.45653, abs=5e-6)
    assert a + b == pytest.approx(1)
    assert chinchilla.tokens_per_parameter(unrounded.params, 5.76e23) == pytest.approx(59, abs=15)
    rounded = laws.published("hoffmann2022_rounded")
    assert float(unrounded.predict(N=7e10, D=1.4e12)) == pytest.approx(1.9208, abs=5e-5)
    assert float(rounded.predict(N=7e10, D=1.4e12)) == pytest.approx(1.9366, abs=5e-5)


@pytest.mark.parametrize(("C", "ratio"), [(1e21, 21.4), (5.76e23, 17.9), (1e25, 16.6)])
def test_tokens_per_parameter_at_epochs_optimum(C, ratio):
    optimum = {"A": 477.82586648817204, "B": 2143.4173664816917, "E": 1.8172180988593454,
               "alpha": 0.34731049867002495, "beta": 0.36717243270046884}  # fmt: skip
    assert chinchilla.tokens_per_parameter(optimum, C) == pytest.approx(ratio, abs=0.05)
    N, D = chinchilla.optimum(optimum, C)
    sizes = N * np.geomspace(0.5, 2, 401)
    assert chinchilla.loss(optimum, N, D) <= chinchilla.loss(optimum, sizes, C / (6 * sizes)).min()


def test_gadre_is_chinchilla_with_one_exponent():
    constants = laws.published("gadre2024_c4")
    N, D = np.array([1e8, 1e9]), np.array([2e10, 1e11])
    other = chinchilla.gadre_to_chinchilla(constants.params)
    np.testing.assert_allclose(constants.predict(N=N, D=D), chinchilla.loss(other, N, D))


def test_kaplans_losses():
    assert float(laws.published("kaplan2020_n").predict(N=1e9)) == pytest.approx(2.3756, abs=5e-5)
    assert float(laws.published("kaplan2020_d").predict(D=1e10)) == pytest.approx(2.2624, abs=5e-5)


def test_chens_degradations():
    delta = {key: laws.published(f"chen2025_{key}").predict for key in ("w4a4", "w4a16", "w16a4")}
    assert float(delta["w4a4"](N=594e6, D=1e11, B=128)) == pytest.approx(0.0573, abs=5e-5)
    expected = {(100, 32): 1.646, (100, 256): 2.212, (1000, 32): 1.226, (1000, 256): 1.647}
    for (ratio, group), value in expected.items():
        points = {"N": 595e6, "D": 595e6 * ratio, "B": group}
        found = float(delta["w16a4"](**points) / delta["w4a16"](**points))
        assert found == pytest.approx(value, abs=2e-3)


@pytest.mark.parametrize(
    ("N", "D", "bits", "value"),
    [(1e9, 3e11, 2, 3.694), (1e9, 3e11, 3, 0.398), (1e9, 3e11, 4, 0.0818), (12e9, 3e11, 2, 2.106),
     (12e9, 3e11, 3, 0.227), (12e9, 3e11, 4, 0.0466), (7e9, 1e14, 4, 1.113)],
)  # fmt: skip
def test_ouyangs_degradations(N, D, bits, value):
    found = float(laws.published("ouyang2024").predict(N=N, D=D, P=bits))
    assert found == pytest.approx(value, rel=6e-3)


def test_spectras_gap_between_ternary_and_float():
    for N, claimed in ((15.6e9, 7.31), (330e9, 6.35)):
        ternary = float(laws.published("spectra2024_trilm").predict(N=N))
        floating = float(laws.published("spectra2024_floatlm").predict(N=N))
        assert 100 * (ternary / floating - 1) == pytest.approx(claimed, abs=0.01)
    found = laws.published("spectra2025_trilm").predict(N=1100.0, D=150.0)
    assert float(found) == pytest.approx(2.78, abs=0.02)


def test_gmse_of_uniform_grids():
    expected = [0.363380, 0.118846, 0.0374397, 0.0115429, 0.00349521, 0.00104005, 0.000304333,
                0.0000876862]  # fmt: skip
    assert [gmse_uniform(k) for k in range(1, 9)] == pytest.approx(expected, rel=1e-5)
    # The two ways of computing agree where they meet, and a bit is worth almost a factor of 4.
    ratios = [gmse_uniform(k) / gmse_uniform(k + 1) for k in range(9, 16)]
    assert all(3.4 < r < 4 for r in ratios)
    assert all(a < b for a, b in itertools.pairwise(ratios))


def test_gmse_agrees_with_sampling():
    x = np.random.default_rng(0).standard_normal(200_000)
    levels = np.array([-3.0, -1.0, -0.2, 0.5, 2.0])
    nearest = levels[np.abs(x[:, None] - levels).argmin(1)]
    error = (x - nearest) ** 2
    assert grid_error(levels) == pytest.approx(error.mean(), abs=5 * error.std() / 450)
    assert gmse_float(2, 1) < gmse_uniform(3)
    assert gmse_float(4, 3) > gmse_uniform(8)


def test_bits_are_allocated_so_that_every_layer_adds_the_same_loss():
    c = np.array([1.0, 4.0, 64.0, 0.25])
    bits = allocate_bits(c, 5.0, highest=64.0)
    assert bits.mean() == pytest.approx(5.0)
    assert np.ptp(c * 4.0**-bits) < 1e-12
    np.testing.assert_allclose(bits, 5 + 0.5 * (np.log2(c) - np.log2(c).mean()))
    clipped = allocate_bits(c, 5.0, lowest=4.5, highest=6.0)
    assert clipped.mean() == pytest.approx(5.0)
    assert clipped.min() == 4.5
    assert clipped.max() == 6.0


def test_integer_allocation_is_the_best_of_all():
    c = np.array([1.0, 5.0, 70.0])
    found = allocate_bits(c, 4.0, lowest=2, highest=8, integer=True)
    every = [(a, b, 12 - a - b) for a in range(2, 9) for b in range(2, 9) if 2 <= 12 - a - b <= 8]
    best = min((c * 4.0 ** -np.array(bits, float)).sum() for bits in every)
    assert (c * 4.0**-found).sum() == pytest.approx(best)
    with pytest.raises(ValueError, match="outside"):
        allocate_bits(c, 9.0, highest=8)


def test_iso_loss_contours_reach_the_loss():
    law, params = laws.get("chinchilla"), laws.published("besiroglu2024").params
    D = np.array([1e10, 1e12, 1e8])
    sizes = solve_for(law, params, 2.2, "N", {"D": D})
    exact = [chinchilla.size_for_loss(params, 2.2, d) for d in D]
    np.testing.assert_allclose(sizes[1], exact[1], rtol=1e-9)
    assert np.isinf(sizes[2])
    assert np.isinf(exact[2])
    data = chinchilla.data_for_loss(params, 2.2, sizes[1])
    assert data == pytest.approx(D[1], rel=1e-9)
