"""Held-out losses are per batch, so that two runs can be compared in pairs."""

import math

import numpy as np
import pytest

from qjax.train.evaluation import Evaluation, gap, standard_error


def test_the_gap_is_paired():
    base = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    a, b = Evaluation(5, base + np.float32(0.5)), Evaluation(5, base)
    difference, error = gap(a, b)
    assert difference == pytest.approx(0.5)
    assert error == pytest.approx(0.0, abs=1e-7)
    assert a.standard_error == pytest.approx(math.sqrt(5 / 3) / 2)


def test_the_standard_error_covers_the_mean():
    draw = np.random.default_rng(0)
    values = draw.normal(size=(2000, 16))
    covered = [abs(v.mean()) < 2.131 * standard_error(v) for v in values]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_one_batch_has_no_standard_error():
    assert math.isnan(Evaluation(1, np.array([1.0], np.float32)).standard_error)


def test_different_batches_are_refused():
    a, b = (Evaluation(1, np.zeros(n, np.float32)) for n in (3, 4))
    with pytest.raises(ValueError, match="`of` has 3 and `to` has 4"):
        gap(a, b)
