"""RoPE scaling in GGUF metadata.

llama.cpp's rules: a factor without a type is linear; `rope.scale_linear` is the factor's older name; Llama 3.1's scaling has no
keys, but a tensor of factors.
"""

import torch

from groundup.artifacts.errors import UserError
from groundup.interop.gguf.architectures.gguf_architecture import GGUFFields, Metadata, shortest_decimal
from groundup.model.rope import RotaryEmbedding, attention_factor, rope_frequencies
from groundup.recipe import ModelConfig
from groundup.recipe.model_config import RopeScalingConfig

ROPE_FACTORS = "rope_freqs.weight"
"""Not a weight: the factor by which Llama 3.1's scaling divides the frequency of each pair."""


def read_scaling(fields: GGUFFields, factors: torch.Tensor | None, knobs: Metadata) -> Metadata | None:
    """The knob rope_scaling. Raises UserError for a scaling that has no equal here."""
    method = fields.get("rope.scaling.type", "linear")
    factor = fields.get("rope.scaling.factor", fields.get("rope.scale_linear", 1.0)) or 1.0
    fields.get("rope.scale_linear")
    scaled = method != "none" and factor != 1.0
    if factors is not None:
        if scaled:
            raise UserError(
                f"rope.scaling.factor = {factor} beside {ROPE_FACTORS} is not supported, expected one of them"
            )
        return _infer_llama3_scaling(factors, knobs)
    if not scaled:
        return None
    if method not in ("linear", "yarn"):
        raise UserError(f"rope.scaling.type = {method!r} is not supported, expected one of none, linear, yarn")
    scaling: Metadata = {"method": method, "factor": factor}
    if method == "yarn":
        scaling["original_context_length"] = fields.get("rope.scaling.original_context_length", knobs["context_length"])
        scaling["beta_fast"] = fields.get("rope.scaling.yarn_beta_fast", 32.0)
        scaling["beta_slow"] = fields.get("rope.scaling.yarn_beta_slow", 1.0)
        if knobs.get("latent_attention"):
            weight = shortest_decimal(10 * fields.require("rope.scaling.yarn_log_multiplier"))
            return scaling | {"mscale": weight, "mscale_all_dim": weight}
        if (times := fields.get("rope.scaling.attn_factor", 1.0)) != 1.0:
            derived = attention_factor(RopeScalingConfig(method="yarn", factor=factor))
            scaling["attention_factor"] = shortest_decimal(times * derived)
    return scaling


def write_scaling(config: ModelConfig) -> Metadata:
    """The entries of rope_scaling; those of dynamic scaling, which llama.cpp lacks, are left out."""
    scaling = config.rope_scaling
    if scaling is None or scaling.method not in ("linear", "yarn"):
        return {}
    fields: Metadata = {"rope.scaling.type": scaling.method, "rope.scaling.factor": scaling.factor}
    if scaling.method == "yarn":
        fields["rope.scaling.original_context_length"] = scaling.original_context_length or config.context_length
        if config.latent_attention is not None:
            weight = scaling.mscale_all_dim
            return fields | ({"rope.scaling.yarn_log_multiplier": weight / 10} if weight else {})
        derived = attention_factor(RopeScalingConfig(method="yarn", factor=scaling.factor))
        if attention_factor(scaling) != derived:
            fields["rope.scaling.attn_factor"] = attention_factor(scaling) / derived
    return fields


def rope_factors(config: ModelConfig) -> torch.Tensor | None:
    """`rope_freqs.weight` of a model with Llama 3.1's RoPE scaling; None for others."""
    if config.rope_scaling is None or config.rope_scaling.method != "llama3" or config.position_embedding != "rope":
        return None
    scaled = RotaryEmbedding(config.rotary_width, config.rope_theta, config.context_length, config.rope_scaling)
    return rope_frequencies(config.rotary_width, config.rope_theta) / scaled.compute_frequencies()


def _infer_llama3_scaling(factors: torch.Tensor, knobs: Metadata) -> Metadata:
    """The Llama 3.1 scaling that produces these factors, the only trace of it in the file.

    The slowest pair has the scaling factor. The two bounds are 1 and 4 in every such model, and the original length is a power
    of two.
    """
    factor = round(factors.max().item(), 4)
    for exponent in range(24):
        scaling = {"method": "llama3", "factor": factor, "original_context_length": 2**exponent}
        candidate = rope_factors(ModelConfig(**{**knobs, "rope_scaling": scaling}))
        if candidate is not None and candidate.shape == factors.shape and torch.allclose(candidate, factors, rtol=1e-4):
            return scaling
    raise UserError(
        f"{ROPE_FACTORS}: {len(factors)} factors up to {factor:g} do not result from Llama 3.1's RoPE scaling "
        f"for rope.freq_base = {knobs.get('rope_theta')}"
    )
