"""The named formats, and the reading of names. Stands above what it lists."""

import difflib
import re

from qjax.formats._base import Format
from qjax.formats._float import Float
from qjax.formats._integer import Fixed, Int
from qjax.formats._power import PowerOfTwo

E4M3FN = Float(4, 3, family="fn")
E5M2 = Float(5, 2)
E4M3 = Float(4, 3)
E3M4 = Float(3, 4)
E4M3FNUZ = Float(4, 3, family="fnuz")
E5M2FNUZ = Float(5, 2, family="fnuz")
E4M3B11FNUZ = Float(4, 3, family="fnuz", bias=11)
E3M2FN = Float(3, 2, family="finite")
E2M3FN = Float(2, 3, family="finite")
E2M1FN = Float(2, 1, family="finite")
E8M0FNU = PowerOfTwo(8)
BFLOAT16 = Float(8, 7)
FLOAT16 = Float(5, 10)
FLOAT32 = Float(8, 23)
INT2, INT4, INT8, INT16 = Int(2), Int(4), Int(8), Int(16)
UINT2, UINT4, UINT8 = (Int(bits, signed=False) for bits in (2, 4, 8))
MXINT8_ELEMENT = Fixed(1, 6)

NAMED: dict[str, Format] = {
    "e4m3fn": E4M3FN,
    "e5m2": E5M2,
    "e3m4": E3M4,
    "e4m3fnuz": E4M3FNUZ,
    "e5m2fnuz": E5M2FNUZ,
    "e4m3b11fnuz": E4M3B11FNUZ,
    "e3m2fn": E3M2FN,
    "e2m3fn": E2M3FN,
    "e2m1fn": E2M1FN,
    "e8m0fnu": E8M0FNU,
    "bfloat16": BFLOAT16,
    "float16": FLOAT16,
    "float32": FLOAT32,
    "int2": INT2,
    "int4": INT4,
    "int8": INT8,
    "int16": INT16,
    "uint2": UINT2,
    "uint4": UINT4,
    "uint8": UINT8,
}
ALIASES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "e8m0": "e8m0fnu"}


def parse(name: str) -> Format:
    """Returns the format that `name` stands for.

    Args:
      name: An ml_dtypes name with or without `float8_`, `float6_` or `float4_`; `eXmY` with
        `fn`, `finite`, `fnuz` or `inuz`; `intK`, `uintK`; `fixedI.F`.

    Returns:
      The format.

    Raises:
      ValueError: If no format has that name; the message lists near names.
    """
    text = re.sub(r"^(float[468]_|torch\.)", "", name.strip().lower())
    text = ALIASES.get(text, text)
    if text == "e4m3" and not name.strip().lower().startswith("float8_"):
        raise ValueError(
            "The name 'e4m3' has two readings. Write 'e4m3fn' for the OCP format (largest value "
            "448, no infinity), or 'float8_e4m3' for the IEEE one of ml_dtypes (largest 240)."
        )
    if text in NAMED:
        return NAMED[text]
    format = _grammar(text)
    if format is None:
        near = difflib.get_close_matches(text, [*NAMED, *ALIASES], n=4, cutoff=0.4)
        hint = f"Near names: {', '.join(near)}." if near else f"Names: {', '.join(NAMED)}."
        raise ValueError(f"No format has the name {name!r}. {hint}")
    return format


def _grammar(text: str) -> Format | None:
    """Reads the names that follow a rule; None where `text` follows none."""
    if match := re.fullmatch(r"(u?)int(\d+)(full)?", text):
        return Int(int(match[2]), signed=not match[1], narrow=not match[3])
    if match := re.fullmatch(r"(u?)fixed(\d+)\.(\d+)(full)?", text):
        return Fixed(int(match[2]), int(match[3]), signed=not match[1], narrow=not match[4])
    if match := re.fullmatch(r"e(\d)m0(?:b(-?\d+))?fnu", text):
        return PowerOfTwo(int(match[1]), bias=None if match[2] is None else int(match[2]))
    if match := re.fullmatch(r"pow2_(\d)(?:b(-?\d+))?(s?)(z?)(n?)", text):
        return PowerOfTwo(
            int(match[1]),
            bias=None if match[2] is None else int(match[2]),
            signed=bool(match[3]),
            zero=bool(match[4]),
            nan=bool(match[5]),
        )
    pattern = r"(u?)e(\d)m(\d+)(?:b(-?\d+))?(fnuz|fn|inuz|finite)?(_ftz)?"
    if match := re.fullmatch(pattern, text):
        sizes = (int(match[2]), int(match[3]))
        family = match[5] or "ieee"
        # ml_dtypes spells OCP's elements without NaN `fn`.
        if family == "fn" and sizes in ((2, 1), (2, 3), (3, 2)):
            family = "finite"
        return Float(
            *sizes,
            family=family,
            bias=None if match[4] is None else int(match[4]),
            signed=not match[1],
            subnormals=not match[6],
        )
    return None
