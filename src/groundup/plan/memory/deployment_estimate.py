"""Serving a planned model: size in each format, users on one device, tokens per second, money per million tokens."""

import math
from dataclasses import dataclass
from typing import Any

from groundup.plan.hardware import DeviceSpec
from groundup.plan.shape.parameter_count import ParameterCounts
from groundup.recipe import ModelConfig

CACHE_BYTES = 2
"""Of one number in the key/value cache: bfloat16."""
STATE_BYTES = 4
"""Of one number in the state of linear attention and state-space layers: float32."""
MEMORY_FRACTION = 0.9
BANDWIDTH_FRACTION, PEAK_FRACTION = 0.7, 0.4
"""Of the data sheet that decoding and large batches reach (assumed from public measurements of serving engines)."""
BLOCK_SECONDS = 25e-6
"""Of a block in a step, at least: launches of its kernels (assumed)."""
MAX_BATCH = 256
"""Texts at once, at most: more wait longer than users do."""


@dataclass(frozen=True)
class WeightFormat:
    """Bits of a weight of a block's matrices, and of all others: embedding, head, norms."""

    name: str
    use: str
    matrix_bits: float
    other_bits: float


FORMATS = (
    WeightFormat("float32", "training; reference", 32, 32),
    WeightFormat("bfloat16", "GPU, without loss", 16, 16),
    WeightFormat("GGUF Q8_0", "CPU and GPU, llama.cpp", 8.5, 8.5),
    WeightFormat("GPTQ or AWQ, 8 bits", "GPU", 8.16, 16),
    WeightFormat("GGUF Q4_K_M", "CPU and GPU, llama.cpp", 4.85, 5.5),
    WeightFormat("GPTQ or AWQ, 4 bits", "GPU, groups of 128", 4.16, 16),
)  # fmt: skip
"""Bits with scales and offsets: Q8_0 has one 16-bit scale for 32 weights, GPTQ and AWQ a scale of 16 bits and an offset for
each group; Q4_K_M mixes 4.5 and 6.56 bits."""


@dataclass(frozen=True)
class Deployment:
    """One format of a model on one device; figures are 0 where it does not fit.

    Attributes:
        weight_bytes: all weights.
        users: texts of full context beside each other.
        user_tokens_per_second: of one user alone.
        tokens_per_second: of all users together.
        cost_per_million: tokens, at the price of the device; None: no price.
    """

    format: WeightFormat
    weight_bytes: float
    users: int
    user_tokens_per_second: float
    tokens_per_second: float
    cost_per_million: float | None


def weight_bytes(parameters: ParameterCounts, form: WeightFormat) -> float:
    """Bytes of all weights in a format."""
    matrices = parameters.attention + parameters.feed_forward
    return (matrices * form.matrix_bits + (parameters.total - matrices) * form.other_bits) / 8


def cache_bytes_per_text(config: ModelConfig, tokens: int | None = None, value_bytes: int = CACHE_BYTES) -> float:
    """Bytes of the key/value cache of one text of `tokens`, by default the whole context, as `groundup serve` keeps it.

    Latent attention keeps one latent vector and the rotated part of the key for all heads. Layers with a sliding window keep
    all tokens too: pages of the cache have room for every layer. Linear attention and state-space models keep a float32 state
    and the last inputs of a convolution. An encoder-decoder also keeps a source text of as many tokens.

    value_bytes: 4 for float32, 2 for bfloat16, 1 for 8 bits with a scale of two bytes for each head and token.

    >>> config = ModelConfig(vocab_size=32_000, hidden_size=4096, num_layers=32, num_heads=32, context_length=4096)
    >>> cache_bytes_per_text(config) / 4096 / 1024
    512.0
    """
    tokens = config.cached_context_length if tokens is None else tokens
    if config.architecture == "encoder":
        return 0.0
    if (settings := config.state_space) is not None:
        inner = config.num_heads * config.head_dim
        inputs = (settings.convolution_width - 1) * (inner + 2 * settings.num_groups * settings.state_size)
        return config.num_layers * (inner * settings.state_size * STATE_BYTES + inputs * CACHE_BYTES)
    scale = 2 if value_bytes == 1 else 0
    of_token = 2 * config.num_kv_heads * (config.head_dim * value_bytes + scale)
    if (latent := config.latent_attention) is not None:
        of_token = (latent.kv_rank + latent.rope_head_dim) * value_bytes + scale
    of_linear = 0
    if (delta := config.gated_delta) is not None:
        values = delta.num_value_heads * delta.value_head_dim
        inputs = (delta.convolution_width - 1) * (2 * delta.num_key_heads * delta.key_head_dim + values)
        of_linear = values * delta.key_head_dim * STATE_BYTES + inputs * CACHE_BYTES
    stacks = 2 if config.architecture == "encoder_decoder" else 1
    linear = config.layer_types.count("linear")
    return float(stacks * (config.num_layers - linear) * tokens * of_token + linear * of_linear)


def inference_memory(config: ModelConfig, parameters: ParameterCounts) -> dict[str, Any]:
    """Bytes that a served model needs: `weights` by name of the format, and a text's cache of `tokens` in two precisions."""
    return {
        "weights": {form.name: weight_bytes(parameters, form) for form in FORMATS},
        "tokens": config.cached_context_length,
        "cache": cache_bytes_per_text(config),
        "cache_8bit": cache_bytes_per_text(config, value_bytes=1),
    }


def estimate_deployment(
    config: ModelConfig,
    parameters: ParameterCounts,
    form: WeightFormat,
    device: DeviceSpec,
    price_per_hour: float | None,
) -> Deployment:
    """Serving of a decoder on one device, by roofline: each step reads the weights once and the cache of every text, and
    multiplies 2 operations per weight and text. Texts are half full on average."""
    size, cache = weight_bytes(parameters, form), cache_bytes_per_text(config)
    free = MEMORY_FRACTION * device.memory_bytes - size
    if free <= cache or not device.memory_bandwidth:
        return Deployment(form, size, 0, 0.0, 0.0, None)
    users = MAX_BATCH if cache == 0 else max(1, min(MAX_BATCH, math.floor(free / cache)))
    read = size * parameters.active / parameters.total

    def tokens_per_second(batch: int) -> float:
        touched = min(size, read * batch)  # each text may use other experts
        moving = (touched + batch * cache / 2) / (BANDWIDTH_FRACTION * device.memory_bandwidth)
        computing = 2 * parameters.active * batch / (PEAK_FRACTION * device.peak_flops)
        return batch / max(moving, computing, BLOCK_SECONDS * config.num_layers)

    together = tokens_per_second(users)
    cost = None if price_per_hour is None else price_per_hour / 3600 / together * 1e6
    return Deployment(form, size, users, tokens_per_second(1), together, cost)
