"""The named formats, and the reading of names. Stands above what it lists."""

import difflib
import re

from qjax.formats._base import Format
from qjax.formats._choice import bitmod
from qjax.formats._codebook import Codebook, FourthRoots
from qjax.formats._dyadic import Dyadic
from qjax.formats._float import Float
from qjax.formats._integer import Fixed, Int
from qjax.formats._lookup import codebook
from qjax.formats._power import PowerOfTwo
from qjax.formats._tables import dynamic_exponent, normal_float

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

# QLoRA's table, as published (rounded to float32 there).
NF4 = Codebook(
    (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
    label="nf4",
)
BINARY = Codebook((-1.0, 1.0), label="binary")
TERNARY = Codebook((-1.0, 0.0, 1.0), label="ternary")
ROOTS4 = FourthRoots()
POW2 = PowerOfTwo(3, bias=7, signed=True, zero=True, nan=False)


def binary8p(precision: int) -> Float:
    """Returns IEEE P3109's eight-bit format with `precision` significant bits, 1 to 7.

    One zero, one NaN at the code of -0, both infinities, bias `2**(exponent_bits - 1)`.
    """
    return Float(8 - precision, precision - 1, family="inuz")


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
    "nf4": NF4,
    "binary": BINARY,
    "ternary": TERNARY,
    "pow2": POW2,
    "roots4": ROOTS4,
}
ALIASES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "e8m0": "e8m0fnu",
    **{f"binary8p{p}": binary8p(p).name for p in range(1, 8)},
}


def parse(name: str) -> Format:
    """Returns the format that `name` stands for.

    Args:
      name: An ml_dtypes name with or without `float8_`, `float6_` or `float4_`; `eXmY` with
        `bN` for a bias and `fn`, `finite`, `fnuz` or `inuz`; `floatK`, `bfloatK`; `intK`, `uintK`;
        `fixedI.F`; `dyadicB_C`; `eXm0fnu` and `pow2...` for powers of two; `nfK`, `dynamicK`,
        `ternary`, `binary`, `roots4`; `bitmodK`; TensorCast's `cb...` and `icb...`; `binary8pP` of
        P3109.

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
    if match := re.fullmatch(r"(u?)fixed(-?\d+)\.(-?\d+)(full|wrap)?", text):
        options = {"signed": not match[1], "narrow": not match[4], "wrap": match[4] == "wrap"}
        return Fixed(int(match[2]), int(match[3]), **options)
    if match := re.fullmatch(r"dyadic(\d+)_(\d)", text):
        return Dyadic(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"b?float(\d+)", text):
        bits = int(match[1])
        wide = text.startswith("b") or bits > 16
        if not 9 <= bits <= 32:
            return None
        return Float(8, bits - 9) if wide else Float(5, bits - 6)
    if match := re.fullmatch(r"(nf|dynamic)(\d)", text):
        builder = normal_float if match[1] == "nf" else dynamic_exponent
        return builder(int(match[2]))
    if text in ("bitmod3", "bitmod4"):
        return bitmod(int(text[-1]))
    if text.startswith(("cb", "icb")) and (choice := codebook(text)) is not None:
        return choice
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
    return _float(text)


def _float(text: str) -> Format | None:
    """Reads `eXmY` with its bias, family and flags; None where `text` is not that."""
    pattern = r"(u?)e(\d)m(\d+)(?:b(-?\d+))?(fnuz|fn|inuz|finite)?(_ftz)?(_ovf)?"
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
            saturate=not match[7],
        )
    return None
