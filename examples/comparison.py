"""The table, the CSV file and the picture of a set of runs that differ in their recipe."""

import argparse
import math
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from qjax import train

NATS_PER_BIT = math.log(2.0)


def rows_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per run: names, losses in nats per byte, gaps to the first run, speeds."""
    base = runs[0]["result"]
    rows = []
    for run in runs:
        result = run["result"]
        last = result.evaluations[-1]
        difference, error = train.gap(last, base.evaluations[-1])
        rows.append(
            {
                **train.facts(run["recipe"]),
                "loss": last.loss,
                "loss_se": last.standard_error,
                "bits_per_byte": last.loss / NATS_PER_BIT,
                "gap": difference,
                "gap_se": error,
                "bytes_per_second": result.per_second,
                "time_ratio": base.per_second / result.per_second,
            }
        )
    return rows


def print_table(runs: list[dict[str, Any]]) -> None:
    """Prints the comparison; gaps and ratios are to the first run."""
    table = Table(title="held-out loss, same seed and batches")
    heads = ("recipe", "bits per operand", "nats/byte", "bits/byte", "gap to float32", "bytes/s")
    for head in (*heads, "time ratio"):
        table.add_column(head, justify="left" if head == "recipe" else "right")
    for i, row in enumerate(rows_of(runs)):
        percent = 100 * row["gap"] / (row["loss"] - row["gap"])
        gap = f"{row['gap']:+.4f} ± {row['gap_se']:.4f} ({percent:+.2f} %)" if i else "-"
        table.add_row(
            row["recipe"],
            row["bits"],
            f"{row['loss']:.4f}",
            f"{row['bits_per_byte']:.4f}",
            gap,
            f"{row['bytes_per_second']:,.0f}",
            f"{row['time_ratio']:.2f}",
        )
    # Piped output has no terminal to measure; 120 columns hold the whole table.
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def print_casts(runs: list[dict[str, Any]], count: int = 5) -> None:
    """Prints, for every run with diagnostics, the operands that lost most in its last tenth."""
    table = Table(title="casts with the most noise, mean over the last tenth of the steps")
    for head in ("recipe", "operand", "SQNR (dB)", "saturated", "underflowed"):
        table.add_column(head, justify="left" if head in ("recipe", "operand") else "right")
    for run in runs:
        for name, sqnr, *shares in noisiest(run["result"].history)[:count]:
            table.add_row(run["name"], name, f"{sqnr:.1f}", *(f"{share:.2%}" for share in shares))
    if table.row_count:
        Console(width=120).print(table)


def noisiest(history: Mapping[str, np.ndarray]) -> list[tuple[str, float, float, float]]:
    """Operands, their SQNR in decibels, and the shares saturated and underflowed, worst first."""
    found = []
    for name in history:
        kind, _, operand = name.partition("/")
        if kind == "sqnr":
            kinds = (f"{kind}/{operand}" for kind in ("sqnr", "saturated", "underflowed"))
            last = [history[key][-max(len(history[key]) // 10, 1) :] for key in kinds]
            # Where an operand was not met, or nothing was lost, there is no number.
            found.append((operand, *(float(np.mean(v[np.isfinite(v)])) for v in last)))
    return sorted(found, key=lambda row: row[1])


def write_csv(runs: list[dict[str, Any]], options: argparse.Namespace, path: pathlib.Path) -> None:
    """Writes one row per run, under names that the `scaling` tool reads; whole or not at all.

    `N` counts parameters without embeddings, `D` trained bytes; `loss` is in nats per byte.
    """
    rows = [
        {
            **row,
            "N": run["non_embedding"],
            "N_total": run["parameters"],
            "D": run["trained_bytes"],
            "seed": options.seed,
            "steps": options.steps,
            "batch": options.batch,
            "length": options.length,
            "learning_rate": options.learning_rate,
            "final": True,
            "device": jax.devices()[0].device_kind,
            "python": platform.python_version(),
            **train.versions(),
        }
        for run, row in zip(runs, rows_of(runs))
    ]
    train.write_table(rows, path)


def draw(runs: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws training losses and, beside them, their differences to the first run."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    base = smooth(runs[0]["result"].history["loss"])
    for i, run in enumerate(runs):
        losses = smooth(run["result"].history["loss"])
        steps = np.arange(1, len(losses) + 1)
        held_out = run["result"].evaluations[-1]
        label = f"{run['name']} (held out {held_out.loss:.4f})"
        left.plot(steps, losses, color=f"C{i}", label=label, linewidth=1.2)
        if i:
            right.plot(steps, losses - base, color=f"C{i}", label=run["name"], linewidth=1.2)
    left.set(xlabel="step", ylabel="training loss (nats/byte)", title="Loss")
    left.legend()
    right.axhline(0, color="C0", linewidth=0.8)
    right.set(xlabel="step", ylabel="difference (nats/byte)", title="Difference to float32")
    if len(runs) > 1:
        right.legend()
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=120, format="png")
    partial.replace(path)
    plt.close(figure)


def smooth(losses: np.ndarray, window: int = 20) -> np.ndarray:
    """Mean of each value and the up to `window - 1` before it."""
    total = np.concatenate([[0.0], np.cumsum(losses)])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)
