"""Rotary position embedding (RoPE; Su et al. 2021, RoFormer) and its context extensions (linear, NTK, YaRN, Llama 3, LongRoPE).

A head's vector is K/2 pairs of elements; pair i of a token at position p is rotated by the angle p * theta^(-2i/K), so that
the product of a query and a key depends on the distance of their positions alone. The pairs are (i, i + K/2), as in
Hugging Face's weights; Meta's and GGUF's Llama files pair neighbours (interop/gguf permutes their rows).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.recipe import ModelConfig
from groundup.recipe.model_config import RopeScalingConfig


class Rotation(NamedTuple):
    """Cosine and signed sine of each pair's angle, shared by all heads."""

    cos: Float[Tensor, "... T K"]
    """cos for both halves of a head."""
    sin: Float[Tensor, "... T K"]
    """-sin for the first half, sin for the second."""


class RotaryEmbedding(nn.Module):
    """Rotations of positions. Has no weights, only the frequency of each pair as a buffer."""

    frequencies: Tensor

    def __init__(self, head_dim: int, theta: float, context_length: int, scaling: RopeScalingConfig | None = None):
        super().__init__()
        self.head_dim, self.theta, self.scaling = head_dim, theta, scaling
        self.original_length = (scaling and scaling.original_context_length) or context_length
        self.factor = attention_factor(scaling)
        self.reset_buffers()

    def compute_frequencies(self) -> Float[Tensor, " P"]:
        """The angle of each pair per position, on torch's default device."""
        frequencies = rope_frequencies(self.head_dim, self.theta)
        if self.scaling is None:
            return frequencies
        return SCALINGS[self.scaling.method](frequencies, self.theta, self.original_length, self.scaling)

    def reset_buffers(self) -> None:
        """Compute the buffer on the CPU, with the same bits for every device, and move it to torch's default device."""
        device = torch.get_default_device()
        with torch.device("cpu"):
            frequencies = self.compute_frequencies()
        self.register_buffer("frequencies", frequencies.to(device), persistent=False)

    def forward(self, positions: Int[Tensor, "*B T"]) -> Rotation:
        """Rotations (T K), or (B 1 T K) for positions per sequence."""
        angles = positions[..., None].float() * self.frequencies_for(positions)
        if positions.ndim == 2:
            angles = angles[:, None]
        cos, sin = angles.cos() * self.factor, angles.sin() * self.factor
        return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))

    def frequencies_for(self, positions: Int[Tensor, "*B T"]) -> Float[Tensor, "*BT P"]:
        return self.frequencies

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Move to another device, but stay float32: half precision cannot represent large positions."""
        super()._apply(fn, recurse)
        with torch.device(self.frequencies.device):
            self.reset_buffers()
        return self


class DynamicRotaryEmbedding(RotaryEmbedding):
    """Dynamic NTK scaling: theta grows with documents longer than the original context length.

    theta grows by (factor * length / original - (factor - 1)) ^ (K / (K - 2)), as in Hugging Face's "dynamic", with the length
    of each document, not of the longest in the batch: other rows do not change a row. Keys in a cache cannot follow, so a
    cache ends at the original length (`ModelConfig.cached_context_length`).
    """

    def frequencies_for(self, positions: Int[Tensor, "*B T"]) -> Float[Tensor, "*B T P"]:
        assert self.scaling is not None
        length = document_lengths(positions).clamp(min=self.original_length)
        growth = self.scaling.factor * length / self.original_length - (self.scaling.factor - 1)
        pair = torch.arange(0, self.head_dim, 2, device=positions.device)
        return self.frequencies / growth[..., None] ** (pair / (self.head_dim - 2))


class LongRotaryEmbedding(RotaryEmbedding):
    """LongRoPE (Ding et al. 2024): a divisor for each pair; other ones for documents beyond the original length.

    As with dynamic scaling, keys in a cache cannot follow, so a cache ends at the original length.
    """

    long_frequencies: Tensor

    def __init__(self, head_dim: int, theta: float, context_length: int, scaling: RopeScalingConfig):
        super().__init__(head_dim, theta, context_length, scaling)
        growth = math.log(scaling.factor) / math.log(self.original_length)
        self.factor = scaling.attention_factor or math.sqrt(1 + growth)

    def reset_buffers(self) -> None:
        super().reset_buffers()
        frequencies = rope_frequencies(self.head_dim, self.theta)
        assert self.scaling is not None
        divided = frequencies / torch.tensor(self.scaling.long_factors)
        self.register_buffer("long_frequencies", divided, persistent=False)

    def frequencies_for(self, positions: Int[Tensor, "*B T"]) -> Float[Tensor, "*B T P"]:
        long = document_lengths(positions)[..., None] > self.original_length
        return torch.where(long, self.long_frequencies, self.frequencies)


def document_lengths(positions: Int[Tensor, "*B T"]) -> Int[Tensor, "*B T"]:
    """The length of the document of each token; positions begin at 0 in each document of a row."""
    document = (positions == 0).cumsum(dim=-1)
    last = torch.zeros_like(positions).repeat_interleave(2, dim=-1)  # room for every index of a document
    return last.scatter_reduce(-1, document, positions, "amax").gather(-1, document) + 1


def rotate(x: Float[Tensor, "B H T K"], rotation: Rotation) -> Float[Tensor, "B H T K"]:
    """Rotate every pair of x by its angle: (a, b) -> (a cos - b sin, b cos + a sin)."""
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def rotate_first(x: Float[Tensor, "B H T K"], rotation: Rotation) -> Float[Tensor, "B H T K"]:
    """`rotate` of the first elements of each head, as many as the rotation has; the others carry no position.

    Partial rotation: GPT-J (Wang & Komatsuzaki 2021), GPT-NeoX (Black et al. 2022, section 2.1).
    """
    size = rotation.cos.shape[-1]
    return torch.cat((rotate(x[..., :size], rotation), x[..., size:]), dim=-1)


def no_rotation(x: Float[Tensor, "B H T K"], rotation: object) -> Float[Tensor, "B H T K"]:
    """`rotate` of layers without RoPE: returns `x`."""
    return x


def rope_frequencies(head_dim: int, theta: float) -> Float[Tensor, " P"]:
    """theta^(-2i/K) for each pair i, in radians per token."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)


