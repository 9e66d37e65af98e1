"""Rotary position embedding (Su et al. 2021, RoFormer) and the ways to stretch it.

Each head's vector is K/2 pairs; the pair i of a token at position p is turned by the angle p * theta^(-2i/K).
The product of a query and a key then depends on the distance of their positions alone. The pairs are (i, i +
K/2), as in Hugging Face's weights; Meta's and GGUF's Llama files pair neighbours, and their importers permute
the rows.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.recipe import ModelConfig
from groundup.recipe.model_config import RopeScalingConfig


class Rotation(NamedTuple):
    """Cosine and signed sine of each pair's angle, the same for all heads."""

    cos: Float[Tensor, "... T K"]
    """cos for both halves of a head."""
    sin: Float[Tensor, "... T K"]
    """-sin for the first half, sin for the second."""


class RotaryEmbedding(nn.Module):
    """From positions to rotations. Holds no weights, only the frequency of each pair."""

    frequencies: Tensor

    def __init__(
        self, head_dim: int, theta: float, context_length: int, scaling: RopeScalingConfig | None = None
    ):
        super().__init__()
        self.head_dim, self.theta, self.scaling = head_dim, theta, scaling
        self.original_length = (scaling and scaling.original_context_length) or context_length
        self.factor = attention_factor(scaling)
        self.reset_buffers()

    def compute_frequencies(self) -> Float[Tensor, " P"]:
        """The angle of each pair from one position to the next, on torch's default device."""
        frequencies = rope_frequencies(self.head_dim, self.theta)
        if self.scaling is None:
            return frequencies
        stretch = SCALINGS[self.scaling.method]
        return stretch(frequencies, self.theta, self.original_length, self.scaling)

    def reset_buffers(self) -> None:
        """Compute what is held, on torch's default device."""
        self.register_buffer("frequencies", self.compute_frequencies(), persistent=False)

    def forward(self, positions: Int[Tensor, "*B T"]) -> Rotation:
        """Rotations (T K), or (B 1 T K) where each sequence has positions of its own."""
        angles = positions[..., None].float() * self.frequencies_for(positions)
        if positions.ndim == 2:
            angles = angles[:, None]
        cos, sin = angles.cos() * self.factor, angles.sin() * self.factor
        return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))

    def frequencies_for(self, positions: Int[Tensor, "*B T"]) -> Float[Tensor, " P"]:
        return self.frequencies

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Follow the model to another device, but in float32: half precision cannot tell far positions."""
        super()._apply(fn, recurse)
        with torch.device(self.frequencies.device):
            self.reset_buffers()
        return self


class DynamicRotaryEmbedding(RotaryEmbedding):
    """Dynamic NTK: texts longer than the original length raise theta, so that the slowest pair still fits.

    theta grows by (factor * length / original - (factor - 1)) ^ (K / (K - 2)), as Hugging Face's "dynamic"
    has it.
    """

    def frequencies_for(self, positions: Int[Tensor, "*B T"]) -> Float[Tensor, " P"]:
        assert self.scaling is not None
        length = (positions.max() + 1).clamp(min=self.original_length)
        growth = self.scaling.factor * length / self.original_length - (self.scaling.factor - 1)
        pair = torch.arange(0, self.head_dim, 2, device=positions.device)
        return self.frequencies / growth ** (pair / (self.head_dim - 2))


def rotate(x: Float[Tensor, "B H T K"], rotation: Rotation) -> Float[Tensor, "B H T K"]:
    """Turn every pair of x by its angle: (a, b) -> (a cos - b sin, b cos + a sin)."""
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def no_rotation(x: Float[Tensor, "B H T K"], rotation: None) -> Float[Tensor, "B H T K"]:
    """In place of `rotate`, where positions come another way."""
    return x


def rope_frequencies(head_dim: int, theta: float) -> Float[Tensor, " P"]:
    """theta^(-2i/K) for each pair i, in radians a token."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)


def _linear(frequencies: Tensor, theta: float, original: int, scaling: RopeScalingConfig) -> Tensor:
    """Position interpolation (Chen et al. 2023): all pairs turn slower by the same factor."""
    return frequencies / scaling.factor


def _dynamic(frequencies: Tensor, theta: float, original: int, scaling: RopeScalingConfig) -> Tensor:
    """Unchanged up to the original length; see DynamicRotaryEmbedding for what lies beyond."""
    return frequencies


def _yarn(frequencies: Tensor, theta: float, original: int, scaling: RopeScalingConfig) -> Tensor:
    """YaRN (Peng et al. 2023, section 3.2): fast pairs are kept, slow ones interpolated, others between."""
    pairs = len(frequencies)

    def pair_that_turns(times: float) -> float:
        return pairs * math.log(original / (times * 2 * math.pi)) / math.log(theta)

    low = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(scaling.beta_slow)), 2 * pairs - 1)
    ramp = ((torch.arange(pairs) - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)


def _llama3(frequencies: Tensor, theta: float, original: int, scaling: RopeScalingConfig) -> Tensor:
    """Llama 3.1's rule (in its published code): YaRN's with a ramp in turns, not pairs."""
    turns = original * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies / scaling.factor * (1 - keep) + frequencies * keep


SCALINGS = {"linear": _linear, "dynamic": _dynamic, "yarn": _yarn, "llama3": _llama3}


def attention_factor(scaling: RopeScalingConfig | None) -> float:
    """YaRN sharpens attention over longer texts, by a factor on queries and keys alike (section 3.4)."""
    if scaling is None or scaling.method != "yarn":
        return 1.0
    return scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1.0


def build_rotary_embedding(config: ModelConfig, kind: str) -> RotaryEmbedding:
    """The rotary part of one kind of layer: local ones may have their own theta (Gemma 3)."""
    if kind == "local" and config.rope_local_theta is not None:
        return RotaryEmbedding(config.head_dim, config.rope_local_theta, config.context_length)
    part = (
        DynamicRotaryEmbedding
        if config.rope_scaling and config.rope_scaling.method == "dynamic"
        else RotaryEmbedding
    )
    return part(config.head_dim, config.rope_theta, config.context_length, config.rope_scaling)
