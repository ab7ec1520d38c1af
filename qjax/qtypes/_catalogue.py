"""The named types, and the reading of names. Stands above what it lists."""

import difflib
import re

from qjax import formats
from qjax.formats import Fixed, Format, PowerOfTwo
from qjax.qtypes import _grammar, _tensorcast, _writing
from qjax.qtypes._qtype import QType
from qjax.tiling import Tile

MX_TILE = Tile(32, 1)
E8M0 = QType(formats.E8M0FNU)
FLOAT32_SCALE = QType(formats.FLOAT32)

MXFP8 = QType(formats.E4M3FN, MX_TILE, E8M0)
MXFP8_E5M2 = QType(formats.E5M2, MX_TILE, E8M0)
MXFP6_E3M2 = QType(formats.E3M2FN, MX_TILE, E8M0)
MXFP6_E2M3 = QType(formats.E2M3FN, MX_TILE, E8M0)
MXFP4 = QType(formats.E2M1FN, MX_TILE, E8M0)
MXINT8 = QType(formats.MXINT8_ELEMENT, MX_TILE, E8M0)
NVFP4 = QType(formats.E2M1FN, Tile(16, 1), QType(formats.E4M3FN, Tile(), FLOAT32_SCALE))
INT8_CHANNEL = QType(formats.INT8, Tile(None, 1), FLOAT32_SCALE)
INT8_TENSOR = QType(formats.INT8, Tile(), FLOAT32_SCALE)
# Integer-only arithmetic: a product of codes is multiplied by an integer and shifted.
INT8_CHANNEL_DYADIC = QType(formats.INT8, Tile(None, 1), QType(formats.Dyadic(24, 6)))
INT4_CHANNEL = QType(formats.INT4, Tile(None, 1), FLOAT32_SCALE)
E4M3FN_TENSOR = QType(formats.E4M3FN, Tile(), FLOAT32_SCALE)
E5M2_TENSOR = QType(formats.E5M2, Tile(), FLOAT32_SCALE)
E4M3FN_CHANNEL = QType(formats.E4M3FN, Tile(None, 1), FLOAT32_SCALE)

E5M2_CHANNEL = QType(formats.E5M2, Tile(None, 1), FLOAT32_SCALE)
INT4_GROUP128 = QType(formats.INT4, Tile(128, 1), FLOAT32_SCALE)
# Affine: unsigned codes from the smallest to the largest element.
UINT8_CHANNEL = QType(formats.UINT8, Tile(None, 1), FLOAT32_SCALE, QType(formats.UINT8))
UINT4_GROUP32 = QType(formats.UINT4, Tile(32, 1), FLOAT32_SCALE, QType(formats.UINT4))
# DeepSeek-V3: activations and gradients, then weights.
DEEPSEEK_1X128 = QType(formats.E4M3FN, Tile(128, 1), FLOAT32_SCALE)
DEEPSEEK_128X128 = QType(formats.E4M3FN, Tile(128, 128), FLOAT32_SCALE)
# VS-Quant: integer scales per vector, a float per channel.
VS_QUANT = QType(formats.INT4, Tile(16, 1), QType(formats.UINT4, Tile(None, 1), FLOAT32_SCALE))
NF4 = QType(formats.NF4, Tile(64, 1), FLOAT32_SCALE)
NF4_DOUBLE = QType(
    formats.NF4, Tile(64, 1), QType(formats.parse("dynamic8"), Tile(256, 1), FLOAT32_SCALE)
)
# BitMoD: a table per group, whose scale is an integer of eight bits below a float per channel.
BITMOD3, BITMOD4 = (
    QType(formats.bitmod(bits), Tile(128, 1), QType(formats.INT8, Tile(None, 1), FLOAT32_SCALE))
    for bits in (3, 4)
)
# Block floating point with whole integers, eight to a scale.
BFP16 = QType(formats.INT8, Tile(8, 1), E8M0)


def microexponents(bits: int) -> QType:
    """Returns integers of `bits` bits, sixteen to a power of two, pairs shifted by one bit more.

    Shared microexponents: MX9, MX6 and MX4 have 8, 5 and 3 bits per element (Rouhani et al. 2023,
    arXiv:2302.08007).
    """
    offset = PowerOfTwo(1, bias=1, nan=False)
    return QType(formats.Int(bits), Tile(2, 1), QType(offset, Tile(8, 1), E8M0))


MX9, MX6, MX4 = microexponents(8), microexponents(5), microexponents(3)


def shift_groups(bits: int, groups: int = 4) -> QType:
    """Returns integers whose channels along the contracted axis share powers of two below a float.

    Channel scales are `s, s / 2, ... s * 2**(1 - groups)`, so that a product of integers needs only
    shifts before its sum over channels (ShiftQuant, arXiv:2411.10948).

    Args:
      bits: Bits of an integer.
      groups: Number of scales: 2, 4, 8 ... 256.

    Raises:
      ValueError: If `groups` is no power of two.
    """
    if groups not in [1 << k for k in range(1, 9)]:
        raise ValueError(f"`shift_groups` was asked for {groups} groups. Give 2, 4, 8 ... 256.")
    steps = PowerOfTwo(groups.bit_length() - 1, bias=groups - 1, nan=False)
    return QType(formats.Int(bits), Tile(1, None), QType(steps, Tile(), FLOAT32_SCALE))


