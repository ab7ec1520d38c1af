"""Saved fits: ``fit.json`` and, for bootstrap draws, one ``.npz`` beside it.

A saved fit holds everything that the fit was made of: the law by name, the rows, what was fixed,
tied and bounded, the optimum in the coordinates of the fit, its covariance and every doubt. Loading
rebuilds the same ``FitResult`` without fitting again and refuses files whose parts disagree.

``fit.json`` is also meant to be read by people and other programs: ``params``, ``intervals``,
``units`` and ``warnings`` need no knowledge of this package.
"""

import hashlib
import importlib.metadata
import io
import json
import math
import pathlib
import platform
from typing import Any

import numpy as np

from scaling import files
from scaling.findings import Finding
from scaling.fitting.problem import pose
from scaling.fitting.result import FitResult, Start
from scaling.laws import Law, get
from scaling.laws.registry import recipe
from scaling.tables.dataset import Dataset
from scaling.uncertainty.bootstrap import Draws

SCHEMA = 2
UNITS = {
    "N": "parameters",
    "D": "tokens",
    "C": "FLOP",
    "loss": "nats per token",
    "delta": "nats per token",
    "bits": "bits per element",
}
_START = ("objective", "converged", "evaluations", "moved", "gradient")


def versions() -> dict[str, str]:
    """Returns the versions that decide a fit: of Python, NumPy, SciPy and this package."""
    found = {"python": platform.python_version()}
    for name in ("qjax", "numpy", "scipy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe(fit: FitResult, level: float = 0.95) -> dict[str, Any]:
    """Returns a fit as plain data: numbers, strings, lists and dictionaries.

    Args:
        fit: the fit.
        level: coverage of the intervals that are written down for readers.
    """
    known = recipe(fit.law)
    return {
        "schema": SCHEMA,
        "law": {
            "name": fit.law.name,
            "options": known[1] if known else {},
            "built_in": known is not None,
            "formula": fit.law.doc,
            "source": fit.law.source,
            "predictors": fit.law.predictors,
            "target": fit.law.target,
        },
        "units": {k: v for k, v in UNITS.items() if k in (*fit.law.predictors, fit.law.target)},
        "params": fit.params,
        "level": level,
        "intervals": fit.ci(level),
        "free": fit.free,
        "n": fit.n,
        "rms_log": fit.rms,
        "converged": fit.converged,
        "method": fit.method,
        "objective": _objective(fit),
        "coordinates": {"u": fit.u, "covariance": fit.covariance.matrix},
        "choices": _choices(fit),
        "starts": [{name: getattr(s, name) for name in _START} for s in fit.starts],
        "warnings": [
            {"code": w.code, "severity": w.severity, "message": w.message, "details": w.details}
            for w in fit.warnings
        ],
        "data": _data(fit.problem.ds),
        "versions": versions(),
    }


def _objective(fit: FitResult) -> dict[str, Any]:
    kind = fit.problem.objective
    return {
        "name": kind.name,
        "delta": kind.delta,
        "asymmetry": kind.asymmetry,
        "value": fit.objective,
    }


def _choices(fit: FitResult) -> dict[str, Any]:
    coords = fit.problem.coords
    return {
        "fixed": dict(coords.fixed),
        "tie": coords.ties,
        "bounds": dict(coords.bounds),
        "center": coords.centered_terms,
        "weights": fit.problem.weights,
    }


def _data(ds: Dataset) -> dict[str, Any]:
    return {
        "source": ds.source,
        "sha256": ds.hash,
        "dropped": ds.dropped,
        "lines": ds.lines,
        "columns": ds.columns,
    }


def plain(value: Any) -> Any:
    """Returns ``value`` as JSON can hold it: NaN becomes null, arrays and tuples become lists."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def save(fit: FitResult, path: files.Path, level: float = 0.95, **extra: Any) -> pathlib.Path:
    """Writes a fit, whole or not at all, and its draws beside it.

    Args:
        fit: the fit.
        path: the JSON file; draws go to the same name with ``.draws.npz``.
        level: coverage of the intervals written for readers.
        **extra: more entries, such as a held-out error; names of the schema are refused.

    Returns:
        The path.

    Raises:
        ValueError: the file cannot be written, or ``extra`` would hide an entry.
    """
    path = pathlib.Path(path)
    content = describe(fit, level)
    taken = sorted(set(extra) & set(content))
    if taken:
        raise ValueError(f"extra entries {taken} are part of the schema; choose other names.")
    content |= extra
    if fit.draws is not None:
        packed = io.BytesIO()
        draws = fit.draws
        np.savez_compressed(packed, u=draws.u, objective=draws.objective, converged=draws.converged)
        beside = path.with_name(f"{path.stem}.draws.npz")
        files.write(beside, lambda file: file.write(packed.getvalue()))
        content["draws"] = {
            "path": beside.name,
            "sha256": hashlib.sha256(packed.getvalue()).hexdigest(),
            "count": len(draws),
            "seed": draws.seed,
            "units": draws.units,
        }
    return files.write_text(path, json.dumps(plain(content), indent=1, allow_nan=False) + "\n")


def read(path: files.Path) -> dict[str, Any]:
    """Returns the content of a saved fit as data, checked for its schema.

    Raises:
        ValueError: there is no such file, it is no JSON, or it is not a saved fit.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}; `scaling fit ... -o fit.json` writes one.")
    try:
        content = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a saved fit, it is no JSON: {error}.") from None
    if not isinstance(content, dict) or "schema" not in content or "law" not in content:
        raise ValueError(f"{path} is JSON but not a saved fit; `scaling fit -o` writes one.")
    if content["schema"] != SCHEMA:
        raise ValueError(
            f"{path} has schema {content['schema']}, this version reads {SCHEMA}; fit again."
        )
    return content


