"""The planner: which N, D and format to train for a budget, and how sure the fit is of it.

For every format the best N and D are searched under the budget; the format whose loss is lowest is
the recommendation. A fit's uncertainty goes through the same search, draw by draw, which gives
intervals of N and D and the probability that each format is the best. A plan always says where it
leaves the range of the fitted runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling.fitting.result import FitResult
from scaling.laws.law import Law
from scaling.laws.published import Published
from scaling.planning.budget import Budget
from scaling.planning.candidates import Candidate, candidates
from scaling.planning.choices import Choice, Interval, Plan
from scaling.planning.costs import FORWARD, Cost, read_cost
from scaling.planning.limits import assumptions, critical_data, doubts_of_fit, extrapolations
from scaling.planning.search import Optimum, minimize


def plan(
    fit: FitResult | Published,
    compute: float,
    *,
    cost: Any = "bits",
    formats: Iterable[str] | None = None,
    constraints: Mapping[str, tuple[float | None, float | None]] | None = None,
    inference_tokens: float = 0.0,
    serve_bits: float | None = None,
    held: Mapping[str, Any] | None = None,
    draws: int = 400,
    level: float = 0.95,
    seed: int = 0,
) -> Plan:
    """Finds the N, D and format that minimize the loss for a budget, the best format first.

    Args:
        fit: a fitted law of N and D, or published constants (which have no uncertainty).
        compute: the budget, FLOP of 16-bit products; serving counts where it is asked for.
        cost: "flops16", "bits" (= "kumar" = "sun"), a CSV file or mapping of throughputs relative
            to BF16, or a ``Cost``.
        formats: names to choose among; the law's labels, or a suitable list, by default.
        constraints: (lowest, highest) for "N", "D" (counts) and "memory" (bytes), None for open.
        inference_tokens: tokens that will be served; each costs a forward pass.
        serve_bits: of the served parameters, if others; P_post too for laws that read it.
        held: predictors that keep one value whatever the format, such as {"P_a": 16}.
        draws: of the parameters, for intervals and probabilities; a bootstrap's own at most.
        level: coverage of the intervals.
        seed: fixes the draws of a fit without bootstrap.

    Raises:
        ValueError: the law does not predict a loss from N and D, a format or an option is not
            understood, or no format fits the constraints.
    """
    _refuse_other_laws(fit.law)
    _refuse_options(level, serve_bits)
    limits = dict(constraints or {})
    budget = Budget(compute=float(compute), served=float(inference_tokens), limits=limits)
    chosen = candidates(fit.law, formats, _held(fit.law, held, serve_bits))
    sample, model = _sample(fit, draws, seed), read_cost(cost)
    return _planned(fit, chosen, sample, budget, model, serve_bits, level)


def _planned(fit, chosen, sample, budget, model, serve_bits, level) -> Plan:
    """Returns the plan over the candidates, with what speaks against trusting it."""
    choices = _choices(fit, chosen, sample, budget, model, serve_bits, level)
    _refuse_unaffordable(choices, budget)
    return Plan(
        law=fit.law.name,
        choices=choices,
        budget=budget,
        cost=model,
        level=level,
        draws=len(next(iter(sample.values()))) if sample else 0,
        warnings=(*doubts_of_fit(fit), *extrapolations(fit, choices[0], chosen)),
        notes=assumptions(model, choices, budget.limits),
    )


def _choices(fit, chosen, sample, budget, model, serve_bits, level) -> tuple[Choice, ...]:
    """Returns every candidate at its best, lowest loss first."""

    def bounds(values):
        return fit.central(values, level)

    law = fit.law
    best = {k: np.full((1, 1), v) for k, v in law.complete(fit.params).items()}
    points = [_solve(law, best, c, budget, model, serve_bits) for c in chosen]
    clouds = [_solve(law, sample, c, budget, model, serve_bits) for c in chosen] if sample else []
    wins = _wins(clouds)
    choices = []
    for i, candidate in enumerate(chosen):
        cloud = clouds[i] if clouds else None
        share = None if wins is None else float(wins[i])
        spent = _spent(budget, model, candidate, points[i], serve_bits)
        memory = _memory(candidate, points[i], serve_bits)
        crit = critical_data(fit, candidate, float(points[i].N[0, 0]))
        choices.append(_choice(candidate, points[i], cloud, share, bounds, spent, memory, crit))
    return tuple(sorted(choices, key=lambda choice: choice.loss))


def _refuse_other_laws(law: Law) -> None:
    if law.target != "loss" or not {"N", "D"} <= set(law.predictors):
        raise ValueError(
            f"A plan needs a law that predicts a loss from N and D; {law.name!r} predicts "
            f"{law.target} from {', '.join(law.predictors)}."
        )


def _refuse_options(level: float, serve_bits: float | None) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}.")
    if serve_bits is not None and not 0 < serve_bits < np.inf:
        raise ValueError(f"serve_bits must be positive, got {serve_bits}.")


def _refuse_unaffordable(choices: Sequence[Choice], budget: Budget) -> None:
    if not np.isfinite(choices[0].loss):
        raise ValueError(
            "No format has a size that the budget and the constraints allow; raise compute"
            f"{', serve fewer tokens' if budget.served else ''}, or widen the limits on "
            f"{', '.join(budget.limits) or 'N, D and memory'}."
        )


def _held(law: Law, held: Mapping[str, Any] | None, serve_bits: float | None) -> dict[str, Any]:
    """Returns the predictors that keep one value, the served bits among them where a law reads
    them."""
    held = dict(held or {})
    if serve_bits is not None and "P_post" in law.predictors:
        held.setdefault("P_post", float(serve_bits))
    return held


def _serving(model: Cost, candidate: Candidate, serve_bits: float | None):
    return FORWARD * model.per_product(candidate, serve_bits)


def _stored(candidate: Candidate, serve_bits: float | None) -> float | None:
    return candidate.stored if serve_bits is None else serve_bits


def _solve(law, params, candidate, budget, model, serve_bits) -> Optimum:
    k, k_serve = model.per_product(candidate), _serving(model, candidate, serve_bits)
    stored = _stored(candidate, serve_bits)
    return minimize(law, params, candidate.point, budget, k, k_serve, stored)


def _sample(fit: FitResult | Published, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Returns parameters (r, 1) of the draws, or nothing."""
    if draws <= 0 or not isinstance(fit, FitResult) or not len(fit.free):
        return {}
    return {k: np.asarray(v)[:draws, None] for k, v in fit.sample(draws, seed).items()}


