"""A format told to a person: a table of its facts, and a picture of its number line."""

from typing import Any

import numpy as np

from qjax.formats._base import Format
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
        if len(positive) > 1:
            rows.append(("decades", f"{np.log10(positive[-1] / positive[0]):.2f}"))
        if len(values) <= 16 or (isinstance(format, Codebook) and len(values) <= 32):
            rows.append(("values", " ".join(f"{value:.4g}" for value in values)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def plot(format: Format | str, axes: Any = None) -> Any:
    """Draws the number line of a format and returns the matplotlib axes.

    Values are ticks on a line; above them, the distance to the next value. Needs the `plots` extra.

    Args:
      format: A format of at most 16 bits, or a name.
      axes: Matplotlib axes to draw into; new ones by default.
    """
    import matplotlib.pyplot as plt

    format = parse(format) if isinstance(format, str) else format
    values = format.values()
    if axes is None:
        _, axes = plt.subplots(figsize=(8, 2.5), layout="constrained")
    axes.vlines(values, 0, -0.2 * np.diff(values).max(), linewidth=0.8)
    axes.step(values[:-1], np.diff(values), where="post")
    axes.set_xlabel("value")
    axes.set_ylabel("distance to the next")
    axes.set_title(f"{format.name}: {len(values)} values in {format.width} bits")
    return axes
