"""A plan as a Markdown text: the recommendation in words, the table, the doubts."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaling.planning.door import Choice, Plan

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def count(value: float | None) -> str:
    """Returns a count with three digits and a prefix: 7.04B, 1.2T; "-" for None."""
    if value is None or not math.isfinite(value):
        return "-"
    for size, letter in _PREFIXES:
        if size * 0.9995 <= value < 1000 * size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def spoken(name: str) -> str:
    """Returns a format's name for a sentence: a bare number is a number of bits."""
    return f"{name} bits" if name.replace(".", "", 1).isdigit() else name


def markdown(plan: "Plan") -> str:
    """Returns the plan as Markdown."""
    best = plan.best
    sure = "" if best.probability is None else f" (best in {best.probability:.0%} of the draws)"
    lines = [
        f"**Train {count(best.N)} parameters on {count(best.D)} tokens in "
        f"{spoken(best.format)}**{sure}: predicted loss {best.loss:.4f}.",
        "",
        f"Budget {plan.budget.compute:.3g} FLOP of 16-bit products, cost model "
        f"`{plan.cost.name}`{_serving(plan)}, law `{plan.law}`.",
        "",
        *_table(plan),
    ]
    if plan.draws:
        lines += ["", f"Intervals: {plan.level:.0%} over {plan.draws} draws of the parameters."]
    else:
        lines += ["", "No draws of the parameters: no intervals and no probabilities."]
    notes = [f"- {note}" for note in plan.notes] + [f"- {w}" for w in plan.warnings]
    return "\n".join(lines + ([""] if notes else []) + notes)


def _serving(plan: "Plan") -> str:
    served = plan.budget.served
    return f", serving {count(served)} tokens" if served else ""


def _table(plan: "Plan") -> list[str]:
    head = ["format", "N", "D", "D/N", "loss", "P(best)", "memory (GB)", "D_crit"]
    rows = [_cells(choice, plan.draws > 0) for choice in plan.choices]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _cells(choice: "Choice", sampled: bool) -> list[str]:
    if not math.isfinite(choice.loss):
        return [spoken(choice.format), *["-"] * 4, "0 %" if sampled else "-", "-", "-"]

    def with_interval(value, interval, write) -> str:
        if interval is None or write(interval[0]) == write(interval[1]) == write(value):
            return write(value)
        return f"{write(value)} ({write(interval[0])} to {write(interval[1])})"

    return [
        spoken(choice.format),
        with_interval(choice.N, choice.N_interval, count),
        with_interval(choice.D, choice.D_interval, count),
        f"{choice.D / choice.N:.3g}",
        with_interval(choice.loss, choice.loss_interval, lambda v: f"{v:.4f}"),
        "-" if choice.probability is None else f"{100 * choice.probability:.0f} %",
        "-" if choice.memory is None else f"{choice.memory / 1e9:.3g}",
        count(choice.D_crit),
    ]
