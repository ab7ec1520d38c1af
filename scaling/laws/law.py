"""What a scaling law is: named parameters and predictors, and one formula for all array libraries.

A law predicts a target (a loss, a degradation or a metric) from columns of a results table. Nearly
every published law is a sum of positive terms ``sum_k c_k * phi_k(x; theta)``; such a law states
``log phi_k`` and nothing else. From that statement follow the prediction, the separation into
linear coefficients ``c_k`` and nonlinear parameters ``theta`` that the seeding uses, and the
centered coordinates that make the fit well conditioned. A law of another shape states its formula.

The registry is in ``scaling.laws.registry``; fitting is in ``scaling.fitting``. Nothing here looks
at data except ``bind``, which lets a law grow one parameter per label of a table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

#: Arrays by name: parameters (scalars or anything that broadcasts) or predictor columns.
Values = Mapping[str, Any]
#: ``terms(params, x, xp)`` returns ``{coefficient name: log phi}``, to be broadcast to the rows.
Terms = Callable[[Values, Values, ModuleType], dict[str, Any]]
#: ``formula(params, x, xp)`` returns the prediction itself.
Formula = Callable[[Values, Values, ModuleType], Any]
#: A quantity computed from parameters (and keyword arguments), such as a critical data size.
Derived = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Param:
    """One parameter of a law.

    Args:
        name: the name in ``params``, unique within the law.
        search: the range in which seeds are looked for; ignored for coefficients of terms, which
            are solved for.
        log: whether the fit moves the logarithm of the parameter, which keeps it positive.
        bounds: natural values outside of which the parameter makes no sense.
        fixed: a value at which the parameter stays unless the caller frees it; None means fitted.
        doc: what the parameter is, with its unit.
    """

    name: str
    search: tuple[float, float] = (0.05, 1.0)
    log: bool = True
    bounds: tuple[float, float] = (0.0, np.inf)
    fixed: float | None = None
    doc: str = ""

    def __post_init__(self):
        lo, hi = self.search
        if not lo <= hi:
            raise ValueError(f"Param {self.name!r}: search range {self.search} is not ordered.")
        if self.log and self.bounds[0] < 0:
            raise ValueError(
                f"Param {self.name!r}: bounds {self.bounds} allow negative values, but log=True "
                "keeps it positive; pass log=False."
            )


def coefficient(name: str, doc: str = "") -> Param:
    """Returns the parameter of a term: positive, solved for linearly, never searched."""
    return Param(name=name, search=(1e-6, 1e6), doc=doc)


def exponent(
    name: str, doc: str = "", search: tuple[float, float] = (0.03, 0.9), upper: float = 3.0
) -> Param:
    """Returns an exponent of a power law, moved on its own scale between 0 and ``upper``."""
    return Param(name=name, search=search, log=False, bounds=(0.0, upper), doc=doc)


@dataclass(frozen=True, kw_only=True, repr=False)
class Law:
    """A scaling law: parameters, predictors, and either terms or a formula.

    Args:
        name: the registry key.
        predictors: columns that ``predict`` reads, by canonical name.
        params: the parameters, in the order in which tables print them.
        terms: ``log phi_k`` by coefficient name, for a law that is a sum of positive terms.
        formula: the prediction, for any other law. Exactly one of the two is given.
        inverse: coefficients that divide their term instead of multiplying it (Sun's gamma).
        target: "loss", "delta" (loss minus the loss of the unquantized run) or "metric".
        objective: the objective that a fit uses when the caller names none.
        seed: ``seed(x, y)`` returns starting points for a law that terms cannot seed.
        nested: a simpler law with its parameters under the same names, and the mask of rows that
            it describes; it is fitted first, and seeds the rest.
        bind: ``bind(law, columns)`` returns the law with its labels taken from a table.
        derived: named quantities, ``f(params, **arguments)``.
        options: what distinguishes this instance from its family, such as its labels.
        source: the paper that states the law.
        doc: the formula and the units in words.
    """

    name: str
    predictors: tuple[str, ...]
    params: tuple[Param, ...]
    terms: Terms | None = None
    formula: Formula | None = None
    inverse: frozenset[str] = frozenset()
    target: str = "loss"
    objective: str = "huber-log"
    seed: Callable[[Values, np.ndarray], list[dict[str, float]]] | None = None
    nested: tuple["Law", Callable[[Values], np.ndarray]] | None = None
    bind: Callable[["Law", Values], "Law"] | None = None
    derived: Mapping[str, Derived] = field(default_factory=dict, hash=False)
    options: tuple[tuple[str, Any], ...] = ()
    source: str = ""
    doc: str = ""

    def __post_init__(self):
        if (self.terms is None) == (self.formula is None):
            raise ValueError(f"Law {self.name!r}: give exactly one of terms and formula.")
        names = self.names
        if len(set(names)) != len(names):
            raise ValueError(f"Law {self.name!r}: parameter names {names} are not unique.")
        if self.target not in ("loss", "delta", "metric"):
            raise ValueError(
                f"Law {self.name!r}: target must be loss, delta or metric, got {self.target!r}."
            )

    def __repr__(self) -> str:
        options = "".join(f", {k}={v!r}" for k, v in self.options)
        return f"laws.get({self.name!r}{options})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all parameters, in order."""
        return tuple(p.name for p in self.params)

    def param(self, name: str) -> Param:
        """Returns the parameter called ``name``.

        Raises:
            ValueError: the law has no such parameter.
        """
        for p in self.params:
            if p.name == name:
                return p
        raise ValueError(f"Law {self.name!r} has no parameter {name!r}; it has {self.names}.")

    def complete(self, params: Values) -> dict[str, Any]:
        """Returns ``params`` with the law's fixed values added.

        Raises:
            ValueError: a parameter is missing or unknown.
        """
        for name in params:
            self.param(name)
        full = {p.name: p.fixed for p in self.params if p.fixed is not None} | dict(params)
        missing = [name for name in self.names if name not in full]
        if missing:
            raise ValueError(f"Law {self.name!r} needs values for {missing}; got {sorted(params)}.")
        return {name: full[name] for name in self.names}

    def columns(self, points: Values) -> dict[str, Any]:
        """Returns the predictors out of ``points``.

        Raises:
            ValueError: a predictor is missing.
        """
        missing = [name for name in self.predictors if name not in points]
        if missing:
            raise ValueError(
                f"Law {self.name!r} reads {self.predictors}; {missing} missing, "
                f"got {sorted(points)}."
            )
        return {name: points[name] for name in self.predictors}

    def predict(self, params: Values, points: Values, xp: ModuleType = np) -> Any:
        """Predicts the target at ``points``.

        Args:
            params: natural parameter values; arrays broadcast against the points.
            points: predictor columns by canonical name.
            xp: the array library, ``numpy`` or ``jax.numpy``.

        Returns:
            The prediction, broadcast over parameters and points.

        Raises:
            ValueError: a parameter or a predictor is missing.
        """
        p = self.complete(params)
        x = self.columns(points)
        x = {k: v if k in self.labels else xp.asarray(v, dtype=float) for k, v in x.items()}
        if self.formula is not None:
            return self.formula(p, x, xp)
        assert self.terms is not None
        total = 0.0
        for name, log_phi in self.terms(p, x, xp).items():
            total = total + xp.exp(log_phi) * (1 / p[name] if name in self.inverse else p[name])
        return total

    @property
    def labels(self) -> frozenset[str]:
        """Predictors that hold labels (strings) instead of numbers."""
        return frozenset({"fmt", "family"} & set(self.predictors))


def positive(value: Any, xp: ModuleType, floor: float = 1e-6) -> Any:
    """Returns ``value`` where it is above ``floor``, and ``floor`` elsewhere; for logarithms.

    A shifted factor such as ``1 - exp(-P/gamma + n)`` turns negative at small P. A search must be
    able to pass through there, at a large loss, rather than meet a NaN.
    """
    return xp.where(xp.real(value) > floor, value, floor)
