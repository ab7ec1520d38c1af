"""Scaling laws of precision, fitted from results tables.

    ds = Dataset.read_csv("results.csv", map={"N": "params", "D": "tokens"})
    result = fit(ds, "chinchilla", bootstrap=1000)
    result.params, result.ci(), result.warnings

Tables are in ``scaling.tables``, laws in ``scaling.laws``, fitting in ``scaling.fitting`` and
uncertainty in ``scaling.uncertainty``. Losses are in nats per token, N in parameters, D in tokens.
"""

from scaling import laws as laws
from scaling.comparison import Comparison as Comparison
from scaling.comparison import compare as compare
from scaling.fitting.fit import fit as fit
from scaling.fitting.result import FitResult as FitResult
from scaling.tables.dataset import Dataset as Dataset
