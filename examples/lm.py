"""A decoder-only transformer language model over bytes, in Flax linen.

Plain layers with plain seams, so that `qjax.quantize` reaches every contraction: the attention
projections, both attention einsums and the feed-forward layers. Rules name the parts by path:
`embed`, `block_0/attention/query`, `block_0/up`, ..., `lm_head`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

EMBEDDINGS = ("embed", "positions", "lm_head")
"""What scaling laws leave out when they count parameters."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of the model.

    Attributes:
      layers: Transformer blocks.
      width: Features of the residual stream, a multiple of `heads`.
      heads: Attention heads per block.
      length: Longest context, in bytes.
      vocabulary: Number of different bytes.
    """

    layers: int = 2
    width: int = 256
    heads: int = 4
    length: int = 64
    vocabulary: int = 256


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a normalization and a residual sum."""

    size: Size

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps [B, T, width] to [B, T, width]; `mask` is [B, 1, T, T], true where seen."""
        attention = nn.MultiHeadDotProductAttention(
            num_heads=self.size.heads, use_bias=False, name="attention"
        )
        x = x + attention(nn.RMSNorm(name="before_attention")(x), mask=mask)
        h = nn.RMSNorm(name="before_up")(x)
        h = nn.Dense(4 * self.size.width, use_bias=False, name="up")(h)
        # ReLU squared (So et al. 2021, "Primer") is cheaper than GELU on a CPU, and as good.
        h = jnp.square(nn.relu(h))
        return x + nn.Dense(
            self.size.width, use_bias=False, kernel_init=nn.initializers.zeros, name="down"
        )(h)


class LanguageModel(nn.Module):
    """Maps bytes [B, T] (integers) to logits [B, T, vocabulary] of the byte that follows each."""

    size: Size

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        size, small = self.size, nn.initializers.normal(0.02)
        mask = nn.make_causal_mask(tokens, dtype=jnp.bool_)
        positions = self.param("positions", small, (size.length, size.width))
        x = nn.Embed(size.vocabulary, size.width, embedding_init=small, name="embed")(tokens)
        x = x + positions[: tokens.shape[1]]
        for i in range(size.layers):
            x = Block(size, name=f"block_{i}")(x, mask)
        x = nn.RMSNorm(name="last_norm")(x)
        return nn.Dense(size.vocabulary, use_bias=False, kernel_init=small, name="lm_head")(x)
