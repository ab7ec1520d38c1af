"""Seeds mistakes into copies of the numeric files, one at a time, and runs the tests for each.

Run as `python -m tests.mutants` (or `make mutants`). It ends with an error where a mistake
survives, or where a snippet that a mistake replaces is no longer in its file.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
ORACLES = "tests/formats/test_oracles.py -k e4m3fn"
ROUNDING = "tests/test_rounding.py -k every_gap"
VECTORS = "tests/test_quantizer.py -k vectors"

# (what is wrong, file, snippet, its replacement, the tests that must fail)
MUTANTS = [
    (
        "floor instead of round to nearest",
        "qjax/rounding.py",
        "return lax.round(units, lax.RoundingMethod.TO_NEAREST_EVEN)",
        "return jnp.floor(units)",
        ORACLES,
    ),
    (
        "ties away from zero instead of to even",
        "qjax/rounding.py",
        "lax.RoundingMethod.TO_NEAREST_EVEN",
        "lax.RoundingMethod.AWAY_FROM_ZERO",
        ORACLES,
    ),
    (
        "bias off by one",
        "qjax/formats/_float.py",
        'return ((1 << self.exponent_bits) >> 1) - (0 if self.family in ("fnuz", "inuz") else 1)',
        "return (1 << self.exponent_bits) >> 1",
        ORACLES,
    ),
    (
        "largest value takes NaN's code",
        "qjax/formats/_float.py",
        '"fn": (1, False, True)',
        '"fn": (0, False, True)',
        ORACLES,
    ),
    (
        "the sign of zero is lost",
        "qjax/casting/_ends.py",
        "        result = result | sign\n",
        "        result = jnp.where(result == 0, 0, result | sign)\n",
        ORACLES,
    ),
    (
        "NaN saturates",
        "qjax/casting/_relative.py",
        "size > (INFINITY if",
        "size > (NAN if",
        ORACLES,
    ),
    (
        "subnormals keep shrinking",
        "qjax/casting/_relative.py",
        "jnp.maximum(part & -STEP, lowest)",
        "(part & -STEP)",
        ORACLES,
    ),
    (
        "a scale that is NaN makes zeros",
        "qjax/casting/_shift.py",
        "jnp.where(invalid, NAN, steps)",
        "jnp.where(invalid, 0, steps)",
        "tests/test_casting.py -k made_ready",
    ),
    (
        "a sum reaches half of the integers",
        "qjax/casting/_even.py",
        "1.5 * 2**23 * step",
        "1.5 * 2**22 * step",
        "tests/test_casting.py -k know_their_scale",
    ),
    (
        "float32 subnormals are flushed",
        "qjax/formats/_patterns.py",
        "return jnp.where(magnitude < STEP, normal, magnitude)",
        "return jnp.where(magnitude < STEP, -(126 << 23), magnitude)",
        "tests/test_casting.py -k subnormals",
    ),
    (
        "the key's second word is ignored",
        "qjax/rounding.py",
        "words = lax.slice(data, (0,), (2,))",
        "words = lax.slice(data, (0,), (1,))",
        "tests/test_rounding.py -k related_keys",
    ),
    (
        "one draw for all elements",
        "qjax/rounding.py",
        "place = lax.iota(jnp.uint32, size)",
        "place = jnp.uint32(0) * lax.iota(jnp.uint32, size)",
        "tests/test_rounding.py -k mean_is_the_value",
    ),
    (
        "draws may move what is on the grid",
        "qjax/rounding.py",
        "* jnp.float32(2.0**-24) + jnp.float32(2.0**-24)",
        "* jnp.float32(2.0**-24) - jnp.float32(0.24)",
        "tests/test_rounding.py -k grid_never_move",
    ),
    (
        "the scale rule rounds up",
        "qjax/calibration/_rules.py",
        '"floor": 0,',
        '"floor": STEP - 1,',
        VECTORS,
    ),
    (
        "the scale forgets the element's exponent",
        "qjax/calibration/_rules.py",
        "- (limit >> 23)",
        "- (limit >> 23) + 1",
        VECTORS,
    ),
    (
        "up and down are swapped",
        "qjax/rounding.py",
        "return jnp.where(negative, jnp.ceil(units), jnp.floor(units))",
        "return jnp.where(negative, jnp.floor(units), jnp.ceil(units))",
        ROUNDING,
    ),
    (
        "tiles follow the kept axes",
        "qjax/tiling.py",
        "((contract, tile.contract), (keep, tile.keep))",
        "((keep, tile.contract), (contract, tile.keep))",
        "tests/test_tiling.py -k consecutive",
    ),
    (
        "codes that cross a byte lose their upper part",
        "qjax/qtensor/_pack.py",
        "column << start if start >= 0 else column >> -start",
        "column << start if start >= 0 else column",
        "tests/test_qtensor.py -k packing",
    ),
    (
        "pairs of codes are joined the wrong way round",
        "qjax/qtensor/_pack.py",
        "(words | (words >> (8 - width)))",
        "((words >> 8) | (words << width))",
        "tests/test_qtensor.py -k packing",
    ),
    (
        "small results lose their last bit",
        "qjax/casting/_relative.py",
        "value + _float(bottom), jnp.int32) - bottom",
        "value + 2 * _float(bottom), jnp.int32) - (bottom + STEP)",
        "tests/test_casting.py -k both_ways",
    ),
    (
        "scales snap down to the power below",
        "qjax/quantizer/_levels.py",
        "jnp.clip(above - down, ",
        "jnp.clip(above - down - 1, ",
        "tests/test_groups.py -k snapped",
    ),
    (
        "negative numbers wrap like positive ones",
        "qjax/casting/_wrapped.py",
        "span - last, last)",
        "last, last)",
        "tests/formats/test_formats.py -k wrapping",
    ),
    (
        "tiles choose their worst table",
        "qjax/quantizer/_choices.py",
        "jnp.argmin(",
        "jnp.argmax(",
        "tests/test_choices.py -k brute_force",
    ),
    (
        "a vector of each block is left out of its maximum",
        "qjax/calibration/_base.py",
        "jnp.max(parts, axis=-2)",
        "jnp.max(parts[..., 1:, :], axis=-2)",
        "tests/test_quantizer.py -k int8_channels",
    ),
    (
        "subnormal inputs of a scale are read as if normal",
        "qjax/casting/_relative.py",
        "    return jnp.minimum(subnormal, ",
        "    return jnp.maximum(subnormal, ",
        "tests/test_casting.py -k both_ways",
    ),
    (
        "a draw of zero moves zero",
        "qjax/rounding.py",
        "* jnp.float32(2.0**-24) + jnp.float32(2.0**-24)",
        "* jnp.float32(2.0**-24)",
        "tests/test_rounding.py -k zero_never_moves",
    ),
    (
        "a table that fits is scaled to the range of all",
        "qjax/quantizer/_choices.py",
        "scales(table if format.fitted else format, False)",
        "scales(format, False)",
        "tests/test_choices.py -k beats_each",
    ),
    (
        "the number of the table is written over the index",
        "qjax/formats/_choice.py",
        "(choice.astype(jnp.int32) << self.width)",
        "(choice.astype(jnp.int32) << (self.width - 1))",
        "tests/test_choices.py -k round_trips",
    ),
    (
        "patterns move up the line instead of down",
        "qjax/formats/_lookup.py",
        "p + top - places[-1] - down",
        "p + top - places[-1] - 2 + down",
        "tests/test_choices.py -k documented",
    ),
    (
        "wrapped ties forget whether the integer is odd",
        "qjax/casting/_wrapped.py",
        "whole - odd + rounding(odd.astype(jnp.float32) + part, ",
        "whole + rounding(part, ",
        "tests/formats/test_formats.py -k wrapping",
    ),
    (
        "a channel at exactly half the range goes one group too far",
        "qjax/calibration/_groups.py",
        "np.ldexp(top, -j - 1) < sizes",
        "np.ldexp(top, -j - 1) <= sizes",
        "tests/test_groups.py -k snapped",
    ),
    (
        "the cost of a group forgets how many channels it has",
        "qjax/calibration/_groups.py",
        "square[i] * (ends - i)",
        "square[i] * (ends > i)",
        "tests/test_groups.py -k brute_force",
    ),
    (
        "codes are unpacked from the wrong end",
        "qjax/qtensor/_pack.py",
        "weights = jnp.uint32(1) << jnp.arange(width, dtype=jnp.uint32)",
        "weights = jnp.uint32(1) << jnp.arange(width, dtype=jnp.uint32)[::-1]",
        "tests/test_qtensor.py -k packing",
    ),
    (
        "the second level of a scale is rounded down",
        "qjax/quantizer/_levels.py",
        "wanted = amax * inner.spread(encode * reciprocal(format.max))",
        "wanted = 0.9 * amax * inner.spread(encode * reciprocal(format.max))",
        "tests/test_calibration.py -k nvfp4_follows",
    ),
    (
        "files pass over what their parts disagree in",
        "qjax/qtensor/_files.py",
        'if qtype.name != fact["type"]:',
        "if False:",
        "tests/test_qtensor.py -k disagree",
    ),
]


def survives(file: str, snippet: str, replacement: str, tests: str) -> bool:
    """Whether the tests pass although the mistake is in a copy of the project."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        for part in ("qjax", "tests", "pyproject.toml"):
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / part)
        path = copy / file
        text = path.read_text()
        if snippet not in text:
            raise SystemExit(f"{file} no longer contains {snippet!r}: update tests/mutants.py")
        path.write_text(text.replace(snippet, replacement))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": folder}
        run = subprocess.run(
            [*command, *tests.split()], cwd=copy, env=environment, capture_output=True, check=False
        )
        return run.returncode == 0


def main() -> None:
    """Runs all mutants, or those whose description contains the first argument."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    alive = 0
    for what, file, snippet, replacement, tests in MUTANTS:
        if wanted not in what:
            continue
        lived = survives(file, snippet, replacement, tests)
        alive += lived
        print(f"{'SURVIVED' if lived else 'caught':9s} {what}", flush=True)
    if alive:
        raise SystemExit(f"{alive} mistakes were not caught")


if __name__ == "__main__":
    main()
