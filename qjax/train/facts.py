"""What a recipe is called in a results table: format, exponent and mantissa bits, block, bits."""

from typing import Any

from qjax.contraction import BitSplit, Policy
from qjax.contraction.storage import stored_bits
from qjax.formats import Float
from qjax.qtypes import QType
from qjax.recipes import Recipe


def operand_types(policy: Policy) -> list[QType | None]:
    """Types of the six operands, leg by leg: fwd, dlhs, drhs; None where one is not quantized.

    Of an operand in two parts it is the type of the high one.
    """
    operands = policy.quantizers().values()
    high = (q.high if isinstance(q, BitSplit) else q for q in operands)
    return [None if q is None else q.qtype for q in high]


def facts(recipe: Recipe | None) -> dict[str, Any]:
    """Facts of the first rule that quantizes, under the names that `scaling` reads.

    Args:
      recipe: A recipe with static numbers, or None for a model that is not quantized.

    Returns:
      `recipe` and `version`; `format`, `E`, `M` and `B` (elements that share a scale; empty for
      none or a whole extent) of the first quantized operand, E = 0 for integers; and `bits`, the
      distinct bits per element of the six operands, slash between, 32 where not quantized.
    """
    policies = [] if recipe is None else [rule.policy for rule in recipe.rules]
    policy = next((p for p in policies if not p.is_identity), None)
    name = {
        "recipe": "float32" if recipe is None else recipe.name,
        "version": "" if recipe is None else recipe.version,
    }
    if policy is None:
        return {**name, "format": "float32", "E": 8, "M": 23, "B": "", "bits": "32"}
    types = operand_types(policy)
    first = next(t for t in types if t is not None)
    operands = policy.quantizers().values()
    bits = ["32" if q is None else f"{stored_bits(q):g}" for q in operands]
    element = first.format
    exponent = element.exponent_bits if isinstance(element, Float) else 0
    mantissa = element.mantissa_bits if isinstance(element, Float) else element.width - 1
    block = first.tile.contract if first.scale is not None else None
    return {
        **name,
        "format": first.name,
        "E": exponent,
        "M": mantissa,
        "B": "" if block is None else block,
        "bits": "/".join(dict.fromkeys(bits)),
    }
