"""One look for all pictures: legible in print, told apart by line and marker before color.

Colors run from dark to light, so that they stay ordered when the page is gray; every series has its
own dashes and marker too. Figures are made without ``pyplot``: nothing global is touched.
"""

from typing import Any

import numpy as np

#: Dark to light (luminance rises), chosen to differ in hue for those who see it.
COLORS = ("#000000", "#3b1f7a", "#a3195b", "#1f6f8b", "#74882a", "#d1603d", "#8c8c8c", "#c9a227")
DASHES = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (10, 3)),
    (0, (1, 1)),
    (0, (3, 1, 1, 1)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
#: Series drawn one by one before the rest is left out of a picture.
MOST = len(COLORS)


def series(index: int) -> dict[str, Any]:
    """Returns color, dashes and marker of the series number ``index``."""
    i = index % MOST
    return {"color": COLORS[i], "linestyle": DASHES[i], "marker": MARKERS[i]}


def line(index: int) -> dict[str, Any]:
    """Returns the style of a curve."""
    return {k: v for k, v in series(index).items() if k != "marker"} | {"linewidth": 1.6}


def dots(index: int) -> dict[str, Any]:
    """Returns the style of measured points: hollow markers, so that overlaps stay visible."""
    style = series(index)
    return {
        "linestyle": "none",
        "marker": style["marker"],
        "markeredgecolor": style["color"],
        "markerfacecolor": "none",
        "markersize": 5,
    }


def with_dots(index: int) -> dict[str, Any]:
    """Returns the style of a curve whose legend shows the marker of its measured points too."""
    # No marker falls on the curve itself; the legend draws one.
    return dots(index) | line(index) | {"markevery": []}


def figure(rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.4) -> Any:
    """Returns a new figure and its axes (rows, columns) as an array.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "Pictures need matplotlib; install the extra: pip install 'qjax[plots]'."
        ) from None
    made = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9)
        ax.grid(True, which="major", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
    return made, axes


def log_axis(axis: Any, low: float, high: float) -> None:
    """Makes an x or y axis logarithmic; a short one gets its numbers written out as 2.5B, 600M."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    decades = np.log10(high / low)
    marks = (1.0,) if decades > 4 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 3.0, 5.0)
    axis.set_major_locator(LogLocator(subs=marks, numticks=20))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def powers_of_ten(ax: Any) -> None:
    """Makes the x axis of a small picture logarithmic, with a few powers of ten written out."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(numticks=5))
    ax.xaxis.set_minor_formatter(NullFormatter())


#: Units of predictors, for labels of axes.
_UNITS = {
    "N": "parameters",
    "D": "tokens",
    "C": "FLOP",
    "B": "elements per scale",
    "S": "share of zeros",
    "E": "exponent bits",
    "M": "mantissa bits",
}


def named(predictor: str) -> str:
    """Returns a predictor with its unit: N (parameters), P_w (bits)."""
    unit = "bits" if predictor.partition("_")[0] == "P" else _UNITS.get(predictor)
    return predictor if unit is None else f"{predictor} ({unit})"


def short(value: float) -> str:
    """Returns a count for an axis: 30M, 1B, 2.5T; powers of ten beyond."""
    if value <= 0 or not np.isfinite(value):
        return ""
    if value >= 0.9995e16:
        exponent = int(np.floor(np.log10(value) + 1e-9))
        lead = value / 10.0**exponent
        return (
            rf"$10^{{{exponent}}}$"
            if round(lead, 2) == 1
            else rf"${lead:.2g}\cdot10^{{{exponent}}}$"
        )
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def legend(ax: Any, count: int, **options: Any) -> None:
    """Draws a legend: inside for a few series, beside the axes for many."""
    if count == 0:
        return
    places = {} if count <= 4 else {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    ax.legend(fontsize=8, frameon=False, handlelength=3.2, **(places | options))


def shade(ax: Any, x: Any, low: Any, high: Any) -> None:
    """Draws an interval as a gray band with thin edges, which survive a photocopy."""
    ax.fill_between(x, low, high, color="0.85", linewidth=0)
    ax.plot(x, low, color="0.5", linewidth=0.6)
    ax.plot(x, high, color="0.5", linewidth=0.6)