def load(path: files.Path, law: Law | None = None) -> FitResult:
    """Rebuilds a saved fit without fitting again.

    Args:
        path: the JSON file; its draws are looked for beside it.
        law: the law, where it is the user's own; built-in laws are found by name.

    Returns:
        A fit equal to the one that was saved.

    Raises:
        ValueError: the file is no saved fit, a part is missing or was changed, or the law is the
            user's own and was not passed.
    """
    path = pathlib.Path(path)
    content = read(path)
    try:
        return _rebuilt(path, content, law)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is incomplete as a saved fit ({error}); fit again.") from None


def _rebuilt(path: pathlib.Path, content: dict[str, Any], law: Law | None) -> FitResult:
    entry = content["law"]
    if law is None:
        if not entry["built_in"]:
            raise ValueError(f"{path} holds your own law {entry['name']!r}; pass it as law=.")
        law = get(entry["name"], **{k: _tuples(v) for k, v in entry["options"].items()})
    data, kind, choices = content["data"], content["objective"], content["choices"]
    columns = {k: np.asarray(v) for k, v in data["columns"].items()}
    dropped = [(int(line), str(why)) for line, why in data["dropped"]]
    ds = Dataset(columns, lines=data["lines"], source=data["source"], dropped=dropped)
    problem = pose(
        ds,
        law,
        objective=kind["name"],
        delta=float(kind["delta"]),
        asymmetry=float(kind["asymmetry"]),
        fixed=choices["fixed"],
        tie=choices["tie"],
        bounds={k: [_number(v) for v in pair] for k, pair in choices["bounds"].items()},
        weights=choices["weights"],
        center=choices["center"],
    )
    u = np.asarray(content["coordinates"]["u"], float)
    if len(u) != len(problem.coords.free):
        raise ValueError(f"{path}: the optimum has another number of parameters than its law.")
    natural = problem.coords.natural(u)
    params = {name: float(natural[name]) for name in problem.coords.law.names}
    same = all(math.isclose(params[k], v, rel_tol=1e-9) for k, v in content["params"].items())
    if problem.ds.hash != data["sha256"] or not same:
        raise ValueError(f"{path}: its parameters and its rows do not belong together; fit again.")
    return FitResult(
        law=problem.coords.law,
        params=params,
        objective=kind["value"],
        converged=content["converged"],
        problem=problem,
        u=u,
        starts=tuple(_start(s) for s in content["starts"]),
        draws=_draws(path, content.get("draws")),
        method=content["method"],
        warnings=tuple(Finding(**w) for w in content["warnings"]),
    )


def _draws(path: pathlib.Path, entry: dict[str, Any] | None) -> Draws | None:
    if entry is None:
        return None
    beside = path.with_name(entry["path"])
    if not beside.is_file():
        raise ValueError(f"{path} names the draws {beside.name}, which are not beside it.")
    packed = beside.read_bytes()
    if hashlib.sha256(packed).hexdigest() != entry["sha256"]:
        raise ValueError(f"{beside} does not belong to {path.name}; fit again.")
    with np.load(io.BytesIO(packed)) as arrays:
        known = {k: int(entry[k]) for k in ("seed", "units")}
        return Draws(**known, **{k: arrays[k] for k in arrays.files})


def _start(entry: dict[str, Any]) -> Start:
    # JSON has no infinity: a start that ended nowhere is stored as the word.
    words: dict[str, Any] = {k: float(v) if isinstance(v, str) else v for k, v in entry.items()}
    return Start(**words)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
