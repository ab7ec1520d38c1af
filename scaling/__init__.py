"""Scaling laws of precision, fitted from results tables.

    ds = Dataset.read_csv("results.csv", map={"N": "params", "D": "tokens"})
    result = fit(ds, "chinchilla", bootstrap=1000)
    result.params, result.ci(), result.warnings
    save(result, "fit.json")
    plan(result, compute=1e22).to_markdown()

Tables are in ``scaling.tables``, laws in ``scaling.laws``, fitting in ``scaling.fitting``,
uncertainty in ``scaling.uncertainty``, plans in ``scaling.planning``, pictures in
``scaling.plotting`` and the command line in ``scaling.cli``. Losses
are in nats per token, N in parameters, D in tokens.
"""

from scaling import laws as laws
from scaling.comparison import Comparison as Comparison
from scaling.comparison import compare as compare
from scaling.fitting.fit import fit as fit
from scaling.fitting.result import FitResult as FitResult
from scaling.planning.door import Plan as Plan
from scaling.planning.door import plan as plan
from scaling.storage import load as load
from scaling.storage import save as save
from scaling.tables.dataset import Dataset as Dataset
