"""Where a layer of flax.linen lets somebody else contract for it.

Each seam is a context manager that fills a layer's own field for the length of one call.
Fields that the user has filled are left alone: they are a choice, and reports show it.
What a contraction computes in is chosen by the caller (`choose`), not here.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import flax.linen as nn
import jax

from qjax._typing import Array
from qjax.contraction import Policy, conv_general_dilated, dot_general, einsum
from qjax.contraction.record import site
from qjax.linen.variables import LayerVariables
from qjax.recipes.noise import Noise

# The two contractions of `flax.linen.dot_product_attention`, as they are called in paths.
QK, AV = "qk", "av"
_INNER = "__qjax_inner__"
SUBSCRIPTS = {"...qhd,...khd->...hqk": QK, "...hqk,...khd->...qhd": AV}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What one contraction of a layer computes in.

    Attributes:
      policy: Its policy.
      path: Its path in the model.
      rule: The rule that chose.
      noise: Keys of its noise; None where the model was given none or needs none.
      variables: Where its operands' values are.
    """

    policy: Policy
    path: str
    rule: str
    noise: Noise | None
    variables: LayerVariables

    @property
    def _settings(self) -> dict[str, Any]:
        key = None if self.noise is None else self.noise.draw(self.path)
        return {"policy": self.policy, "key": key, "variables": self.variables}

    def dot_general(self, *args: Any, **kwargs: Any) -> Array:
        """`jax.lax.dot_general` under this choice."""
        with site(self.path, self.rule):
            return dot_general(*args, **kwargs, **self._settings)

    def conv_general_dilated(self, *args: Any, **kwargs: Any) -> Array:
        """`jax.lax.conv_general_dilated` under this choice."""
        with site(self.path, self.rule):
            return conv_general_dilated(*args, **kwargs, **self._settings)

    def einsum(self, *args: Any, **kwargs: Any) -> Array:
        """`jax.numpy.einsum` under this choice."""
        with site(self.path, self.rule):
            return einsum(*args, **kwargs, **self._settings)


class Choose(Protocol):
    """Finds the choice for a contraction of the layer at hand; None leaves it as it is."""

    def __call__(self, op: str, part: str = "") -> Choice | None: ...


Seam = Callable[[nn.Module, Choose], contextlib.AbstractContextManager[None]]


def seam_of(module: nn.Module, method: str) -> Seam | None:
    """The seam of a layer; None where it has none or where another method is called."""
    if method != "__call__":
        return None
    if isinstance(module, nn.Dense | nn.DenseGeneral):
        return _dense
    if isinstance(module, nn.Conv):
        return _conv
    if isinstance(module, nn.MultiHeadDotProductAttention):
        return _attention
    return None


@contextlib.contextmanager
def _dense(module: nn.Module, choose: Choose) -> Iterator[None]:
    own = module.dot_general  # type: ignore[attr-defined]
    # A choice found here was made by a quantized module further out; the innermost decides.
    if module.dot_general_cls or (own and not isinstance(getattr(own, "__self__", None), Choice)):  # type: ignore[attr-defined]
        yield
        return
    choice = choose("dot_general")
    with _field(module, "dot_general", choice and choice.dot_general):
        yield


@contextlib.contextmanager
def _conv(module: nn.Module, choose: Choose) -> Iterator[None]:
    own = module.conv_general_dilated  # type: ignore[attr-defined]
    if module.conv_general_dilated_cls or (own and not _is_choice(own)):  # type: ignore[attr-defined]
        yield
        return
    choice = choose("conv_general_dilated")
    with _field(module, "conv_general_dilated", choice and choice.conv_general_dilated):
        yield


def _is_choice(own: Any) -> bool:
    # Made by a quantized module further out; the innermost decides.
    return isinstance(getattr(own, "__self__", None), Choice)


@contextlib.contextmanager
def _attention(module: nn.Module, choose: Choose) -> Iterator[None]:
    own: Callable[..., Array] = module.attention_fn  # type: ignore[attr-defined]
    own = getattr(own, _INNER, own)
    takes = inspect.signature(own).parameters
    fields = ("qk_attn_weights_einsum", "attn_weights_value_einsum")
    filled = [module.qk_attn_weights_einsum_cls, module.attn_weights_value_einsum_cls]  # type: ignore[attr-defined]
    if any(filled) or not all(name in takes for name in fields):
        yield
        return
    choices = {name: choose("einsum", part) for name, part in zip(fields, (QK, AV))}
    if not any(choices.values()):
        yield
        return

    @functools.wraps(own)
    def attention_fn(*args: Any, precision: Any = None, **kwargs: Any) -> Array:
        # Flax refuses `precision` beside an einsum, so the einsum takes it along.
        for name, choice in choices.items():
            contract = jax.numpy.einsum if choice is None else choice.einsum
            kwargs[name] = functools.partial(contract, precision=precision)
        return own(*args, **kwargs)

    setattr(attention_fn, _INNER, own)
    with _field(module, "attention_fn", attention_fn):
        yield


@contextlib.contextmanager
def _field(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Fills a field of a bound module inside the block; None leaves it as it is."""
    if value is None:
        yield
        return
    before = getattr(module, name)
    # A module is frozen outside of `setup`; this is its own field, given back unchanged.
    object.__setattr__(module, name, value)
    try:
        yield
    finally:
        object.__setattr__(module, name, before)
