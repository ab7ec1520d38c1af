"""The model of areas: orders that hold for any count, and limits worked out by hand."""

import pytest

from qjax import cost


def test_narrow_blocks_are_denser_and_longer_ones_amortize_what_they_share():
    by_bits = [cost.density(cost.block_area(b, b, 64)) for b in (4, 5, 6, 8)]
    assert by_bits == sorted(by_bits, reverse=True)
    assert by_bits[-1] > cost.density(cost.float_area(7)) > 1
    by_block = [cost.density(cost.block_area(4, 4, n)) for n in (1, 16, 64, 256, 576)]
    assert by_block == sorted(by_block)
    assert by_block[-1] / by_block[-2] < 1.1 < by_block[1] / by_block[0]
    mixed = cost.block_area(4, 8, 64).total
    assert cost.block_area(4, 4, 64).total < mixed < cost.block_area(8, 8, 64).total


def test_the_parts_of_a_small_unit_by_hand():
    area = cost.block_area(4, 4, 4)
    assert area.multiply == 16
    assert area.add * 4 == 2 * 9 + 1 * 10, "two adders of nine bits and one of ten"
    assert cost.density(cost.float_area(23)) == 1
    assert cost.density(area, than=area) == 1
    assert area.total == pytest.approx(area.multiply + area.add + area.once)


def test_four_bit_blocks_stand_to_float32_and_bfloat16_as_published_within_two():
    """Published: up to 21.3 times as dense as float32, 4.4 times as bfloat16 (abstract, v3)."""
    four = cost.block_area(4, 4, 64)
    assert 21.3 / 2 < cost.density(four) < 2 * 21.3
    assert cost.density(four, than=cost.float_area(7)) > 4.4


def test_a_block_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"block of at least 1.*Give for instance 64"):
        cost.block_area(4, 4, 0)
