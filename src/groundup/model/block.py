"""Transformer blocks: attention, then the feed-forward, each added to the residual stream.

The norms make five kinds of block. Pre-norm (GPT-2 on): before each part; the residual stream itself is never normalised,
so deep models train without warm-up (Xiong et al. 2020). Post-norm (the original transformer, BERT): after each sum.
Sandwich norm (Gemma 2): before and after each part. Parallel (GPT-J): both parts read the same residual stream.
Sublayer-output norm (OLMo 2, section 3.2): after each part, before the sum. Granite scales each term of the sum.
"""

from jaxtyping import Float
from torch import Tensor, nn

from groundup.model.attention import Attention, AttentionContext, CrossAttention, CrossKeyValues
from groundup.model.embedding import build_scale
from groundup.model.feed_forward import build_feed_forward
from groundup.model.gated_delta import GatedDeltaNet
from groundup.model.kv_cache import KVCache
from groundup.model.latent_attention import LatentAttention
from groundup.model.moe import MixtureOfExperts
from groundup.model.norm import build_norm
from groundup.model.state_space import StateSpaceMixer
from groundup.recipe import ModelConfig
from groundup.recipe.mixer_config import StateSpaceConfig


def build_attention(config: ModelConfig, layer: int) -> nn.Module:
    """Self-attention of a layer, with full or latent keys and values, or linear."""
    if config.gated_delta is not None and config.layer_types[layer] == "linear":  # an encoder may have more layers
        return LinearAttention(config, config.gated_delta, layer)
    if config.latent_attention is not None:
        return LatentAttention(config, config.latent_attention, layer)
    return Attention(config, layer)


