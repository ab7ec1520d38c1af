"""Trains one language model in float32 and in low precision, side by side, on real text.

    python examples/train_lm.py                         about 5 minutes on 2 CPU cores
    python examples/train_lm.py --recipe mxfp8 mxfp4 --steps 400 --out runs/mx

Every run starts from the same seed and sees the same batches, so that the gaps are differences
of numerics alone. Prints a table; writes results.csv (one row per run), losses.png and one
metrics file per run.
"""

import argparse
import pathlib
import sys
from typing import Any

import comparison
import jax
import lm
import optax

import qjax
from qjax import train


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_run(parser)
    _add_model(parser)
    _add_training(parser)
    return parser.parse_args(arguments)


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--recipe",
        nargs="+",
        default=["mxfp8"],
        metavar="NAME",
        help="recipes to train beside float32 (names; default: mxfp8)",
    )
    add("--steps", type=int, default=1200, help="training steps (count; default: 1200)")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/train_lm"),
        metavar="DIR",
        help="folder of the table, picture and metrics (path; default: runs/train_lm)",
    )
    add(
        "--text",
        nargs="+",
        metavar="PATH",
        help="files or folders to train on (paths; default: the Python standard library's source)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="seed of parameters, batches and rounding (integer; default: 0)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--layers", type=int, default=2, help="transformer blocks (count; default: 2)")
    add(
        "--width",
        type=int,
        default=256,
        help="features of the residual stream (count, a multiple of --heads; default: 256)",
    )
    add("--heads", type=int, default=4, help="attention heads per block (count; default: 4)")


def _add_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--length", type=int, default=64, help="context (bytes; default: 64)")
    add("--batch", type=int, default=8, help="windows per step (count; default: 8)")
    add(
        "--learning-rate",
        type=float,
        default=1e-3,
        metavar="RATE",
        help="peak of AdamW's learning rate (per step; default: 0.001)",
    )
    add(
        "--eval-batches",
        type=int,
        default=64,
        help="held-out batches (count, of --batch windows each; default: 64)",
    )
    add(
        "--chunk",
        type=int,
        default=10,
        help="steps between two looks at the run (count; default: 10)",
    )
    add(
        "--diagnostics",
        action="store_true",
        help="noise, saturation and underflow of every cast, into the metrics of every step and, "
        "the worst of them, onto the screen; steps take three times as long (flag; default: off)",
    )


def optimizer(steps: int, rate: float) -> optax.GradientTransformation:
    """AdamW with a warm-up over the first twentieth and a cosine decay to a twentieth."""
    warmup = max(steps // 20, 1)
    rates = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, max(steps, 2), rate / 20)
    return optax.adamw(rates, b2=0.95, weight_decay=0.1)


def run_one(name: str, options: argparse.Namespace, text: train.data.Text) -> dict[str, Any]:
    """Trains under one recipe ("float32": none) and returns what the table shows of it."""
    size = lm.Size(
        layers=options.layers, width=options.width, heads=options.heads, length=options.length
    )
    model = lm.LanguageModel(size)
    recipe = None if name == "float32" else qjax.recipes.get(name)
    if recipe is not None:
        model = qjax.quantize(model, recipe, diagnostics=options.diagnostics)
    windows = train.data.Windows(text.train, options.batch, options.length, seed=options.seed)
    held_out = train.data.Windows(text.held_out, options.batch, options.length)
    step = train.Step(
        task=train.LinenTask(model=model),
        optimizer=optimizer(options.steps, options.learning_rate),
        clip=1.0,
    )
    state = step.init(jax.random.key(options.seed), windows[0])
    result = train.run(
        step,
        state,
        windows,
        steps=options.steps,
        chunk=options.chunk,
        evaluate=train.make_evaluator(step, held_out.in_order(options.eval_batches)),
        metrics=train.MetricsFile(options.out / f"{name}.jsonl"),
        progress=train.Progress(name, steps=options.steps),
    )
    params = result.state.params
    return {
        "name": name,
        "recipe": recipe,
        "result": result,
        "parameters": train.count_parameters(params),
        "non_embedding": train.count_parameters(params, without=lm.EMBEDDINGS),
        "trained_bytes": options.steps * options.batch * options.length,
    }


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    names = ["float32", *dict.fromkeys(n for n in options.recipe if n != "float32")]
    for name in names[1:]:
        qjax.recipes.get(name)  # A misspelt name should not wait for the first run to end.
    text = train.data.read_text(options.text)
    print(
        f"{len(text.train):,} bytes of {text.files[0]} files to train on, "
        f"{len(text.held_out):,} bytes of {text.files[1]} others held out"
    )
    runs = [run_one(name, options, text) for name in names]
    comparison.print_table(runs)
    comparison.print_casts(runs)
    if options.diagnostics:
        print("speeds and time ratios include what measuring every cast takes")
    comparison.write_csv(runs, options, options.out / "results.csv")
    comparison.draw(runs, options.out / "losses.png")
    print(f"wrote {options.out}/results.csv, losses.png and one .jsonl per run")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        sys.exit(f"train_lm: {error}")
