"""Pictures over bits: contours of equal loss, loss against total bits, effective size by format."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling.closed.isoloss import solve_for
from scaling.fitting.result import FitResult
from scaling.laws.published import Published
from scaling.planning.candidates import Candidate, candidates
from scaling.planning.choices import spoken
from scaling.planning.precision import points_at_bits
from scaling.plotting import style

_BITS = np.linspace(2, 16, 113)


def span(fit: FitResult | Published, name: str) -> tuple[float, float]:
    """Returns the range of N or D over the fitted rows, or a usual one for published constants."""
    if isinstance(fit, Published):
        return (3e7, 1e10) if name == "N" else (1e9, 1e12)
    column = np.asarray(fit.problem.coords.x[name], float)
    return float(column.min()), float(column.max())


def _middle(fit: FitResult | Published, name: str) -> float:
    low, high = span(fit, name)
    return float(np.sqrt(low * high))


def iso_loss(
    fit: FitResult | Published,
    x: str = "N",
    held: Mapping[str, Any] | None = None,
    levels: int = 10,
) -> Any:
    """Draws contours of equal loss over (N, bits) or (D, bits); over (N, D) for laws without bits.

    Args:
        fit: a law of N and D.
        x: "N" or "D", along the horizontal axis; the other is held at its geometric middle unless
            ``held`` says otherwise.
        held: predictors that keep one value.
        levels: how many contours.

    Raises:
        ValueError: x is neither, or the law leaves a predictor open.
    """
    if x not in ("N", "D"):
        raise ValueError(f"x must be 'N' or 'D', got {x!r}.")
    held = dict(held or {})
    others = [p for p in fit.law.predictors if p not in ("N", "D", *held)]
    other = "D" if x == "N" else "N"
    if others:
        points, vertical, fixed = _over_bits(fit, x, other, held)
        where, label = f" at {other} = {style.short(fixed)}", "precision (bits)"
    else:
        across, vertical = np.meshgrid(*(np.geomspace(*span(fit, n), 97) for n in (x, other)))
        points = {x: across, other: vertical, **held}
        where, label = "", style.named(other)
    loss = np.asarray(fit.law.predict(fit.params, points))
    made, axes = style.figure(width=6.2)
    ax = axes[0, 0]
    drawn = _levels(loss, levels)
    shown = ax.contour(points[x], vertical, loss, levels=drawn, colors="black", linewidths=1.0)
    ax.clabel(shown, fontsize=7, fmt="%.4g")
    style.log_axis(ax.xaxis, *span(fit, x))
    if not others:
        style.log_axis(ax.yaxis, *span(fit, other))
    ax.set(xlabel=style.named(x), ylabel=label)
    ax.set_title(f"{fit.law.name}: loss (nats/token){where}", fontsize=10)
    return made


def _levels(loss: np.ndarray, count: int) -> np.ndarray:
    """Returns contour values (count,), evenly spread over the area rather than over the values."""
    inside = loss[np.isfinite(loss)]
    values = np.unique(np.quantile(inside, np.linspace(0.04, 0.96, count)).round(4))
    return values if len(values) > 1 else np.linspace(inside.min(), inside.max() + 1e-9, 3)


def _over_bits(
    fit: FitResult | Published, x: str, other: str, held: dict[str, Any]
) -> tuple[dict[str, Any], np.ndarray, float]:
    """Returns points over (x, bits), the bits of each, and the value that the other keeps."""
    rest = {k: v for k, v in held.items() if k not in ("N", "D")}
    at = points_at_bits(fit.law, rest)
    across, bits = np.meshgrid(np.geomspace(*span(fit, x), 97), _BITS)
    fixed = float(held.get(other, _middle(fit, other)))
    further = at(fit.law.complete(fit.params), bits)
    return {x: across, other: np.full_like(across, fixed), **further}, bits, fixed


def pareto(
    fit: FitResult | Published,
    formats: Iterable[str] | None = None,
    D: float | None = None,
    held: Mapping[str, Any] | None = None,
) -> Any:
    """Draws loss against the bits of all parameters, one curve per format, with the best of all.

    Args:
        fit: a law of N and D.
        formats: formats to draw; those of a plan by default.
        D: tokens; those of most fitted rows by default, whose losses are drawn as points.
        held: predictors that keep one value.
    """
    known = [c for c in candidates(fit.law, formats, held) if c.stored is not None]
    if not known:
        raise ValueError("None of the formats has known bits; a picture over bits cannot show it.")
    chosen = sorted(known, key=lambda c: c.stored or 0.0)[: style.MOST]
    D = _usual_data(fit) if D is None else float(D)
    low, high = span(fit, "N")
    stored = [c.stored or 0.0 for c in chosen]
    bits = np.geomspace(low * min(stored), high * max(stored), 241)
    made, axes = style.figure(width=6.8)
    ax = axes[0, 0]
    front, lowest = np.full(len(bits), np.inf), np.inf
    for i, candidate in enumerate(chosen):
        N = bits / stored[i]
        loss = fit.law.predict(fit.params, {"N": N, "D": np.full_like(N, D), **candidate.point})
        inside = (low <= N) & (high >= N)
        front = np.minimum(front, np.where(inside, loss, np.inf))
        n, y = runs_of(fit, candidate, D)
        look = style.with_dots(i) if len(n) else style.line(i)
        ax.plot(bits[inside], loss[inside], label=spoken(candidate.name), zorder=3, **look)
        ax.plot(n * stored[i], y, zorder=4, **style.dots(i))
        lowest = min([lowest, *y])
    front = np.minimum.accumulate(front)
    ax.plot(bits, np.where(np.isfinite(front), front, np.nan), color="0.78", linewidth=7,
            zorder=1, label="best for the bits", solid_capstyle="butt")  # fmt: skip
    shown, height = front[np.isfinite(front)], np.ptp(front[np.isfinite(front)])
    ax.set_ylim(min(shown.min(), lowest) - 0.05 * height, shown.max() + 0.3 * height)
    style.log_axis(ax.xaxis, bits.min(), bits.max())
    ax.set(xlabel="bits of all parameters", ylabel="loss (nats/token)")
    ax.set_title(f"{fit.law.name} at D = {style.short(D)} tokens", fontsize=10)
    style.legend(ax, len(chosen) + 1)
    return made


def _usual_data(fit: FitResult | Published) -> float:
    """Returns the D of most fitted rows, the largest of equals."""
    if isinstance(fit, Published):
        return _middle(fit, "D")
    values, counts = np.unique(np.asarray(fit.problem.coords.x["D"], float), return_counts=True)
    return float(values[::-1][np.argmax(counts[::-1])])


def runs_of(
    fit: FitResult | Published, candidate: Candidate, D: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns sizes and losses (m,) of the fitted rows of one format at about D tokens."""
    if isinstance(fit, Published):
        return np.empty(0), np.empty(0)
    x = fit.problem.coords.x
    here = np.isclose(np.asarray(x["D"], float), D, rtol=0.05)
    for name, value in candidate.point.items():
        column = np.asarray(x[name])
        wanted = value[0] if isinstance(value, list) else value
        here &= column == wanted if column.dtype.kind in "OU" else np.isclose(column, wanted)
    return np.asarray(x["N"], float)[here], fit.problem.coords.y[here]


