"""Labels of a table as parameters: one number per format, method or family.

A law over labels is registered without any and grows its parameters when it meets a table
(``bind``). Labels become part of parameter names, so "FP8-E4M3" gives ``eff_FP8-E4M3``.
"""

from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.law import Values

#: Labels that stand for the unquantized run, most preferred first.
REFERENCES = ("BF16", "16", "16.0", "FP16", "FP32", "bf16", "fp16", "fp32", "none")


def found(column: Any) -> tuple[str, ...]:
    """Returns the distinct labels of a column, sorted."""
    return tuple(sorted({str(v) for v in column}))


def reference_of(labels: tuple[str, ...], wanted: str | None) -> str:
    """Returns the label whose effective size is 1.

    Raises:
        ValueError: the wanted label is not in the table, or none is recognized.
    """
    if wanted is not None:
        if wanted not in labels:
            raise ValueError(f"reference {wanted!r} is not among the labels {labels}.")
        return wanted
    for name in REFERENCES:
        if name in labels:
            return name
    raise ValueError(
        f"None of the labels {labels} is a known unquantized format; pass the law with "
        "laws.get(name, reference='your label')."
    )


def is_label(column: Any, label: str) -> np.ndarray:
    """Returns 1.0 where the column holds the label, 0.0 elsewhere."""
    return (np.asarray(column).astype(str) == label).astype(float)


def pick(params: Values, prefix: str, labels: tuple[str, ...], column: Any, xp: ModuleType) -> Any:
    """Returns, for every row, the parameter ``prefix + label`` of its label.

    Args:
        params: parameters, scalars or of shape (..., 1).
        prefix: what precedes the label in a parameter's name.
        labels: the sorted labels (k,).
        column: labels (n,) of the rows.
        xp: the array library.

    Returns:
        Values (..., n).

    Raises:
        ValueError: the column holds a label that is not among ``labels``.
    """
    words = np.asarray(column).astype(str)
    known = np.asarray(labels)
    codes = np.minimum(np.searchsorted(known, words), len(known) - 1)
    if (known[codes] != words).any():
        unknown = sorted(set(words[known[codes] != words].tolist()))
        raise ValueError(f"The law was fitted with the labels {labels}; it cannot know {unknown}.")
    values = xp.broadcast_arrays(*(xp.asarray(params[f"{prefix}{k}"]) for k in labels))
    table = xp.stack(values, -1) if values[0].ndim == 0 else xp.concatenate(values, -1)
    return table[..., codes]