NAMED: dict[str, QType] = {
    "e5m2_channel": E5M2_CHANNEL,
    "int4_group128": INT4_GROUP128,
    "uint8_channel": UINT8_CHANNEL,
    "uint4_group32": UINT4_GROUP32,
    "deepseek_1x128": DEEPSEEK_1X128,
    "deepseek_128x128": DEEPSEEK_128X128,
    "vs_quant": VS_QUANT,
    "nf4_block64": NF4,
    "nf4_double": NF4_DOUBLE,
    "bitmod3_block128": BITMOD3,
    "bitmod4_block128": BITMOD4,
    "bfp16_block8": BFP16,
    "mx9": MX9,
    "mx6": MX6,
    "mx4": MX4,
    "mxfp8": MXFP8,
    "mxfp8_e5m2": MXFP8_E5M2,
    "mxfp6_e3m2": MXFP6_E3M2,
    "mxfp6_e2m3": MXFP6_E2M3,
    "mxfp4": MXFP4,
    "mxint8": MXINT8,
    "nvfp4": NVFP4,
    "int8_channel": INT8_CHANNEL,
    "int8_channel_dyadic": INT8_CHANNEL_DYADIC,
    "int8_tensor": INT8_TENSOR,
    "int4_channel": INT4_CHANNEL,
    "e4m3fn_tensor": E4M3FN_TENSOR,
    "e5m2_tensor": E5M2_TENSOR,
    "e4m3fn_channel": E4M3FN_CHANNEL,
}
_writing.give_names(NAMED)
ALIASES = {
    "mxfp8_e4m3": "mxfp8",
    "int8_token": "int8_channel",
    "mxfp8e5": "mxfp8_e5m2",
    "mxfp8e4": "mxfp8",
    "mxfp6e3": "mxfp6_e3m2",
    "mxfp6e2": "mxfp6_e2m3",
    "mxfp4e2": "mxfp4",
    "mxint4": "int4:e8m0_t32",
    **_tensorcast.TENSORCAST,
}


def block_float(bits: int, block: int = 64) -> QType:
    """Returns block floating point: mantissas of `bits` bits with one shared power of two.

    The mantissas are fractions below one, sign included in `bits` (HBFP, Drumond et al. 2018;
    blocks of 64 as in Harma et al., "Accuracy Booster", 2022).
    """
    return QType(Fixed(0, bits - 1), Tile(block, 1), E8M0)


def parse(name: str) -> QType:
    """Returns the type that `name` stands for; a format's name gives a type without scale.

    Beside the catalogue's names it reads `bfpM` and the long form `format:scale[_zero][_tile]` of
    TensorCast: "e2m1fnuz:e8m0_t32", "uint4:float32_uint4_t32", "int5:e8m0_t16s2o1" (subtiles of
    two with one-bit offsets), "e4m3fn:float32_t128_t128" (two dimensions), and
    "e2m1fn:multi_float32_e4m3fn_t16" (a scale of scales), "e2m1fnuz:e8m0_t32n2m4" (of every four
    elements the two of largest magnitude) and "e2m1fnuz:e8m0_t32d0" (tiles along axis 0, whatever
    the use). `t0` is a whole channel; no tile at all a whole tensor.

    Raises:
      ValueError: If no type and no format has that name; the message lists near names.
    """
    text = ALIASES.get(name.strip().lower(), name.strip().lower())
    if text in NAMED:
        return NAMED[text]
    if ":" in text:
        return _grammar.parse(text)
    if match := re.fullmatch(r"bfp(\d+)", text):
        if not 2 <= int(match[1]) <= 24:
            raise ValueError(
                f"The name {name!r} asks for mantissas of {match[1]} bits, sign included. "
                "Give 2 to 24 bits, for instance 'bfp8'."
            )
        return block_float(int(match[1]))
    try:
        return QType(formats.parse(name))
    except ValueError as error:
        if "two readings" in str(error) or "was asked" in str(error) or "takes" in str(error):
            raise
    known = [*NAMED, *formats.NAMED, "bfp4", "bfp6", "bfp8"]
    near = difflib.get_close_matches(text, known, n=4, cutoff=0.4)
    hint = f"Near names: {', '.join(near)}." if near else f"Names: {', '.join(known)}."
    raise ValueError(f"No number type has the name {name!r}. {hint}")


def normalize(type: "QType | Format | str", argument: str = "type") -> QType:
    """Returns the QType that a QType, a Format or a name stands for.

    Raises:
      TypeError: If `type` is none of these.
    """
    if isinstance(type, QType):
        return type
    if isinstance(type, Format):
        return QType(type)
    if isinstance(type, str):
        return parse(type)
    raise TypeError(
        f"`{argument}` must be a QType, a Format or a name, but is {type!r}. "
        "Write for instance 'mxfp8', qtypes.MXFP8 or formats.E4M3FN."
    )