def _wins(clouds: list[Optimum]) -> np.ndarray | None:
    """Returns the share of draws (formats,) in which each format has the lowest loss.

    Formats that the law cannot tell apart, such as two splits of as many bits, share their draws.
    """
    if not clouds:
        return None
    losses = np.concatenate([cloud.loss for cloud in clouds], axis=1)
    lowest = losses.min(axis=1, keepdims=True)
    best = losses <= lowest * (1 + 1e-12)
    return (best / best.sum(axis=1, keepdims=True)).mean(axis=0)


def _spent(budget, model, candidate, point, serve_bits) -> float:
    k, k_serve = model.per_product(candidate), _serving(model, candidate, serve_bits)
    return float(budget.cost(point.N[0, 0], point.D[0, 0], k, k_serve))


def _memory(candidate: Candidate, point: Optimum, serve_bits: float | None) -> float | None:
    stored = _stored(candidate, serve_bits)
    return None if stored is None else float(point.N[0, 0] * stored / 8)


def _choice(candidate, point, cloud, share, bounds, spent, memory, crit) -> Choice:
    def interval(name: str) -> Interval | None:
        if cloud is None:
            return None
        values = getattr(cloud, name)[np.isfinite(cloud.loss)]
        if not len(values):
            return None
        low, high = bounds(values)
        return float(low), float(high)

    return Choice(
        format=candidate.name,
        N=float(point.N[0, 0]),
        D=float(point.D[0, 0]),
        loss=float(point.loss[0, 0]),
        N_interval=interval("N"),
        D_interval=interval("D"),
        loss_interval=interval("loss"),
        probability=share,
        cost=spent,
        memory=memory,
        D_crit=crit,
    )
