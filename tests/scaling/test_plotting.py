"""Pictures: every kind is drawn from a fit, shows what it should, and needs no color."""

import subprocess
import sys

import numpy as np
import pytest

from scaling import fit, laws
from scaling.simulate import simulate

pytest.importorskip("matplotlib", reason="pictures need the plots extra")

from scaling.plotting import KINDS, plot, style


@pytest.fixture(scope="module")
def sun_fit():
    table = simulate("sun_fp", noise=0.003)
    return fit(table.take(np.arange(0, len(table), 3)), "sun_fp")


@pytest.fixture(scope="module")
def quest_like():
    return fit(simulate("decoupled_eff", noise=0.002), "decoupled_eff")


@pytest.fixture(scope="module")
def chinchilla_fit():
    return fit(simulate("chinchilla", noise=0.003), "chinchilla")


OPTIONS = {
    "iso-loss": {"held": {"B": 128}},
    "capacity": {"held": {"B": 128}},
    "precision-vs-compute": {"held": {"B": 128}, "draws": 8, "compute": [1e19, 1e21, 1e23]},
}


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "profile"])
def test_every_kind_is_drawn_for_a_law_of_precision(kind, sun_fit, tmp_path):
    path = tmp_path / "picture.png"
    figure = plot(sun_fit, kind, path, **OPTIONS.get(kind, {}))
    assert path.read_bytes().startswith(b"\x89PNG")
    for ax in figure.axes:
        assert ax.get_xlabel()
    assert any(ax.lines or ax.collections for ax in figure.axes)


@pytest.mark.parametrize("kind", ["pareto", "residuals", "isoflop", "data", "capacity"])
def test_laws_of_labels_are_drawn(kind, quest_like):
    plot(quest_like, kind)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures_are_written_in_three_kinds_of_files(suffix, chinchilla_fit, tmp_path):
    path = tmp_path / f"iso.{suffix}"
    plot(chinchilla_fit, "iso-loss", path)
    assert path.stat().st_size > 1000
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_profiles_cross_their_threshold_at_the_interval(chinchilla_fit):
    figure = plot(chinchilla_fit, "profile", names=("alpha", "E"))
    curve, threshold, _ = figure.axes[0].lines
    low, high = chinchilla_fit.ci(method="profile")["alpha"]
    x, y = curve.get_data()
    np.testing.assert_allclose(np.interp(low, x, y), threshold.get_ydata()[0], rtol=0.02)
    np.testing.assert_allclose(np.interp(high, x, y), threshold.get_ydata()[0], rtol=0.02)


def test_held_out_rows_are_stars(chinchilla_fit):
    table = chinchilla_fit.problem.ds
    big = table["N"] > 1e10
    figure = plot(fit(table.take(~big), "chinchilla"), "extrapolation", held_out=table.take(big))
    stars = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert len(stars[0].get_xdata()) == big.sum()


def test_the_isoflop_path_goes_through_the_closed_optimum(chinchilla_fit):
    from scaling.closed import chinchilla

    budgets = [1e20, 1e21, 1e22]
    figure = plot(chinchilla_fit, "isoflop", compute=budgets)
    path = next(line for line in figure.axes[0].lines if line.get_marker() == "*")
    sizes = [chinchilla.optimal_size(chinchilla_fit.params, c) for c in budgets]
    np.testing.assert_allclose(path.get_xdata(), sizes, rtol=1e-5)


def test_the_pareto_front_never_rises_and_lies_below_every_curve(quest_like):
    ax = plot(quest_like, "pareto").axes[0]
    front = next(line for line in ax.lines if line.get_linewidth() == 7)
    x, y = front.get_data()
    assert (np.diff(y[np.isfinite(y)]) <= 0).all()
    for line in ax.lines:
        if line is not front and line.get_marker() == "None":
            below = np.interp(*[np.log(v) for v in (line.get_xdata(), x)], y)
            assert (below <= line.get_ydata() + 1e-3).all()


def test_effective_sizes_are_the_laws_own(quest_like):
    ax = plot(quest_like, "capacity").axes[0]
    bits, share = ax.lines[0].get_data()
    for width, name in ((2, "INT2"), (4, "INT4"), (8, "INT8"), (16, "BF16")):
        wanted = quest_like.params[f"eff_{name}"]
        assert share[list(bits).index(width)] == pytest.approx(wanted, rel=1e-6)


def test_critical_data_are_marked_where_the_closed_form_is():
    from scaling.closed import sun

    constants = laws.published("sun2025")
    ax = plot(constants, "data", formats=["E4M3@128"], N=1e9).axes[0]
    star = next(line for line in ax.lines if line.get_marker() == "*")
    crit = sun.critical_data(constants.params, 1e9, 4, 3, 128)
    assert star.get_xdata()[0] == pytest.approx(crit, rel=1e-5)


def test_series_differ_without_color_and_darken_in_order():
    from matplotlib.colors import to_rgb

    looks = [(str(s["linestyle"]), s["marker"]) for s in map(style.series, range(style.MOST))]
    assert len({dashes for dashes, _ in looks}) == len({m for _, m in looks}) == style.MOST
    gray = [np.dot(to_rgb(c), (0.299, 0.587, 0.114)) for c in style.COLORS]
    assert gray == sorted(gray)
    assert max(gray) < 0.72  # still dark enough on white paper


@pytest.mark.parametrize(
    ("value", "text"),
    [(3e7, "30M"), (999_999_999, "1B"), (2.5e12, "2.5T"), (1e21, "$10^{21}$"), (7, "7")],
)
def test_axes_write_counts_short(value, text):
    assert style.short(value) == text


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("parreto", {}, "did you mean 'pareto'"),
        ("residuals", {"color": 1}, "takes no options"),
        ("iso-loss", {"x": "P"}, "x must be 'N' or 'D'"),
        ("precision-vs-compute", {}, "no precision"),
        ("pareto", {"formats": ["FP9"]}, "not understood"),
    ],
)
def test_what_cannot_be_drawn_is_said(kind, options, words, chinchilla_fit):
    with pytest.raises(ValueError, match=words):
        plot(chinchilla_fit, kind, **options)


def test_an_unknown_suffix_is_refused_before_drawing(chinchilla_fit, tmp_path):
    with pytest.raises(ValueError, match="png"):
        plot(chinchilla_fit, "iso-loss", tmp_path / "picture.bmp")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named():
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None\n"
        "from scaling import laws\nfrom scaling.plotting import plot\n"
        "plot(laws.published('sun2025'), 'data')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: Pictures need matplotlib" in out.stderr
    assert "qjax[plots]" in out.stderr
