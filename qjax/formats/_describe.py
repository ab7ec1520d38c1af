"""A format told to a person: a table of its facts, and a picture of its number line."""

from typing import Any

import numpy as np

from qjax.formats._base import Format
from qjax.formats._blank import Blank
from qjax.formats._catalogue import parse
from qjax.formats._codebook import Codebook
from qjax.formats._float import Float


def describe(format: Format | str) -> str:
    """Returns a table of what a format holds, as text.

    Args:
      format: A format with static bits, or a name.
    """
    format = parse(format) if isinstance(format, str) else format
    rows: list[tuple[str, Any]] = [("name", format.name), ("bits", format.width)]
    if format.tile_bits:
        rows.append(("bits of a tile", format.tile_bits))
    if isinstance(format, Blank):
        return _table([*rows, ("values of", format.compute.name), ("tables", "not filled in")])
    if isinstance(format, Float):
        sign = "1" if format.signed else "0"
        rows.append(
            ("sign.exponent.mantissa", f"{sign}.{format.exponent_bits}.{format.mantissa_bits}")
        )
        rows.append(("family, bias", f"{format.family}, {format.bias}"))
    rows.append(("largest", f"{format.max:.9g}"))
    if isinstance(format, Float):
        rows.append(("smallest normal", f"{format.smallest_normal:.9g}"))
        rows.append(("smallest", f"{format.smallest_subnormal:.9g}"))
    if format.dtype is not None:
        rows.append(("dtype", np.dtype(format.dtype).name))
    if format.width <= 16:
        values = format.values()
        rows.append(("finite values", len(values)))
        positive = values[values > 0]
        if len(positive) > 1 and not np.iscomplexobj(values):
            rows.append(("decades", f"{np.log10(positive[-1] / positive[0]):.2f}"))
        if len(values) <= 16 or (isinstance(format, Codebook) and len(values) <= 32):
            rows.append(("values", " ".join(f"{value:.4g}" for value in values)))
    return _table(rows)


def _table(rows: list[tuple[str, Any]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def plot(format: Format | str, axes: Any = None) -> Any:
    """Draws the number line of a format and returns the matplotlib axes.

    Values are ticks on a line; above them, the distance to the next value. Positive values over six
    decades or more have logarithmic axes, complex ones their plane. Needs the `plots` extra.

    Args:
      format: A format of at most 16 bits, or a name.
      axes: Matplotlib axes to draw into; new ones by default.
    """
    import matplotlib.pyplot as plt

    format = parse(format) if isinstance(format, str) else format
    values = format.values()
    if axes is None:
        _, axes = plt.subplots(figsize=(8, 2.5), layout="constrained")
    axes.set_title(f"{format.name}: {len(values)} values in {format.width} bits")
    if np.iscomplexobj(values):
        axes.scatter(np.real(values), np.imag(values))
        axes.set(xlabel="real part", ylabel="imaginary part", aspect="equal")
        return axes
    gaps = np.diff(values)
    wide = values[0] > 0 and values[-1] > 1e6 * values[0]
    bottom, end = -0.2 * gaps.max(), 0.0
    if wide:  # a seventh of the height below the smallest distance
        span = gaps.max() / gaps.min()
        bottom, end = gaps.min() * span**-0.15, gaps.min() * span**-0.01
    axes.vlines(values, bottom, end, linewidth=0.8)
    axes.step(values, [*gaps, gaps[-1]], where="post")
    if wide:
        axes.set(xscale="log", yscale="log")
    axes.set_yticks([tick for tick in axes.get_yticks() if tick >= 0])
    axes.set_ylim(bottom=bottom)
    axes.set(xlabel="value", ylabel="distance to the next")
    return axes
