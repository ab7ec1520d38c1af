"""The loop costs next to nothing beside a hand-written one, and a sweep far less than its runs."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import qjax
from qjax import Quantizer, formats, qtypes, train
from qjax.train.programs import Programs
from tests.benchmarks import steps
from tests.benchmarks.steps import lm

pytestmark = pytest.mark.benchmark


class Model(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(256, 256, name="embed")(tokens)
        for _ in range(4):
            x = x + nn.Dense(256)(nn.relu(nn.Dense(1024)(nn.LayerNorm()(x))))
        return nn.Dense(256, name="lm_head")(x)


class Fixed:
    """The same batch at every step: what it costs to load data is not measured here."""

    def __init__(self):
        tokens = np.arange(1024, dtype=np.int32).reshape(8, 128) % 256
        self.batch = {"inputs": tokens, "targets": tokens}

    def __getitem__(self, step):
        return self.batch


def test_steps_per_second_are_those_of_a_hand_written_loop():
    optimizer = optax.adamw(1e-3)
    step = train.Step(task=train.LinenTask(model=Model()), optimizer=optimizer)
    state = step.init(jax.random.key(0), Fixed().batch)

    def by_hand(params, opt_state, batch):
        def loss(params):
            logits = Model().apply({"params": params}, batch["inputs"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    batch = Fixed().batch
    hand = jax.jit(by_hand, donate_argnums=(0, 1))
    params, opt_state = jax.tree.map(jnp.copy, (state.params, state.opt_state))
    programs = Programs(step, 20, None)
    stacked = programs.load(Fixed(), 0, 20)
    times: dict[str, list[float]] = {"hand": [], "loop": []}
    for turn in range(7):
        began = time.perf_counter()
        for _ in range(20):
            params, opt_state, value = hand(params, opt_state, batch)
        jax.block_until_ready(value)
        middle = time.perf_counter()
        state, rows = programs.run(state, stacked, 20 * turn, 20 * turn + 20)
        jax.block_until_ready(rows)
        times["hand"].append(middle - began)
        times["loop"].append(time.perf_counter() - middle)
    ratio = min(times["loop"][1:]) / min(times["hand"][1:])
    print(f"loop / by hand: {ratio:.3f} ({1e3 * min(times['hand'][1:]) / 20:.1f} ms a step)")
    assert ratio < 1.03


def test_the_host_spends_less_than_two_milliseconds_on_a_chunk():
    def loss(params, batch, key):
        return jnp.mean(jnp.square(params["w"] - jnp.mean(batch["inputs"].astype(jnp.float32))))

    task = train.FunctionTask(loss_fn=loss, init_fn=lambda key: {"w": jnp.zeros(4)})
    step = train.Step(task=task, optimizer=optax.sgd(0.1))
    state = step.init(jax.random.key(0), Fixed().batch)
    began = time.perf_counter()
    result = train.run(step, state, Fixed(), steps=2000, chunk=10)
    spent = time.perf_counter() - began - result.compile_seconds
    print(f"{1e3 * spent / 200:.2f} ms a chunk of ten almost empty steps")
    assert spent / 200 < 2e-3


def test_what_facts_about_every_cast_cost():
    """No aim: it is what `--diagnostics` of the training example says it costs."""
    size = lm.Size()
    tokens = np.arange(8 * size.length, dtype=np.int32).reshape(8, -1) % 256
    batches = [{"inputs": tokens, "targets": tokens}] * 5
    programs, times = {}, {False: [], True: []}
    for watched in times:
        model = qjax.quantize(lm.LanguageModel(size), "mxfp8", diagnostics=watched)
        step = train.Step(task=train.LinenTask(model=model), optimizer=optax.adamw(1e-3))
        programs[watched] = Programs(step, 5, None)
        state = step.init(jax.random.key(0), batches[0])
        for turn in range(6):
            began = time.perf_counter()
            stacked = programs[watched].load(batches, 0, 5)
            state, rows = programs[watched].run(state, stacked, 0, 5)
            jax.block_until_ready(rows)
            if turn:
                times[watched].append((time.perf_counter() - began) / 5)
    plain, watched = (1e3 * min(times[kind]) for kind in (False, True))
    print(f"\n{steps.machine()}\nmxfp8 {plain:.1f} ms a step, with facts {watched:.1f} ms")
    print(f"x{watched / plain:.2f}, to compile x"
          f"{programs[True].compile_seconds / programs[False].compile_seconds:.2f}")  # fmt: skip


def mx(exponent, mantissa):
    """The MX recipe with elements of these bits."""
    element = formats.Float(exponent, mantissa, family="finite")
    return qjax.recipes.get(Quantizer(dataclasses.replace(qtypes.MXFP8, format=element)))


class Small(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(256, 32, name="embed")(tokens)
        return nn.Dense(256, name="lm_head")(nn.relu(nn.Dense(64)(x)))


def test_64_formats_in_one_program_beat_64_runs():
    batches, held_out = Fixed(), [Fixed()[0]]
    trials = [train.Trial(recipe=mx(e, m), rate=0.1) for e in range(1, 9) for m in range(8)]

    def make_step(recipe, rate):
        task = train.LinenTask(model=Small(), quantize=qjax.quantize)
        return train.Step(task=task, optimizer=optax.sgd(rate), recipe=recipe)

    began = time.perf_counter()
    rows = train.sweep(trials, make_step, batches, steps=20, held_out=held_out)
    together = time.perf_counter() - began

    began = time.perf_counter()
    for trial, row in zip(trials[::8], rows[::8]):
        step = make_step(trial.recipe, trial.rate)
        state = step.init(jax.random.key(trial.seed), batches[0])
        state = train.run(step, state, batches, steps=20, chunk=20).state
        alone = train.make_evaluator(step, held_out)(state).loss
        assert row["loss"] == pytest.approx(alone, rel=1e-4)
    apart = 8 * (time.perf_counter() - began)  # Every eighth was measured.
    print(f"64 formats: {together:.1f} s together, {apart:.1f} s apart: {apart / together:.1f}x")
    assert apart > 5 * together
