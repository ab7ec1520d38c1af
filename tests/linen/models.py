"""Small linen models that the tests of the door quantize, and what they compute by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp

import qjax
from qjax import Policy, Quantizer

X = jax.random.normal(jax.random.key(1), (6, 40))
MXFP8 = Quantizer("mxfp8")
COARSE = Policy.all(Quantizer("mxfp4"))


class MLP(nn.Module):
    width: int = 48

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width, name="up")(x))
        return nn.Dense(40, name="down")(x)


def by_hand(params, x, policy):
    dot = lambda a, b: qjax.dot_general(a, b, (((1,), (0,)), ((), ())), policy=policy)  # noqa: E731
    h = nn.relu(dot(x, params["up"]["kernel"]) + params["up"]["bias"])
    return dot(h, params["down"]["kernel"]) + params["down"]["bias"]


def forward(model, variables, x=X, **kwargs):
    return jax.jit(lambda v, x: model.apply(v, x, **kwargs))(variables, x)


VARIABLES = MLP().init(jax.random.key(0), X)


class Parent(nn.Module):
    """Undecorated; one block is quantized, one is not."""

    block: type[nn.Module]

    @nn.compact
    def __call__(self, x):
        return MLP(name="plain")(x), self.block(name="asked")(x)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + MLP()(x), None


def lifted(block, how):
    """A stack of three blocks, as a loop, a scan, or a scan of rematerialized blocks."""

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            if how == "loop":
                for i in range(3):
                    x, _ = block(name=f"b{i}")(x)
                return x
            inner = nn.remat(block) if "remat" in how else block
            if how == "remat":
                for i in range(3):
                    x, _ = inner(name=f"b{i}")(x)
                return x
            scan = nn.scan(
                inner, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            return scan(name="layers")(x, None)[0]

    return Stack()


class Raw(nn.Module):
    """Contracts by a layer, by @, by jnp.dot and by jnp.einsum."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.lecun_normal(), (40, 40))
        return nn.Dense(40)(x) + x @ w + jnp.dot(x, w) + jnp.einsum("ij,jk->ik", x, w)
