"""Number formats by name."""

import math

import pytest

from scaling.tables import effective_bits, parse_format
from scaling.tables.formats import CHANNEL_BLOCK


@pytest.mark.parametrize(
    ("name", "E", "M", "bits", "B"),
    [
        ("BF16", 8, 7, 16, None),
        ("fp16", 5, 10, 16, None),
        ("FP32", 8, 23, 32, None),
        ("FP8-E4M3", 4, 3, 8, None),
        ("E5M2", 5, 2, 8, None),
        ("FP6-E3M2", 3, 2, 6, None),
        ("FP6-E2M3", 2, 3, 6, None),
        ("FP4", 2, 1, 4, None),
        ("E2M1", 2, 1, 4, None),
        ("INT4", 0, 3, 4, None),
        ("INT8@tensor", 0, 7, 8, "tensor"),
        ("BF16@channel", 8, 7, 16, "channel"),
        ("INT4-g128", 0, 3, 4, 128),
        ("E4M3@128", 4, 3, 8, 128),
        ("MXFP8", 4, 3, 8, 32),
        ("MXFP8-E5M2", 5, 2, 8, 32),
        ("MXFP6-E2M3", 2, 3, 6, 32),
        ("MXFP4", 2, 1, 4, 32),
        ("MXINT8", 0, 7, 8, 32),
        ("NVFP4", 2, 1, 4, 16),
        ("TERNARY", None, None, math.log2(3), None),
        ("BINARY", None, None, 1, None),
    ],
)
def test_a_name_is_parsed(name, E, M, bits, B):
    found = parse_format(name)
    assert (found.E, found.M, found.bits, found.B) == (E, M, bits, B)


def test_scales_are_paid_for():
    assert parse_format("MXFP8").effective_bits == 8.25
    assert parse_format("NVFP4").effective_bits == 4.5
    assert parse_format("INT4-g128").effective_bits == 4.125
    assert parse_format("INT4").effective_bits == 4
    assert effective_bits(4, 64) == 4.25
    assert effective_bits(4, 64, outliers=0.02) == pytest.approx(4.49)
    assert parse_format("E4M3@channel").block == CHANNEL_BLOCK
    assert math.isnan(parse_format("E4M3@tensor").block)


@pytest.mark.parametrize("name", ["", "FP9", "INT0", "FP8-E5M3", "E4", "MX", "INT4@0", "float"])
def test_what_is_no_format_is_refused(name):
    with pytest.raises(ValueError, match="format"):
        parse_format(name)
