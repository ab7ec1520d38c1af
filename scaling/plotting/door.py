"""The door of the pictures: a kind by name, options by name, a file written whole."""

import difflib
import inspect
import pathlib
from collections.abc import Callable
from typing import Any

from scaling import files
from scaling.laws.published import Published
from scaling.plotting import bits, budgets, points

KINDS: dict[str, Callable[..., Any]] = {
    "iso-loss": bits.iso_loss,
    "pareto": bits.pareto,
    "capacity": bits.capacity,
    "extrapolation": points.extrapolation,
    "residuals": points.residuals,
    "profile": points.profiles,
    "isoflop": budgets.isoflop,
    "precision-vs-compute": budgets.precision_vs_compute,
    "data": budgets.loss_vs_data,
}
#: Pictures of rows and of what they determine, for any law.
_OF_RUNS = ("extrapolation", "residuals", "profile")
SUFFIXES = ("png", "svg", "pdf")


def plot(fit: Any, kind: str, path: files.Path | None = None, **options: Any) -> Any:
    """Draws a picture of a fit.

    Args:
        fit: a fit, or published constants; "capacity" takes several in a list.
        kind: a key of ``KINDS``.
        path: where to write it (PNG, SVG or PDF by its suffix); None writes nothing.
        **options: what the kind takes; see its function.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: the kind, an option or the suffix is unknown, or the law does not have what the
            kind shows.
        ImportError: matplotlib is not installed.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}{hint}")
    taken = list(inspect.signature(KINDS[kind]).parameters)[1:]
    unknown = sorted(set(options) - set(taken))
    if unknown:
        can = f"takes {', '.join(taken)}" if taken else "takes no options"
        raise ValueError(f"A picture of kind {kind} {can}; got {', '.join(unknown)}.")
    _refuse_what_cannot_be_seen(fit if isinstance(fit, list | tuple) else [fit], kind, options)
    suffix = None if path is None else pathlib.Path(path).suffix.lstrip(".").lower()
    if suffix is not None and suffix not in SUFFIXES:
        raise ValueError(f"A picture is written as one of {SUFFIXES}, got {str(path)!r}.")
    several = kind == "capacity" and not isinstance(fit, list | tuple)
    figure = KINDS[kind]([fit] if several else fit, **options)
    if path is not None:
        files.write(path, lambda file: figure.savefig(file, format=suffix, dpi=160))
    return figure


def _refuse_what_cannot_be_seen(fits: Any, kind: str, options: dict[str, Any]) -> None:
    """Raises ValueError where a picture needs runs or predictors that are not there."""
    for fit in fits:
        if kind in _OF_RUNS and isinstance(fit, Published):
            raise ValueError(f"A {kind} picture needs a fit of runs, not published constants.")
        missing = {"N", "D"} - set(fit.law.predictors)
        if kind not in _OF_RUNS and (missing or fit.law.target != "loss"):
            raise ValueError(
                f"A {kind} picture needs a law that predicts a loss from N and D; "
                f"{fit.law.name!r} predicts {fit.law.target} from {', '.join(fit.law.predictors)}."
            )
    for name in ("N", "D"):
        if name in options and options[name] is not None and not options[name] > 0:
            raise ValueError(f"{name} must be positive, got {options[name]:g}.")