class LinearAttention(GatedDeltaNet):
    """Linear attention in place of self-attention: it needs no mask and no positions."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "B T D"], context: AttentionContext, cache: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        return super().forward(x, cache)


class PreNormBlock(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        width = config.hidden_size
        normalised = layer == 0 and config.embedding_norm and not config.keep_first_norm
        self.attention_norm = nn.Identity() if normalised else build_norm(config, width)
        self.attention = build_attention(config, layer)
        self.feed_forward_norm = build_norm(config, width)
        self.feed_forward = _feed_forward(config, layer)
        self.residual_scale = build_scale(config.residual_scale)

    def forward(
        self, x: Float[Tensor, "B T D"], context: AttentionContext, cache: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        x = x + self.residual_scale(self.attention(self.attention_norm(x), context, cache))
        return x + self.residual_scale(self.feed_forward(self.feed_forward_norm(x)))


class PostNormBlock(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attention = build_attention(config, layer)
        self.attention_norm = build_norm(config, config.hidden_size)
        self.feed_forward = _feed_forward(config, layer)
        self.feed_forward_norm = build_norm(config, config.hidden_size)
        self.residual_scale = build_scale(config.residual_scale)

    def forward(
        self, x: Float[Tensor, "B T D"], context: AttentionContext, cache: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        x = self.attention_norm(x + self.residual_scale(self.attention(x, context, cache)))
        return self.feed_forward_norm(x + self.residual_scale(self.feed_forward(x)))


class SandwichBlock(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        width = config.hidden_size
        self.attention_norm = build_norm(config, width)
        self.attention = build_attention(config, layer)
        self.attention_post_norm = build_norm(config, width)
        self.feed_forward_norm = build_norm(config, width)
        self.feed_forward = _feed_forward(config, layer)
        self.feed_forward_post_norm = build_norm(config, width)
        self.residual_scale = build_scale(config.residual_scale)

    def forward(
        self, x: Float[Tensor, "B T D"], context: AttentionContext, cache: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        x = x + self.residual_scale(self.attention_post_norm(self.attention(self.attention_norm(x), context, cache)))
        return x + self.residual_scale(self.feed_forward_post_norm(self.feed_forward(self.feed_forward_norm(x))))


class SublayerOutputBlock(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attention = build_attention(config, layer)
        self.attention_post_norm = build_norm(config, config.hidden_size)
        self.feed_forward = _feed_forward(config, layer)
        self.feed_forward_post_norm = build_norm(config, config.hidden_size)
        self.residual_scale = build_scale(config.residual_scale)

    def forward(
        self, x: Float[Tensor, "B T D"], context: AttentionContext, cache: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        x = x + self.residual_scale(self.attention_post_norm(self.attention(x, context, cache)))
        return x + self.residual_scale(self.feed_forward_post_norm(self.feed_forward(x)))


class ParallelBlock(nn.Module):
    """x + attention(norm(x)) + feed_forward(norm(x)): one sum for both parts (Wang & Komatsuzaki 2021, GPT-J)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attention_norm = build_norm(config, config.hidden_size)
        self.attention = build_attention(config, layer)
        self.feed_forward_norm = build_norm(config, config.hidden_size)
        self.feed_forward = _feed_forward(config, layer)
        self.residual_scale = build_scale(config.residual_scale)

    def forward(
        self, x: Float[Tensor, "B T D"], context: AttentionContext, cache: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        attended = self.attention(self.attention_norm(x), context, cache)
        return x + self.residual_scale(attended + self.feed_forward(self.feed_forward_norm(x)))


class SharedNormBlock(nn.Module):
    """A parallel block with one norm for both parts, as GPT-J and Falcon."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attention_norm = build_norm(config, config.hidden_size)
        self.attention = build_attention(config, layer)
        self.feed_forward = _feed_forward(config, layer)
        self.residual_scale = build_scale(config.residual_scale)

    def forward(
        self, x: Float[Tensor, "B T D"], context: AttentionContext, cache: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        normed = self.attention_norm(x)
        return x + self.residual_scale(self.attention(normed, context, cache) + self.feed_forward(normed))


class CrossAttentionBlock(nn.Module):
    """A pre-norm block with cross-attention between its two parts (T5)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        width = config.hidden_size
        self.attention_norm = build_norm(config, width)
        self.attention = Attention(config, layer)
        self.cross_attention_norm = build_norm(config, width)
        self.cross_attention = CrossAttention(config)
        self.feed_forward_norm = build_norm(config, width)
        self.feed_forward = _feed_forward(config, layer)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        context: AttentionContext,
        cross_key_values: CrossKeyValues,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = x + self.attention(self.attention_norm(x), context, cache)
        x = x + self.cross_attention(self.cross_attention_norm(x), cross_key_values)
        return x + self.feed_forward(self.feed_forward_norm(x))


class PostNormCrossAttentionBlock(CrossAttentionBlock):
    """The same with norms after the sums, as in the original transformer and BART."""

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        context: AttentionContext,
        cross_key_values: CrossKeyValues,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = self.attention_norm(x + self.attention(x, context, cache))
        x = self.cross_attention_norm(x + self.cross_attention(x, cross_key_values))
        return self.feed_forward_norm(x + self.feed_forward(x))


CROSS_BLOCKS = {"pre": CrossAttentionBlock, "post": PostNormCrossAttentionBlock}


class StateSpaceBlock(nn.Module):
    """x + mixer(norm(x)): a state-space layer is attention and feed-forward in one."""

    def __init__(self, config: ModelConfig, settings: StateSpaceConfig, layer: int):
        super().__init__()
        self.norm = build_norm(config, config.hidden_size)
        self.mixer = StateSpaceMixer(config, settings, layer)

    def forward(
        self, x: Float[Tensor, "B T D"], context: AttentionContext, cache: KVCache | None = None
    ) -> Float[Tensor, "B T D"]:
        return x + self.mixer(self.norm(x), cache)


BLOCKS = {
    "pre": PreNormBlock,
    "post": PostNormBlock,
    "sandwich": SandwichBlock,
    "parallel": ParallelBlock,
    "sublayer_output": SublayerOutputBlock,
}


def build_blocks(config: ModelConfig, num_layers: int) -> nn.ModuleList:
    """`num_layers` blocks with norms as in `config.norm_placement`."""
    if (settings := config.state_space) is not None:
        return nn.ModuleList(StateSpaceBlock(config, settings, layer) for layer in range(num_layers))
    block = SharedNormBlock if config.shared_norm else BLOCKS[config.norm_placement]
    return nn.ModuleList(block(config, layer) for layer in range(num_layers))


def build_final_norm(config: ModelConfig) -> nn.Module:
    """The norm before the head; none after post-norm blocks."""
    return nn.Identity() if config.norm_placement == "post" else build_norm(config, config.hidden_size)


def _feed_forward(config: ModelConfig, layer: int) -> nn.Module:
    if config.moe is not None and not config.moe.is_dense(layer):
        return MixtureOfExperts(config, config.moe)
    return build_feed_forward(config)
