"""What [model] refuses: sizes out of range, parts that do not fit together, and knobs without effect."""

from typing import Any

from groundup.artifacts.json_file import shorten
from groundup.recipe.base_config import refuse_unused
from groundup.recipe.mixer_config import check_gated_delta, check_latent_attention, check_state_space

MAX_LAYERS = 10_000
MAX_SIZE, MAX_HEAD_DIM, MAX_FLOAT = 2**31 - 1, 65_536, 1e30
"""Ten times the deepest published transformers; a damaged file asks for millions, which take all memory."""

GATED_ACTIVATIONS = ("swiglu", "swiglu_clamped", "geglu", "geglu_tanh")


def check_sizes(model: Any) -> None:
    """Raises ValueError for sizes of a ModelConfig that are too large or do not divide each other."""
    parts = (model.moe, model.rope_scaling, model.latent_attention, model.state_space, model.gated_delta)
    for name, value in [*model, *(field for part in parts for field in part or ())]:
        most = MAX_SIZE if isinstance(value, int) else MAX_FLOAT
        if isinstance(value, int | float) and value > most:
            raise ValueError(f"{name} = {shorten(value)}, expected at most {most:g}")
    if max(model.num_layers, model.num_encoder_layers or 0) > MAX_LAYERS:
        raise ValueError(f"num_layers = {model.num_layers}, expected at most {MAX_LAYERS:,}")
    if model.head_dim > MAX_HEAD_DIM:
        raise ValueError(f"head_dim = {model.head_dim}, expected at most {MAX_HEAD_DIM:,}")
    if model.num_heads % model.num_kv_heads:
        raise ValueError(f"num_heads = {model.num_heads} is not divisible by num_kv_heads = {model.num_kv_heads}")
    if model.position_embedding == "rope":
        if model.rotary_width % 2:
            name = "head_dim" if model.rotary_dim is None else "rotary_dim"
            name = "latent_attention.rope_head_dim" if model.latent_attention else name
            raise ValueError(f"{name} = {model.rotary_width} is odd, expected an even number for RoPE")
        if (model.rotary_dim or 0) > model.head_dim:
            raise ValueError(f"rotary_dim = {model.rotary_dim}, expected at most head_dim = {model.head_dim}")
    if model.rope_scaling is not None and model.rope_scaling.method == "longrope":
        for name in ("short_factors", "long_factors"):
            if (found := len(getattr(model.rope_scaling, name))) != model.rotary_width // 2:
                raise ValueError(f"rope_scaling.{name} has {found} numbers, expected {model.rotary_width // 2}")
    if model.position_embedding.startswith("sinusoidal") and model.hidden_size % 2:
        raise ValueError(f"hidden_size = {model.hidden_size} is odd, expected an even number for sines and cosines")


def check_parts(model: Any) -> None:
    """Raises ValueError for knobs of a ModelConfig that contradict each other."""
    if model.latent_attention is not None:
        check_latent_attention(model.latent_attention, model)
    check_gated_delta(model)
    if model.state_space is not None:
        check_state_space(model.state_space, model)
    if model.norm_placement == "parallel" and model.embedding_norm:
        raise ValueError("embedding_norm with norm_placement = 'parallel', expected 'pre' or 'post'")
    if model.attention_sinks and model.attention_softcap is not None:
        raise ValueError(f"attention_softcap = {model.attention_softcap} with attention_sinks, expected none")
    if model.attention_sinks and model.architecture == "encoder_decoder":
        raise ValueError("attention_sinks with an encoder_decoder, expected a decoder or an encoder")
    if "local" in model.attention_pattern and model.sliding_window is None:
        raise ValueError("attention_pattern has local layers, which need sliding_window")
    if model.moe is not None and not model.gated:
        raise ValueError(
            f"feed_forward = {model.feed_forward!r} with moe, expected one of {', '.join(GATED_ACTIVATIONS)}"
        )
    if model.relative_bias_per_layer and model.architecture != "encoder_decoder":
        raise ValueError(f"relative_bias_per_layer with {model.architecture}, expected an encoder_decoder")
    if model.qk_norm_after_rope and model.qk_norm_type == "projection":
        raise ValueError("qk_norm_after_rope with qk_norm_type = 'projection', expected norms of heads")
    if model.architecture == "encoder_decoder" and model.norm_placement not in ("pre", "post"):
        raise ValueError(f"norm_placement = {model.norm_placement!r} with an encoder_decoder, expected 'pre' or 'post'")
    if model.qk_norm and model.qk_norm_type == "per_head" and model.norm not in ("rmsnorm", "layernorm"):
        raise ValueError(f"norm = {model.norm!r} with qk_norm_type = 'per_head', expected rmsnorm or layernorm")
    if model.residual_scale != 1.0 and (model.architecture == "encoder_decoder" or model.norm_placement == "parallel"):
        raise ValueError(
            f"residual_scale = {model.residual_scale} with cross-attention or parallel sublayers, expected 1"
        )


def check_unused(model: Any) -> None:
    """Raises ValueError for a knob of a ModelConfig with another value than its default where it has no effect."""
    encoder, both = model.architecture == "encoder", model.architecture == "encoder_decoder"
    needs: dict[str, tuple[bool, tuple[str, ...]]] = {
        "position_embedding = 'rope'": (
            model.position_embedding == "rope", ("rotary_dim", "rope_local_theta", "rope_scaling", "rope_pattern")
        ),
        "position_embedding = 'relative'": (
            model.position_embedding == "relative",
            ("relative_buckets", "relative_max_distance", "relative_bias_per_layer"),
        ),
        "local layers in attention_pattern": ("local" in model.attention_pattern, ("sliding_window",)),
        "qk_norm": (model.qk_norm, ("qk_norm_type", "qk_norm_after_rope")),
        "norm = 'layernorm'": (model.norm == "layernorm", ("norm_bias",)),
        "norm_placement = 'parallel'": (model.norm_placement == "parallel", ("shared_norm",)),
        "embedding_norm and norm_placement = 'pre'": (
            model.embedding_norm and model.norm_placement == "pre", ("keep_first_norm",)
        ),
        "feed_forward = 'swiglu_clamped'": (
            model.feed_forward == "swiglu_clamped", ("swiglu_alpha", "swiglu_limit")
        ),
        "architecture = 'encoder'": (
            encoder,
            ("embedding_size", "num_token_types", "masked_lm_head", "masked_head_activation", "masked_head_bias", "pooling"),
        ),
        "a decoder, or architecture = 'encoder_decoder'": (not encoder, ("head_bias",)),
        "architecture = 'encoder_decoder'": (
            both, ("num_encoder_layers", "decoder_start_token_id", "forced_bos_token_id")
        ),
    }  # fmt: skip
    refuse_unused(model, needs)
