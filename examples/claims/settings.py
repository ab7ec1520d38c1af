"""The small problems that claims are tried on. A batch is a function of a key, on the device.

`teacher` draws fresh inputs labelled by a fixed random network, so that nothing can be learnt
by heart and noise can only hurt; `digits` and `digits_cnn` are scikit-learn's handwritten
digits; `text` is a small transformer on the bytes of the Python standard library.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import qjax
from examples import lm
from qjax import train

Batch = dict[str, jax.Array]

# What the settings are, as reports say it.
TEACHER = (
    "A perceptron 64-96-96-96-16 learns the labels of a random network from fresh inputs, 300 "
    "steps of 64, Adam."
)
DIGITS = "A perceptron 64-64-64-10 learns scikit-learn's digits, 400 steps of 64, Adam."
DIGITS_CNN = (
    "Two convolutions and two dense layers learn scikit-learn's digits, 300 steps of 64, Adam."
)
TEXT = (
    "A transformer of one block and width 48 learns bytes of the Python standard library, 250 "
    "steps of 8 x 32 bytes, Adam."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained, on what and how.

    Attributes:
      model: A linen module from `inputs` to logits.
      batch: Maps a key to a training batch: `inputs` and integer `targets`.
      held_out: The batch that figures are measured on.
      steps: Training steps.
      rate: Peak learning rate of Adam: constant, then linear to zero over the last 40 %.
      clip: Largest global norm of a gradient, or None.
    """

    model: Any
    batch: Callable[[jax.Array], Batch]
    held_out: Batch
    steps: int
    rate: float
    clip: float | None = None

    def step(self, recipe: Any = None, **options: Any) -> train.Step:
        """One step of training: `options` are fields of `train.Step`, or replace the optimizer."""
        # A recipe that never changes goes into the model, so that `init` makes what it learns.
        changes = recipe is None or isinstance(recipe, train.Schedule | train.Phases)
        fixed = not changes and "task" not in options
        model = qjax.quantize(self.model, recipe) if fixed else self.model
        recipe = None if fixed else recipe
        task = train.LinenTask(model=model, loss_fn=figures, quantize=qjax.quantize)
        options.setdefault("optimizer", optax.adam(self.schedule()))
        options.setdefault("clip", self.clip)
        return train.Step(task=options.pop("task", task), recipe=recipe, **options)

    def schedule(self) -> optax.Schedule:
        """The learning rate by step."""
        constant = int(0.6 * self.steps)
        fall = optax.linear_schedule(self.rate, 0.0, self.steps - constant)
        return optax.join_schedules([optax.constant_schedule(self.rate), fall], [constant])

    def replace(self, **changes: Any) -> "Setting":
        return dataclasses.replace(self, **changes)


def figures(logits: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The cross-entropy in nats, and the accuracy in percent as a metric."""
    right = jnp.argmax(logits, axis=-1) == batch["targets"]
    return train.cross_entropy(logits, batch), {
        "accuracy": 100 * jnp.mean(right.astype(jnp.float32))
    }


class MLP(nn.Module):
    """Dense layers with ReLU between them; `layer_0` is the first, `layer_{n-1}` the last.

    Attributes:
      widths: Features after each layer, classes last.
    """

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for n, width in enumerate(self.widths):
            x = nn.relu(x) if n else x
            x = nn.Dense(width, name=f"layer_{n}")(x)
        return x


class CNN(nn.Module):
    """Two convolutions of 3 x 3 and two dense layers, for 8 x 8 images."""

    width: int = 16
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(self.width, (3, 3), name="conv_0")(x))
        x = nn.relu(nn.Conv(2 * self.width, (3, 3), strides=(2, 2), name="conv_1")(x))
        x = nn.relu(nn.Dense(64, name="dense")(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes, name="head")(x)


def teacher(*, steps: int = 300, width: int = 96, depth: int = 3, rate: float = 2e-3) -> Setting:
    """An MLP 64-96-96-96-16 that learns a random network's 16 labels from fresh batches of 64."""
    first, second, noise = jax.random.split(jax.random.key(12), 3)
    into = jax.random.normal(first, (64, 48)) / 8
    out = jax.random.normal(second, (48, 16)) / np.sqrt(48)

    def draw(key: jax.Array, size: int) -> Batch:
        one, two = jax.random.split(key)
        x = jax.random.normal(one, (size, 64))
        logits = 8 * jnp.tanh(2 * (x @ into)) @ out
        return {"inputs": x, "targets": jax.random.categorical(two, logits)}

    return Setting(
        model=MLP((*[width] * depth, 16)),
        batch=functools.partial(draw, size=64),
        held_out=draw(noise, 4096),
        steps=steps,
        rate=rate,
    )


def digits(*, steps: int = 400, width: int = 64, rate: float = 3e-3, model: Any = None) -> Setting:
    """A perceptron (or `model`) on scikit-learn's digits, every fifth held out; batches of 64."""
    into, held = train.data.digits()
    images, labels = jnp.asarray(into.images), jnp.asarray(into.labels)

    def draw(key: jax.Array) -> Batch:
        index = jax.random.randint(key, (64,), 0, len(labels))
        return {"inputs": images[index], "targets": labels[index]}

    return Setting(
        model=MLP((width, width, 10)) if model is None else model,
        batch=draw,
        held_out={"inputs": jnp.asarray(held.images), "targets": jnp.asarray(held.labels)},
        steps=steps,
        rate=rate,
    )


def digits_cnn(*, steps: int = 300, rate: float = 2e-3) -> Setting:
    """A small convolutional network on the same digits."""
    return digits(steps=steps, rate=rate, model=CNN())


def text(
    *, steps: int = 250, width: int = 48, layers: int = 1, rate: float = 4e-3, batch: int = 8
) -> Setting:
    """A transformer over bytes of the Python standard library, context 32."""
    size = lm.Size(layers=layers, width=width, heads=2, length=32)
    source = train.data.read_text()
    corpus = jnp.asarray(source.train)
    held = train.data.Windows(source.held_out, 64, size.length).in_order(1)[0]

    def draw(key: jax.Array) -> Batch:
        start = jax.random.randint(key, (batch, 1), 0, len(corpus) - size.length - 1)
        window = corpus[start + jnp.arange(size.length + 1)].astype(jnp.int32)
        return {"inputs": window[:, :-1], "targets": window[:, 1:]}

    return Setting(
        model=lm.LanguageModel(size),
        batch=draw,
        held_out={name: jnp.asarray(value, jnp.int32) for name, value in held.items()},
        steps=steps,
        rate=rate,
        clip=1.0,
    )
