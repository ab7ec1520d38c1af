"""The picture of a run, drawn from its metrics file. Comparisons of runs are the caller's."""

import os
import pathlib
from typing import Any

from qjax.train.metrics import read_metrics


def plot_run(
    metrics: str | os.PathLike[str], path: str | os.PathLike[str], *, title: str = ""
) -> None:
    """Draws a metrics file: training and held-out loss above, the gradient norm below.

    Args:
      metrics: A file that `MetricsFile` wrote.
      path: The picture, `.png`, `.svg` or `.pdf`; replaced whole.
      title: Above the picture.

    Raises:
      ValueError: If the file holds no step.
    """
    rows: list[dict[str, Any]] = read_metrics(metrics)
    steps = [row for row in rows if "loss" in row]
    if not steps:
        raise ValueError(
            f"`metrics` is {metrics}, which holds no step. Give the file of a run that took one."
        )
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(7, 5), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    taken = [row["step"] for row in steps]
    top.plot(taken, [float(row["loss"]) for row in steps], linewidth=0.8, label="training")
    held = [(row["step"], float(row["held_out_loss"])) for row in rows if "held_out_loss" in row]
    if held:
        top.plot(*zip(*held), "o-", markersize=3, linewidth=0.8, label="held out")
    top.set(ylabel="loss", title=title)
    top.legend()
    bottom.semilogy(taken, [float(row.get("grad_norm", "nan")) for row in steps], linewidth=0.8)
    bottom.set(xlabel="step", ylabel="gradient norm")
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=120, format=path.suffix.removeprefix(".") or "png")
    partial.replace(path)
    plt.close(figure)
