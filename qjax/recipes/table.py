"""The table of a model's contractions: rows, totals, and the ways they are printed.

What stands in it is found elsewhere; see `report`.
"""

import csv
import dataclasses
import io

from qjax._typing import Shape
from qjax.contraction.policy import LEGS, OPERANDS
from qjax.recipes.layout import SAVED, lay_out

LEG_COLUMNS = tuple(f"{leg}.{operand}" for leg in LEGS for operand in OPERANDS[leg])
FIELDS = ("path", "op", "lhs", "rhs", "times", "flops", *LEG_COLUMNS, "bits", "how", "why")
FLOAT = "-"


@dataclasses.dataclass(frozen=True)
class Row:
    """One contraction.

    Attributes:
      path: Where it stands in the model.
      op: Name of the operation.
      shapes: Shapes of both operands.
      times: How often one call of the model runs it.
      flops: Floating-point operations of its forward leg in one call of the model; each
        leg of the backward pass takes as many.
      formats: Names of the types of the six operands, in the order of `LEG_COLUMNS`; "-"
        where an operand is not quantized.
      bits: Stored bits per element of the six operands, scales included; None where an
        operand is not quantized.
      how: "emulated", "bfloat16 products", "native int8" ... (see `contraction.plans`),
        one after another where the legs differ, with what stood against a faster way; "as is"
        where nothing is quantized.
      why: The rule or reason that decided.
      missed: Whether a rule asked for quantization that did not happen.
      packed: Which operands came packed: "lhs", "rhs" or both.
      saved: Which operands the backward pass reads as the forward leg has rounded them, such as
        "dlhs.rhs"; it rounds them no more.
    """

    path: str
    op: str
    shapes: tuple[Shape, Shape]
    times: int
    flops: int
    formats: tuple[str, ...] = (FLOAT,) * 6
    bits: tuple[float | None, ...] = (None,) * 6
    how: str = "as is"
    why: str = ""
    missed: bool = False
    packed: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()

    @property
    def quantized(self) -> bool:
        """Whether any operand is quantized."""
        return any(name != FLOAT for name in self.formats)

    def cells(self) -> dict[str, str]:
        """The row as text, by the names in `FIELDS`."""
        bits = " ".join(FLOAT if b is None else f"{b:g}" for b in self.bits)
        lhs, rhs = ("x".join(map(str, shape)) or "scalar" for shape in self.shapes)
        first = (self.path or "(top)", self.op, lhs, rhs, str(self.times), str(self.flops))
        how = "; ".join([self.how, *(f"{side} packed" for side in self.packed)])
        names = zip(LEG_COLUMNS, self.formats, strict=True)
        formats = (name + SAVED * (column in self.saved) for column, name in names)
        values = (*first, *formats, bits, how, self.why)
        return dict(zip(FIELDS, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Report:
    """Every contraction of a model, and what it computes in.

    Attributes:
      rows: The contractions, in the order of the program.
      unmatched: Rules that matched nothing, one sentence each.
    """

    rows: tuple[Row, ...]
    unmatched: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Floating-point operations of the forward pass."""
        return sum(row.flops for row in self.rows)

    @property
    def quantized_share(self) -> float:
        """Share of the forward floating-point operations with a quantized operand, 0 to 1."""
        return sum(share for pair, share in self.shares.items() if pair != FLOAT)

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the forward floating-point operations by what is multiplied.

        The keys are the types of both operands, such as "mxfp8 x mxfp4", and "-" where no
        operand of any leg is quantized; the largest share comes first.
        """
        found: dict[str, int] = {}
        for row in self.rows:
            pair = " x ".join(row.formats[:2]) if row.quantized else FLOAT
            found[pair] = found.get(pair, 0) + row.flops
        order = sorted(found.items(), key=lambda item: -item[1])
        return {pair: flops / max(1, self.flops) for pair, flops in order}

    def to_csv(self) -> str:
        """The rows as CSV text with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.cells() for row in self.rows)
        return text.getvalue()

    def to_markdown(self) -> str:
        """The rows as a Markdown table."""
        lines = ["| " + " | ".join(FIELDS) + " |", "|" + " --- |" * len(FIELDS)]
        for row in self.rows:
            # A bar in a rule's name would end its cell.
            cells = (cell.replace("|", r"\|") for cell in row.cells().values())
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def __str__(self) -> str:
        lines = lay_out(self.rows, LEG_COLUMNS)
        return "\n".join([*lines, self.totals, *self.unmatched])

    @property
    def totals(self) -> str:
        """One or two sentences that sum the table up."""
        many = sum(row.quantized for row in self.rows)
        text = (
            f"{many} of {len(self.rows)} contractions quantized, "
            f"{self.quantized_share:.1%} of the forward FLOPs."
        )
        packed = sum(bool(row.packed) for row in self.rows)
        return f"{text} {packed} with packed weights." if packed else text

    def check(self) -> "Report":
        """Returns the report itself, or raises where something asked for is not done.

        Raises:
          ValueError: With one line for every contraction that a rule asked to quantize
            and that is not quantized, and for every rule that matched nothing.
        """
        missed = [f"{row.path or '(top)'} ({row.op}): {row.why}" for row in self.rows if row.missed]
        if missed or self.unmatched:
            found = [*dict.fromkeys(missed), *self.unmatched]
            raise ValueError("\n".join(["Not quantized as asked:", *found]))
        return self
