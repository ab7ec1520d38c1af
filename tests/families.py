"""What the laws are tested over: a new member is tested by being listed here."""

from qjax import formats, qtypes, rounding
from qjax.formats import Fixed, Float, Int, PowerOfTwo

# Formats with a dtype in ml_dtypes (or NumPy) to compare with.
ORACLE_FLOATS = [
    formats.E4M3FN,
    formats.E5M2,
    formats.E2M1FN,
    formats.E2M3FN,
    formats.E3M2FN,
    formats.E4M3,
    formats.E3M4,
    formats.E4M3FNUZ,
    formats.E5M2FNUZ,
    formats.E4M3B11FNUZ,
    formats.BFLOAT16,
    formats.FLOAT16,
]
FORMATS = [
    *ORACLE_FLOATS,
    Float(8, 23),
    Float(3, 0, family="finite"),
    Float(0, 3, family="finite"),
    Float(1, 2, family="finite"),
    Float(4, 3, signed=False),
    Float(4, 3, family="fn", subnormals=False),
    Float(5, 2, family="inuz"),
    Float(2, 2, bias=9),
    Int(2),
    Int(4),
    Int(8),
    Int(8, narrow=False),
    Int(5, signed=False),
    Fixed(1, 6),
    Fixed(0, 3),
    formats.Dyadic(6, 3),
    PowerOfTwo(8),
    PowerOfTwo(3, signed=True, zero=True, nan=False),
    *(formats.binary8p(precision) for precision in range(1, 8)),
    Float(4, 3, family="fn", saturate=False),
    formats.NF4,
    formats.normal_float(3),
    formats.dynamic_exponent(8),
    formats.TERNARY,
    formats.BINARY,
]
QTYPES = [
    qtypes.MXFP8,
    qtypes.MXFP8_E5M2,
    qtypes.MXFP4,
    qtypes.MXINT8,
    qtypes.NVFP4,
    qtypes.INT8_CHANNEL,
    qtypes.E4M3FN_TENSOR,
    qtypes.UINT8_CHANNEL,
    qtypes.DEEPSEEK_128X128,
    qtypes.VS_QUANT,
    qtypes.NF4_DOUBLE,
    qtypes.MX6,
    qtypes.block_float(4),
    qtypes.shift_groups(4, 4),
    qtypes.parse("e2m1fn:e8m0_t32n2m4"),
    qtypes.parse("uint8:float32_uint8_t16n3m8"),
]
ROUNDINGS = [
    rounding.NearestEven(),
    rounding.NearestAway(),
    rounding.NearestZero(),
    rounding.NearestUp(),
    rounding.NearestDown(),
    rounding.TowardZero(),
    rounding.AwayFromZero(),
    rounding.Floor(),
    rounding.Ceil(),
    rounding.ToOdd(),
    rounding.Stochastic(),
    rounding.Stochastic(bits=4),
    rounding.Stochastic(shared=(0,)),
]


def label(member) -> str:
    """Returns a name for test ids."""
    return getattr(member, "name", None) or repr(member)
