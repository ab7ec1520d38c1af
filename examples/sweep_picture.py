"""The picture of a sweep: held-out loss against bits per element, one panel per model size."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

SERIES = {
    # (recipe, integers): label, color, marker, shift of its points along the axis
    ("nearest", False): ("float", "C0", "o", -0.06),
    ("stochastic", False): ("float, stochastic gradients", "C1", "s", 0.06),
    ("nearest", True): ("integer", "C2", "^", -0.12),
    ("stochastic", True): ("integer, stochastic gradients", "C3", "v", 0.12),
    ("head too", False): ("float, logits quantized too", "C4", "D", 0.18),
}


def over_seeds(rows: Iterable[Mapping[str, Any]]) -> dict[tuple, tuple[float, float, float]]:
    """Bits, mean loss and its standard error over seeds, by (recipe, integers, E, M)."""
    losses: dict[tuple, list[tuple[float, float]]] = {}
    for row in rows:
        if row["status"] == "ok":
            key = (row["recipe"], row["format"].startswith("int"), row["E"], row["M"])
            losses.setdefault(key, []).append((1 + row["E"] + row["M"], row["loss"]))
    found = {}
    for key, pairs in losses.items():
        bits, values = np.asarray(pairs, np.float64).T
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        found[key] = (float(bits[0]), float(values.mean()), float(error))
    return found


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the rows of a sweep; float32 is the dashed line."""
    import matplotlib.pyplot as plt

    sizes = sorted({row["N"] for row in rows})
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(5.5 * len(sizes), 4.5), layout="constrained", squeeze=False
    )
    for panel, size in zip(panels[0], sizes):
        draw_size(panel, over_seeds(row for row in rows if row["N"] == size))
        panel.set_title(f"N = {size:,} without embeddings", fontsize=10)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=130, format="png")
    partial.replace(path)
    plt.close(figure)


def draw_size(panel: Any, points: dict[tuple, tuple[float, float, float]]) -> None:
    """Draws one model size: a series for each kind of recipe, its best splits joined."""
    base = next(value for key, value in points.items() if key[0] == "float32")
    panel.axhline(base[1], color="0.4", linestyle="--", linewidth=1, label="float32")
    panel.axhspan(base[1] - base[2], base[1] + base[2], color="0.4", alpha=0.15)
    usual = [loss for key, (_, loss, _) in points.items() if key[0] != "head too"]
    top = max(usual) + 0.6 * (max(usual) - min(usual))
    panel.set_ylim(min(usual) - 0.15 * (max(usual) - min(usual)), top)
    for (name, integer), (label, color, marker, shift) in SERIES.items():
        chosen = {key: value for key, value in points.items() if key[:2] == (name, integer)}
        if not chosen:
            continue
        bits, losses, errors = np.asarray(list(chosen.values())).T
        panel.errorbar(bits + shift, losses, errors, fmt=marker, color=color, label=label,
                       markersize=4, capsize=2, linewidth=1)  # fmt: skip
        best = {width: losses[bits == width].min() for width in sorted(set(bits))}
        panel.plot(np.array(list(best)) + shift, list(best.values()), color=color, linewidth=0.8)
        for (_, _, e, m), (width, loss, _) in chosen.items():
            if loss > top:
                text = f"E{e}M{m}: {loss:.2f} ↑"
                panel.text(width + shift + 0.1, top, text, fontsize=6, color=color, va="top")
            elif name == "nearest" and not integer:
                panel.text(width + shift - 0.1, loss, f"E{e}M{m}", fontsize=6, ha="right")
    panel.set(xlabel="bits per element (without scales)", ylabel="held-out nats/byte")
    panel.legend(fontsize=7)
