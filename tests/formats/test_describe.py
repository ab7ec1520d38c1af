"""Descriptions state the facts; pictures show every value."""

import pytest

from qjax import formats


def test_descriptions_state_the_facts():
    text = formats.describe("e4m3fn")
    for fact in ("e4m3fn", "448", "0.015625", "0.001953125", "float8_e4m3fn", "253", "1.4.3"):
        assert fact in text
    assert "-6 -4 -3 -2 -1.5 -1 -0.5 0 0.5 1 1.5 2 3 4 6" in formats.describe(formats.E2M1FN)
    assert "nf4" in formats.describe("nf4")


@pytest.mark.parametrize("name", [*formats.NAMED, "bitmod4", "cb44_e4m3fn_mine", "fixed2.3wrap"])
def test_every_format_can_be_described(name):
    lines = formats.describe(name).splitlines()
    assert lines[0].split() == ["name", formats.parse(name).name]
    assert lines[1].split() == ["bits", str(formats.parse(name).width)]
    assert not any("j" in line for line in lines if line.startswith("decades"))


def test_pictures_show_the_last_gap_wide_ranges_and_the_plane():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    line = formats.plot("int4")
    assert line.lines[0].get_xdata()[-1] == 7
    assert formats.plot("e8m0fnu").get_xscale() == "log"
    assert len(formats.plot("roots4").collections[0].get_offsets()) == 4
    pyplot.close("all")


def test_the_number_line_has_a_tick_for_every_value():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    axes = formats.plot("e2m3fn")
    assert len(axes.collections[0].get_segments()) == len(formats.E2M3FN.values())
    pyplot.close(axes.figure)
