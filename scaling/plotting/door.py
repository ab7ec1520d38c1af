"""The door of the pictures: a kind by name, options by name, a file written whole."""

import difflib
import inspect
import pathlib
from collections.abc import Callable
from typing import Any

from scaling import files
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
        raise ValueError(f"A {kind} picture takes {taken or 'no options'}, not {unknown}.")
    suffix = None if path is None else pathlib.Path(path).suffix.lstrip(".").lower()
    if suffix is not None and suffix not in SUFFIXES:
        raise ValueError(f"A picture is written as one of {SUFFIXES}, got {str(path)!r}.")
    several = kind == "capacity" and not isinstance(fit, list | tuple)
    figure = KINDS[kind]([fit] if several else fit, **options)
    if path is not None:
        files.write(path, lambda file: figure.savefig(file, format=suffix, dpi=160))
    return figure
