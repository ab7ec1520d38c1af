"""Spots a keyword with weights of few bits and nothing above eight, frame by frame.

    python examples/kws.py --bits 4 5

A small feed-forward model listens to recordings that are made up here. Its weights are squashed by
a hyperbolic tangent and trained in few bits, or are signs; then they stay, normalizations become
gains of eight bits and biases, the inputs of all layers take eight bits, and training goes on
("Sub 8-bit quantization of streaming keyword spotting models for embedded chipsets", arXiv
2207.06920). What is reported runs on integers alone: false detections where 5 % of keywords are
missed, operations and time for one frame, and memory.
"""

import argparse
import sys
import time

import numpy as np
from spotting import integer, sounds
from spotting.training import (
    CONTEXT,
    Plan,
    detection,
    false_detections,
    fit,
    of_seed,
    quantized,
    two_stages,
    windows,
)

from qjax.recipes import squashed

HEAD = f"{'model':24} {'false detections':>17} {'operations':>11} {'us/frame':>9} {'bytes':>8}"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--bits",
        type=int,
        nargs="+",
        default=[1, 4, 5],
        help="bits of weights, 1 to 8 (default: 1 4 5)",
    )
    add("--recordings", type=int, default=2000, help="to train on (count; default: 2000)")
    add("--steps", type=int, default=800, help="of both stages (count; default: 800)")
    add("--width", type=int, default=48, help="features of hidden layers (count; default: 48)")
    add("--seed", type=int, default=0, help="of sounds and parameters (default: 0)")
    options = parser.parse_args(arguments)
    if options.recordings < 64 or min(options.steps, options.width) < 1:
        parser.error("--recordings must be at least 64, --steps and --width at least 1")
    if any(not 1 <= bits <= 8 for bits in options.bits):
        parser.error(f"--bits must be 1 to 8, but are {options.bits}")
    return options


def per_frame(layers: list[integer.Layer], rows: np.ndarray) -> float:
    """Microseconds for a frame of a stream, in NumPy on this machine: the median."""
    stream, spent = integer.Stream(layers, rows.shape[-1]), []
    for frame in np.concatenate(list(rows[:4])):
        began = time.perf_counter()
        stream(frame)
        spent.append(time.perf_counter() - began)
    return 1e6 * float(np.median(spent[CONTEXT:]))


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    rows, targets = sounds.dataset(options.recordings, options.seed)
    test_rows, test_targets = sounds.dataset(options.recordings // 2, options.seed + 1)
    data, test = (windows(rows), targets), windows(test_rows)
    steps = max(options.steps * 4 // 5, 1)
    plan = Plan(steps=steps, width=options.width, seeds=(options.seed,))
    print(HEAD)
    model = quantized(plan, None, folded=False)
    variables = of_seed(fit(model, data, plan.whole), 0)
    scores = np.asarray(detection(model.apply(variables, test)))
    size = 4 * sum(np.size(p) for layer in variables["params"].values() for p in layer.values())
    missed = false_detections(scores, test_targets)
    print(f"{'float32':24} {missed:17.2%} {'-':>11} {'-':>9} {size:8}", flush=True)
    for bits in options.bits:
        _, found, _ = two_stages(data, plan, bits)
        layers = integer.export(of_seed(found, 0)["params"], squashed.policy(bits, 8))
        scores = np.asarray(detection(integer.run(layers, test)[0]))
        missed = false_detections(scores, test_targets)
        operations = sum(layer.operations for layer in layers)
        spent, size = per_frame(layers, test_rows), integer.memory(layers, bits)
        name = f"{bits}-bit weights, integers"
        print(f"{name:24} {missed:17.2%} {operations:11} {spent:9.1f} {size:8}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"kws: {error}")
