"""The picture of a sweep: held-out loss against bits per element, one column per model size.

In the upper row all operands are quantized, with a scale for every 32 elements; in the lower one
gradients alone, with one scale for a tensor. Nearest rounding is filled and solid, stochastic
rounding hollow and dashed, so that no color is needed.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

SERIES = {
    # (recipe, integers): label, color, marker, shift of its points along the axis
    ("nearest", False): ("float", "#0b3c6f", "o", -0.05),
    ("nearest", True): ("integer", "#d55e00", "^", -0.15),
    ("stochastic", False): ("float, stochastic gradients", "#0b3c6f", "o", 0.05),
    ("stochastic", True): ("integer, stochastic gradients", "#d55e00", "^", 0.15),
    ("head too", False): ("float, logits quantized too", "0.45", "D", 0.25),
}
ROWS = {"": "all operands, a scale per 32", "gradients": "gradients alone, a scale per tensor"}
HALO = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}  # Behind labels.


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


def of_scale(points: Mapping[tuple, Any], prefix: str) -> dict[tuple, Any]:
    """The points of one row of panels, under the names of `SERIES`; float32 is in both."""
    found = {key: value for key, value in points.items() if key[0] == "float32"}
    for (name, *rest), value in points.items():
        if name.startswith("gradients") == bool(prefix) and name != "float32":
            plain = name.removeprefix(prefix).removeprefix(", ") or "nearest"
            found[plain, *rest] = value
    return found


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the rows of a sweep; float32 is the dotted line."""
    import matplotlib.pyplot as plt

    sizes = sorted({row["N"] for row in rows})
    points = {size: over_seeds(row for row in rows if row["N"] == size) for size in sizes}
    prefixes = [p for p in ROWS if any(len(of_scale(points[size], p)) > 1 for size in sizes)]
    prefixes = prefixes or [""]
    shape = (len(prefixes), len(sizes))
    figure, panels = plt.subplots(
        *shape, figsize=(5.5 * shape[1], 4.2 * shape[0]), layout="constrained", squeeze=False
    )
    for row, prefix in zip(panels, prefixes):
        for panel, size in zip(row, sizes):
            draw_panel(panel, of_scale(points[size], prefix))
            panel.set_title(f"N = {size:,} without embeddings, {ROWS[prefix]}", fontsize=9)
        row[-1].legend(fontsize=7)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(path)
    plt.close(figure)


def draw_panel(panel: Any, points: dict[tuple, tuple[float, float, float]]) -> None:
    """Draws one panel: a series for each kind of recipe, its best formats joined."""
    base = next(value for key, value in points.items() if key[0] == "float32")
    panel.axhline(base[1], color="0.4", linestyle=":", linewidth=1.2, label="float32")
    panel.axhspan(base[1] - base[2], base[1] + base[2], color="0.4", alpha=0.15)
    usual = [loss for key, (_, loss, _) in points.items() if key[0] != "head too"]
    span = max(max(usual) - min(usual), 1e-3)
    top = max(usual) + 0.25 * span
    panel.set_ylim(min(usual) - 0.1 * span, top)
    for (name, integer), (label, color, marker, shift) in SERIES.items():
        chosen = {key: value for key, value in points.items() if key[:2] == (name, integer)}
        if not chosen:
            continue
        hollow = name == "stochastic"
        bits, losses, errors = np.asarray(list(chosen.values())).T
        panel.errorbar(bits + shift, losses, errors, fmt=marker, color=color, label=label,
                       markerfacecolor="white" if hollow else color, markersize=5, capsize=2,
                       linewidth=0.9)  # fmt: skip
        best = {width: losses[bits == width].min() for width in sorted(set(bits))}
        panel.plot(np.array(list(best)) + shift, list(best.values()), color=color, linewidth=0.9,
                   linestyle="--" if hollow else "-")  # fmt: skip
        if name != "stochastic" and not integer:
            name_splits(panel, chosen, top, span, shift, color)
    panel.set_xlim(2.4, 8.4)
    panel.set(xlabel="bits per element (without scales)", ylabel="held-out nats/byte")


def name_splits(
    panel: Any, chosen: Mapping[tuple, tuple], top: float, span: float, shift: float, color: str
) -> None:
    """Writes E?M? beside the points of floats, moved apart; arrows point above the panel."""
    left, higher = shift < 0, 0
    heights: dict[float, float] = {}
    for (_, _, e, m), (width, loss, _) in sorted(chosen.items(), key=lambda item: item[1][1]):
        text, place = f"E{e}M{m}", max(loss, heights.get(width, -np.inf) + 0.055 * span)
        if loss > top:
            text, place = f"{text}: {loss:.2f} ↑", top - (0.04 + 0.06 * higher) * span
            higher += 1
        else:
            heights[width] = place
        side = {"ha": "right" if left else "left", "va": "center", "color": color, "bbox": HALO}
        panel.text(width + shift + (-0.14 if left else 0.1), place, text, fontsize=6.5, **side)
