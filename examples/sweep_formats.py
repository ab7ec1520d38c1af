"""Trains a small language model in many formats at once and draws held-out loss against bits.

    python examples/sweep_formats.py --out examples/results

Every float format, integer format, seed and size is a row of `formats.csv`, which the `scaling`
tool reads; `formats.png` shows them with error bars over seeds. All operands of every layer but
the logits are quantized, with a scale for every 32 elements that never clips; in the recipes
"gradients" only incoming gradients are, with one scale for a whole tensor. A run that is stopped
goes on from the table when it is started again.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import lm
import optax
import sweep_picture

import qjax
from qjax import Gemm, Policy, Quantizer, Recipe, Rule, formats, qtypes, train
from qjax.rounding import Stochastic

# Exponent and mantissa bits: 3 to 8 bits in all, with every split that may be best.
FLOATS = ((1, 1), (2, 0), (1, 2), (2, 1), (3, 0), (2, 2), (3, 1), (2, 3), (3, 2), (4, 3), (5, 2))
INTEGERS = (3, 4, 5, 6, 8)
KINDS = ("nearest", "stochastic", "head too", "gradients", "gradients, stochastic")
AT_ONCE = 18  # runs in one program: what a stop loses


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_runs(parser)
    _add_formats(parser)
    return parser.parse_args(arguments)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/sweep"),
        metavar="DIR",
        help="folder of the table and picture (path; default: runs/sweep)",
    )
    add(
        "--widths",
        type=int,
        nargs="+",
        default=[16, 32, 64],
        metavar="W",
        help="model sizes: features of the residual stream (counts; default: 16 32 64)",
    )
    add("--layers", type=int, default=1, help="transformer blocks (count; default: 1)")
    add("--steps", type=int, default=250, help="training steps (count; default: 250)")
    add("--seeds", type=int, default=3, help="seeds of each format (count; default: 3)")
    add("--batch", type=int, default=8, help="windows per step (count; default: 8)")
    add("--length", type=int, default=32, help="context (bytes; default: 32)")
    add(
        "--learning-rate",
        type=float,
        default=4e-3,
        metavar="RATE",
        help="peak of AdamW's learning rate (per step; default: 0.004)",
    )


def _add_formats(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--kinds",
        nargs="+",
        choices=KINDS,
        default=KINDS,
        metavar="KIND",
        help=f"recipes, of {', '.join(map(repr, KINDS))} (names; default: all)",
    )
    add(
        "--few",
        action="store_true",
        help="only one or two floats of each kind, for a quick look (flag; default: all)",
    )
    add(
        "--text",
        nargs="+",
        metavar="PATH",
        help="files or folders to train on (paths; default: the Python standard library's source)",
    )


def recipe(kind: str, element: formats.Format) -> Recipe:
    """Elements `element` in the operands that `kind`, one of `KINDS`, is about."""
    alone, noisy = kind.startswith("gradients"), kind.endswith("stochastic")
    base = qtypes.INT8_TENSOR if alone else qtypes.MXFP8
    qtype = dataclasses.replace(base, format=element)
    # Noise is unbiased only where nothing is clipped, so scales of powers of two are rounded up.
    plain = Quantizer(qtype) if alone else Quantizer(qtype, scale="rceil")
    grad = dataclasses.replace(plain, rounding=Stochastic()) if noisy else plain
    other = None if alone else plain
    policy = Policy(fwd=Gemm(other, other), dlhs=Gemm(grad, other), drhs=Gemm(other, grad))
    exempt = () if kind == "head too" else (Rule("lm_head", Policy(), optional=True),)
    return Recipe((*exempt, Rule(".*", policy)), name=kind)


def recipes(kinds: Sequence[str], few: bool) -> list[Recipe]:
    """Every recipe of the sweep; floats, and integers, of one kind are one compiled program."""
    floats = [formats.Float(e, m, family="finite") for e, m in FLOATS]
    integers = [formats.Int(bits, narrow=True) for bits in INTEGERS]
    four = [f for f in floats if f.width == 4]
    if few:
        floats, integers, four = floats[3:6:2], [], four[:1]
    every = [*floats, *integers]
    # Noise in the gradients is said to matter below five bits, so wider formats go without.
    narrow = [f for f in every if f.width < 5]
    # Of each width the integer and the best float.
    best = [f for f in floats if f.exponent_bits == 2 and f.width <= 6]
    single = best + [f for f in integers if f.width <= 6]
    chosen = {"nearest": every, "stochastic": narrow, "head too": four}
    chosen |= {kind: single for kind in KINDS if kind.startswith("gradients")}
    return [recipe(kind, element) for kind in kinds for element in chosen[kind]]


def sweep_size(width: int, options: argparse.Namespace, text: train.data.Text) -> Any:
    """Trains all formats and seeds of one model size."""
    size = lm.Size(layers=options.layers, width=width, heads=2, length=options.length)
    model = lm.LanguageModel(size)
    windows = train.data.Windows(text.train, options.batch, options.length)
    held_out = train.data.Windows(text.held_out, 64, options.length).in_order(8)

    def make_step(recipe: Any, rate: Any) -> train.Step:
        shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, options.steps // 20 + 1, options.steps)
        optimizer = optax.adamw(lambda count: rate * shape(count), b2=0.95, weight_decay=0.1)
        task = train.LinenTask(model=model, quantize=qjax.quantize)
        return train.Step(task=task, optimizer=optimizer, recipe=recipe, clip=1.0)

    state = make_step(None, 1.0).init(jax.random.key(0), windows[0])
    columns = {
        "N": train.count_parameters(state.params, without=lm.EMBEDDINGS),
        "N_total": train.count_parameters(state.params),
        "D": options.steps * options.batch * options.length,
        "width": width,
        "layers": options.layers,
    }
    trials = [
        train.Trial(recipe=chosen, seed=seed, rate=options.learning_rate, columns=columns)
        for chosen in (None, *recipes(options.kinds, options.few))
        for seed in range(options.seeds)
    ]
    return train.sweep(
        trials,
        make_step,
        windows,
        steps=options.steps,
        held_out=held_out,
        table=options.out / "formats.csv",
        at_once=AT_ONCE,
        progress=train.Progress(f"width {width}", steps=options.steps, unit="steps"),
    )


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    text = train.data.read_text(options.text)
    rows = [row for width in options.widths for row in sweep_size(width, options, text)]
    sweep_picture.draw(rows, options.out / "formats.png")
    failed = [row for row in rows if row["status"] != "ok"]
    print(f"{len(rows)} runs, {len(failed)} of them diverged; wrote formats.csv and formats.png")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"sweep_formats: {error}")
