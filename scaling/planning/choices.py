"""What a plan is, and how it reads: the recommendation in words, the table, the doubts.

How the choices are found is in ``scaling.planning.door``.
"""

import math
from dataclasses import dataclass

from scaling.findings import Finding
from scaling.planning.budget import Budget
from scaling.planning.costs import Cost

Interval = tuple[float, float]

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
    if name == "1":
        return "1 bit"
    return f"{name} bits" if name.replace(".", "", 1).isdigit() else name


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One format of a plan, at its own best size and data.

    Args:
        format: the name.
        N: parameters.
        D: tokens.
        loss: predicted loss, nats per token; infinite where no size fits the constraints.
        N_interval: interval of N over the draws, or None without draws.
        D_interval: likewise for D.
        loss_interval: likewise for the loss.
        probability: share of the draws in which this format is the best, or None without draws.
        cost: what it costs, FLOP of 16-bit products.
        memory: bytes of the stored parameters, or None where the bits are unknown.
        D_crit: tokens beyond which more data raise the loss here, or None where the law has none.
    """

    format: str
    N: float
    D: float
    loss: float
    N_interval: Interval | None
    D_interval: Interval | None
    loss_interval: Interval | None
    probability: float | None
    cost: float
    memory: float | None
    D_crit: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A plan: every format at its best, lowest loss first, and what to doubt.

    Args:
        law: the law's name.
        choices: the formats, best first.
        budget: what could be spent.
        cost: the cost model.
        level: coverage of the intervals.
        draws: how many draws of the parameters went through the search, 0 for none.
        warnings: findings, such as extrapolation.
        notes: what is assumed, and which limits decide.
    """

    law: str
    choices: tuple[Choice, ...]
    budget: Budget
    cost: Cost
    level: float
    draws: int
    warnings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Choice:
        """The format with the lowest predicted loss."""
        return self.choices[0]

    def __getitem__(self, format: str) -> Choice:
        """Returns a format's choice by name."""
        for choice in self.choices:
            if choice.format == format:
                return choice
        raise ValueError(f"The plan has {[c.format for c in self.choices]}, not {format!r}.")

    def to_markdown(self) -> str:
        """Returns the plan as a Markdown text: recommendation, table, warnings."""
        return markdown(self)


def markdown(plan: Plan) -> str:
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


def _serving(plan: Plan) -> str:
    served = plan.budget.served
    return f", serving {count(served)} tokens" if served else ""


def _table(plan: Plan) -> list[str]:
    head = ["format", "N", "D", "D/N", "loss", "P(best)", "memory (GB)", "D_crit"]
    rows = [_cells(choice, plan.draws > 0) for choice in plan.choices]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _cells(choice: Choice, sampled: bool) -> list[str]:
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