def capacity(
    fits: Sequence[FitResult | Published],
    N: float | None = None,
    D: float | None = None,
    held: Mapping[str, Any] | None = None,
) -> Any:
    """Draws the effective size N_eff / N against bits for several laws.

    N_eff is the size at which the law's best precision reaches the same loss: one definition for
    all laws, whatever they call it. Laws of labels appear as points.

    Args:
        fits: laws with their parameters.
        N: parameters at which laws are compared that depend on them; the middle by default.
        D: tokens, likewise.
        held: predictors that keep one value, where a law reads them.
    """
    made, axes = style.figure(width=6.4)
    ax, named = axes[0, 0], []
    for i, fit in enumerate(fits):
        own = {k: v for k, v in (held or {}).items() if k in fit.law.predictors}
        n = _middle(fit, "N") if N is None else N
        d = _middle(fit, "D") if D is None else D
        label = fit.law.name
        if "fmt" in fit.law.predictors or "GMSE" in fit.law.predictors:
            known = [c for c in candidates(fit.law, None, own) if c.bits is not None]
            shown = [c for c in known if (c.bits or 0.0) <= _BITS[-1]]
            points = [(c.element, c.bits or 0.0, _share(fit, n, d, c, known)) for c in shown]
            ax.plot([p[1] for p in points], [p[2] for p in points], label=label, **style.dots(i))
            named += points
        else:
            bits, share = _curve(fit, n, d, own)
            ax.plot(bits, share, label=label, **style.line(i))
    _name_points(ax, named)
    ax.axhline(1, color="0.4", linewidth=0.8)
    ax.set_ylim(0, 1.12)
    ax.set(xlabel="bits", ylabel="effective size N_eff / N")
    ax.set_title("What a format leaves of the parameters", fontsize=10)
    style.legend(ax, len(fits))
    return made


def _name_points(ax: Any, points: Sequence[tuple[str, float, float]]) -> None:
    """Writes formats beside their points, integers left, floats right, where there is room."""
    from matplotlib.patheffects import withStroke

    written: list[tuple[bool, float, float]] = []
    for name, x, y in sorted(points, key=lambda point: point[2]):
        left = name.startswith("INT")
        # Bare bits and the unquantized end need no name.
        known = name.replace(".", "", 1).isdigit() or x >= _BITS[-1]
        if known or any(
            side == left and abs(x - u) < 3 and y - v < 0.035 for side, u, v in written
        ):
            continue
        written.append((left, x, y))
        text = ax.annotate(name, (x, y), xytext=(-6 if left else 6, 0), fontsize=7, va="center",
                           textcoords="offset points", ha="right" if left else "left")  # fmt: skip
        # Legible where a curve passes behind.
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _share(fit, n: float, d: float, candidate: Candidate, known: list[Candidate]) -> float:
    widest = max(known, key=lambda c: c.bits or 0.0)
    here = {"N": np.array([n]), "D": np.array([d]), **candidate.point}
    target = float(fit.law.predict(fit.params, here)[0])
    points = {"D": d, **widest.point}
    return float(solve_for(fit.law, fit.params, target, "N", points)[0]) / n


def _curve(fit, n: float, d: float, held: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    at, params = points_at_bits(fit.law, held), fit.law.complete(fit.params)
    shares = []
    for bits in _BITS:
        here = {"N": np.array([n]), "D": np.array([d]), **at(params, np.array([bits]))}
        target = float(np.asarray(fit.law.predict(fit.params, here))[0])
        widest = {"D": d, **at(params, np.array([16.0]))}
        shares.append(float(solve_for(fit.law, fit.params, target, "N", widest)[0]) / n)
    return _BITS, np.array(shares)