def _linear(frequencies: Tensor, theta: float, original: int, scaling: RopeScalingConfig) -> Tensor:
    """Position interpolation (Chen et al. 2023): all frequencies divided by one factor."""
    return frequencies / scaling.factor


def _dynamic(frequencies: Tensor, theta: float, original: int, scaling: RopeScalingConfig) -> Tensor:
    """Unchanged up to the original length; see DynamicRotaryEmbedding."""
    return frequencies


def _yarn(frequencies: Tensor, theta: float, original: int, scaling: RopeScalingConfig) -> Tensor:
    """YaRN (Peng et al. 2023, section 3.2): fast pairs unchanged, slow ones interpolated, a ramp between."""
    pairs = len(frequencies)

    def pair_with_turns(turns: float) -> float:
        return pairs * math.log(original / (turns * 2 * math.pi)) / math.log(theta)

    low, high = pair_with_turns(scaling.beta_fast), pair_with_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    ramp = ((torch.arange(pairs) - low) / (high - low or 0.001)).clamp(0, 1)
    return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)


def _llama3(frequencies: Tensor, theta: float, original: int, scaling: RopeScalingConfig) -> Tensor:
    """Llama 3.1 (its published code): as YaRN, with the ramp over turns instead of pairs."""
    turns = original * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    ramp = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies / scaling.factor * (1 - ramp) + frequencies * ramp


def _longrope(frequencies: Tensor, theta: float, original: int, scaling: RopeScalingConfig) -> Tensor:
    """A divisor for each pair, up to the original length; see LongRotaryEmbedding."""
    return frequencies / torch.tensor(scaling.short_factors)


SCALINGS = {"linear": _linear, "dynamic": _dynamic, "yarn": _yarn, "llama3": _llama3, "longrope": _longrope}
EMBEDDINGS: dict[str, Any] = {"dynamic": DynamicRotaryEmbedding, "longrope": LongRotaryEmbedding}
"""Of methods that depend on the length."""


def attention_factor(scaling: RopeScalingConfig | None) -> float:
    """YaRN's factor on queries and keys, which sharpens attention over long contexts (section 3.4)."""
    if scaling is None or scaling.method != "yarn":
        return 1.0
    if scaling.attention_factor or not (scaling.mscale and scaling.mscale_all_dim):
        return scaling.attention_factor or yarn_magnitude(scaling.factor, 1.0)
    return yarn_magnitude(scaling.factor, scaling.mscale) / yarn_magnitude(scaling.factor, scaling.mscale_all_dim)


def latent_attention_magnitude(scaling: RopeScalingConfig | None) -> float:
    """The factor on queries and on keys of latent attention, whose plain part is not reached by cos and sin."""
    if scaling is None or scaling.method != "yarn" or not scaling.mscale_all_dim:
        return 1.0
    return yarn_magnitude(scaling.factor, scaling.mscale_all_dim)


def yarn_magnitude(factor: float, scale: float) -> float:
    """m(s) = 0.1 s ln(factor) + 1: YaRN's equation 22 with the weight s of DeepSeek-V2's published code."""
    return 0.1 * scale * math.log(factor) + 1.0


def build_rotary_embedding(config: ModelConfig, layer_type: str) -> RotaryEmbedding:
    """The rotary embedding of a layer type: local layers may have their own theta (Gemma 3)."""
    width = config.rotary_width
    if layer_type == "local" and config.rope_local_theta is not None:
        return RotaryEmbedding(width, config.rope_local_theta, config.context_length)
    embedding = EMBEDDINGS.get(config.rope_scaling.method if config.rope_scaling else "", RotaryEmbedding)
    return embedding(width, config.rope_theta, config.context_length, config.rope_scaling)


def build_rotation(config: ModelConfig, layer: int) -> Callable[..., Tensor]:
    """The function that rotates queries and keys of a layer."""
    if not config.rotates(layer):
        return no_rotation
    return rotate_first if config.rotary_width < config.head_dim else rotate
