"""Descriptions state the facts; pictures show every value."""

import pytest

from qjax import formats


def test_descriptions_state_the_facts():
    text = formats.describe("e4m3fn")
    for fact in ("e4m3fn", "448", "0.015625", "0.001953125", "float8_e4m3fn", "253", "1.4.3"):
        assert fact in text
    assert "-6 -4 -3 -2 -1.5 -1 -0.5 0 0.5 1 1.5 2 3 4 6" in formats.describe(formats.E2M1FN)
    assert "nf4" in formats.describe("nf4")


def test_the_number_line_has_a_tick_for_every_value():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    axes = formats.plot("e2m3fn")
    assert len(axes.collections[0].get_segments()) == len(formats.E2M3FN.values())
    pyplot.close(axes.figure)
