"""Errors of wide floats, which are extrapolated instead of summed over millions of points."""

import numpy as np
import pytest

from scaling.capacity import best_scale_error, gmse_float, gmse_of_format
from scaling.tables import parse_format


def test_the_error_of_wide_floats_continues_the_exact_one():
    fraction = np.arange(2**9) / 2**9
    positive = np.unique(np.concatenate([(1 + fraction) * 2.0**-k for k in range(15)]))
    exact = best_scale_error(np.concatenate([-positive[::-1], [0.0], positive]))[1]
    assert gmse_float(4, 9) == pytest.approx(exact, rel=1e-4)


def test_every_common_format_has_an_error_and_more_bits_have_a_smaller_one():
    names = ("FP4", "FP6", "FP8", "BF16", "FP16", "TF32", "FP32")
    errors = [gmse_of_format(parse_format(name)) for name in names]
    # BF16 has fewer mantissa bits than FP16 and TF32, which have ten each.
    assert errors[4] == pytest.approx(errors[5], rel=1e-6)
    assert errors[0] > errors[1] > errors[2] > errors[3] > errors[4]
    assert errors[6] == pytest.approx(errors[5] / 4**13, rel=1e-6)
