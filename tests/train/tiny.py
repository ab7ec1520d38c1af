"""The smallest things that train: a linear regression, and a linen language model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import qjax
from qjax import Gemm, Policy, Quantizer, calibration, formats, operands, qtypes, train
from qjax.rounding import Stochastic


def regression(params, batch, key):
    """Mean squared error of x @ w against y; the key adds a little noise, so that it shows."""
    noise = 1e-3 * jax.random.normal(key, ())
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return jnp.mean(jnp.square(error)) + noise * jnp.sum(params["w"])


def start(key):
    return {"w": 0.1 * jax.random.normal(key, (4,)), "b": jnp.zeros(())}


class Points:
    """Batches of a linear function with noise; the batch of step `spoiled` holds a NaN."""

    def __init__(self, rows=8, spoiled=None):
        self.rows, self.spoiled = rows, spoiled

    def __getitem__(self, step):
        draw = np.random.default_rng(step)
        x = draw.normal(size=(self.rows, 4)).astype(np.float32)
        y = (x @ np.array([1.0, -2.0, 0.5, 0.0], np.float32) + 0.3).astype(np.float32)
        if step == self.spoiled:
            x[0, 0] = np.nan
        return {"x": x, "y": y}


def regression_step(**options):
    task = train.FunctionTask(loss_fn=regression, init_fn=start)
    return train.Step(task=task, optimizer=optax.adam(1e-2), **options)


def started(step, batches=None, seed=0):
    return step.init(jax.random.key(seed), (batches or Points())[0])


class TinyLM(nn.Module):
    """Embedding, one hidden layer with dropout, logits over 32 symbols."""

    @nn.compact
    def __call__(self, tokens, *, deterministic=True):
        x = nn.Embed(32, 32, name="embed")(tokens)
        x = nn.Dropout(0.1, deterministic=deterministic)(nn.gelu(nn.Dense(32, name="up")(x)))
        return nn.Dense(32, name="lm_head")(x)


class Symbols:
    """Batches whose next symbol is a function of the last."""

    def __init__(self, rows=4):
        self.rows = rows

    def __getitem__(self, step):
        rows = [np.random.default_rng(step).integers(0, 32, (self.rows, 1))]
        for _ in range(8):
            rows.append((rows[-1] * 5 + 3) % 32)
        rows = np.concatenate(rows, axis=1)
        return {"inputs": rows[:, :-1].astype(np.int32), "targets": rows[:, 1:].astype(np.int32)}


def remembering_step():
    """A step whose operands learn, remember and draw noise, under a schedule that has a state."""
    delayed = Quantizer("e4m3fn:float32", calibration=calibration.Delayed(length=4))

    def recipe(mantissa_bits):
        element = formats.Float(3, mantissa_bits, family="finite")
        qtype = dataclasses.replace(qtypes.MXFP8, format=element)
        noisy = Quantizer(qtype, rounding=Stochastic(), scale="rceil")
        forward, backward = Gemm(delayed, operands.LSQ(bits=4)), Gemm(delayed, None)
        return Policy(fwd=forward, dlhs=backward, drhs=Gemm(None, noisy))

    schedule = train.Plateau(recipes=(recipe(1), recipe(3)), patience=3, threshold=0.2)
    train_kwargs = {"deterministic": False}
    task = train.LinenTask(model=TinyLM(), train_kwargs=train_kwargs, quantize=qjax.quantize)
    scale = train.DynamicScale(initial=2.0**10, interval=7)
    optimizer = optax.adam(1e-2)
    return train.Step(task=task, optimizer=optimizer, recipe=schedule, loss_scale=scale, ema=0.9)


def same(a, b):
    """Whether two pytrees hold the same bits, keys included."""

    def bits(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return np.asarray(x)

    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(bits(x), bits(y), equal_nan=True) for x, y in pairs)
