"""Parts of [model] in place of ordinary attention: latent attention, state-space layers, linear attention."""

from typing import Any

from groundup.recipe.base_config import BaseConfig, knob


class LatentAttentionConfig(BaseConfig):
    """Multi-head latent attention: keys and values from one small vector a token (DeepSeek-V2, section 2.1)."""

    kv_rank: int = knob(meaning="width of the latent vector of keys and values", ge=1)
    q_rank: int | None = knob(None, "width of the latent vector of queries", unset="one matrix for queries", ge=1)
    rope_head_dim: int = knob(meaning="rotated part of head_dim; its keys are the same for all heads", ge=2)
    value_head_dim: int = knob(meaning="width of the values of a head", ge=1)


class StateSpaceConfig(BaseConfig):
    """State-space layers in place of attention and feed-forward (Dao & Gu 2024, Mamba-2)."""

    state_size: int = knob(128, "columns of the state of a head", ge=1)
    num_groups: int = knob(1, "groups of heads with common keys and queries of the state", ge=1)
    convolution_width: int = knob(4, "tokens of the convolution before the state, the token itself included", ge=2)
    convolution_bias: bool = knob(True, "bias in the convolution")


class GatedDeltaConfig(BaseConfig):
    """Linear attention by the gated delta rule, in layers of type linear (Yang et al. 2024; Qwen3-Next)."""

    num_key_heads: int = knob(16, "heads of queries and keys, each for as many heads of values", ge=1)
    num_value_heads: int = knob(32, "heads of values, each with a state", ge=1)
    key_head_dim: int = knob(128, "width of a head of queries or keys", ge=1)
    value_head_dim: int = knob(128, "width of a head of values", ge=1)
    convolution_width: int = knob(4, "tokens of the convolution before the state, the token itself included", ge=2)


def check_gated_delta(model: Any) -> None:
    """Raises ValueError for knobs of a ModelConfig that contradict linear attention."""
    settings: GatedDeltaConfig | None = model.gated_delta
    if (settings is None) == ("linear" in model.attention_pattern):
        raise ValueError("gated_delta and layers of type linear in attention_pattern: expected both or none")
    if settings is None:
        return
    if settings.num_value_heads % settings.num_key_heads:
        raise ValueError(
            f"gated_delta.num_value_heads = {settings.num_value_heads}, expected a multiple of "
            f"gated_delta.num_key_heads = {settings.num_key_heads}"
        )
    required = {"architecture": "decoder", "latent_attention": None, "state_space": None, "attention_sinks": False}
    for name, value in required.items():
        if (found := getattr(model, name)) != value:
            raise ValueError(f"{name} = {found!r} with gated_delta, expected {value!r}")


def check_state_space(settings: StateSpaceConfig, model: Any) -> None:
    """Raises ValueError for knobs of a ModelConfig that contradict state-space layers."""
    if model.num_heads % settings.num_groups:
        raise ValueError(
            f"num_heads = {model.num_heads}, expected a multiple of state_space.num_groups = {settings.num_groups}"
        )
    required: dict[str, Any] = {
        "architecture": "decoder", "position_embedding": "rope", "norm_placement": "pre", "embedding_norm": False,
        "qk_norm": False, "attention_sinks": False, "attention_gate": False, "latent_attention": None, "moe": None,
        "residual_scale": 1.0,
        "num_kv_heads": model.num_heads, "sliding_window": None, "attention_softcap": None,
    }  # fmt: skip
    for name, value in required.items():
        if (found := getattr(model, name)) != value:
            raise ValueError(f"{name} = {found!r} with state_space, expected {value!r}")
    if model.attention_bias == "qkv":
        raise ValueError("attention_bias = 'qkv' with state_space, expected 'none' or 'all'")


def check_latent_attention(latent: LatentAttentionConfig, model: Any) -> None:
    """Raises ValueError for knobs of a ModelConfig that contradict latent attention."""
    if latent.rope_head_dim >= model.head_dim:
        raise ValueError(
            f"latent_attention.rope_head_dim = {latent.rope_head_dim}, expected less than head_dim = {model.head_dim}"
        )
    required: dict[str, Any] = {
        "architecture": "decoder", "position_embedding": "rope", "qk_norm": False, "num_kv_heads": model.num_heads,
        "attention_gate": False,
        "rotary_dim": None, "rope_pattern": (True,),
    }  # fmt: skip
    for name, value in required.items():
        if (found := getattr(model, name)) != value:
            raise ValueError(f"{name} = {found!r} with latent_attention, expected {value!r}")
