"""[model]: the transformer's shape and parts."""

import math
from typing import Any, Literal, Optional

from pydantic import create_model, model_validator

from groundup.recipe.base_config import BaseConfig, knob

LayerType = Literal["global", "local"]
GATED_ACTIVATIONS = ("swiglu", "geglu", "geglu_tanh")


class RopeScalingConfig(BaseConfig):
    """How rotary positions are stretched beyond the length that a model was first trained on."""

    method: Literal["linear", "dynamic", "yarn", "llama3"] = knob(
        meaning="positions divided (Chen et al. 2023), the base raised as the text grows (dynamic NTK), "
        "YaRN (Peng et al. 2023), or Llama 3.1's rule"
    )
    factor: float = knob(meaning="how many times longer", ge=1)
    original_context_length: int | None = knob(
        None, "length before stretching; default: model.context_length", ge=1
    )
    beta_fast: float = knob(
        32.0, "yarn: pairs that turn more often than this in the original length are kept", gt=0
    )
    beta_slow: float = knob(1.0, "yarn: pairs that turn less often than this are fully stretched", gt=0)
    attention_factor: float | None = knob(
        None, "yarn: factor on cos and sin; default: 0.1 ln(factor) + 1", gt=0
    )
    low_freq_factor: float = knob(
        1.0, "llama3: pairs that turn less often than this are fully stretched", gt=0
    )
    high_freq_factor: float = knob(4.0, "llama3: pairs that turn more often than this are kept", gt=0)


class MoEConfig(BaseConfig):
    """A feed-forward layer of many experts, of which each token meets a few (Shazeer et al. 2017)."""

    num_experts: int = knob(meaning="experts to choose from", ge=1)
    experts_per_token: int = knob(meaning="experts that each token is sent to", ge=1)
    intermediate_size: int = knob(0, "width of one expert; 0: model.intermediate_size", ge=0)
    num_shared_experts: int = knob(0, "experts that every token meets (Dai et al. 2024)", ge=0)
    num_dense_layers: int = knob(0, "first layers that keep an ordinary feed-forward", ge=0)
    router_activation: Literal["softmax", "sigmoid"] = knob("softmax", "from router logits to scores")
    normalize_scores: bool = knob(True, "the scores of a token's experts sum to one")
    load_balancing: Literal["none", "auxiliary_loss", "bias"] = knob(
        "none", "keep experts equally busy: a loss (Fedus et al. 2021) or a bias (Wang et al. 2024)"
    )
    load_balancing_rate: float = knob(1e-3, "weight of that loss, or step of that bias", ge=0)

    @model_validator(mode="after")
    def _check_experts(self) -> "MoEConfig":
        if self.experts_per_token > self.num_experts:
            most = self.num_experts
            raise ValueError(
                f"experts_per_token = {self.experts_per_token}, expected at most num_experts = {most}"
            )
        return self


class ModelConfig(BaseConfig):
    """A transformer, completely described. `groundup.Decoder(ModelConfig(...))` builds it.

    What a smaller number of knobs implies is filled in: num_kv_heads = num_heads, head_dim = hidden_size /
    num_heads, intermediate_size = 4 hidden_size, or 8/3 of it, in steps of 64, where the feed-forward is
    gated.
    """

    # Shape
    architecture: Literal["decoder", "encoder", "encoder_decoder"] = knob(
        "decoder", "which of the three transformers"
    )
    vocab_size: int = knob(meaning="entries of the token embedding", ge=1)
    hidden_size: int = knob(meaning="width of the residual stream", ge=1)
    num_layers: int = knob(meaning="transformer blocks (of each side, in an encoder_decoder)", ge=1)
    num_encoder_layers: int = knob(0, "blocks of an encoder_decoder's encoder; 0: num_layers", ge=0)
    num_heads: int = knob(meaning="query heads", ge=1)
    num_kv_heads: int = knob(0, "key and value heads; 0: as many as query heads (Ainslie et al. 2023)", ge=0)
    head_dim: int = knob(0, "width of one head; 0: hidden_size / num_heads", ge=0)
    intermediate_size: int = knob(
        0, "width of the feed-forward; 0: 4 hidden_size, or 8/3 of it when gated", ge=0
    )
    context_length: int = knob(1024, "longest sequence", ge=1)

    # Norms
    norm: Literal["rmsnorm", "zero_centered_rmsnorm", "layernorm"] = knob(
        "rmsnorm", "which normalisation; zero-centered: its weight is an offset from one, as in Gemma"
    )
    norm_eps: float = knob(1e-5, "added to the variance before the root", gt=0)
    norm_placement: Literal["pre", "post", "sandwich"] = knob(
        "pre",
        "before each part (GPT-2 on), after the residual sum (BERT), or before and after each part (Gemma 2)",
    )
    norm_bias: bool = knob(False, "layernorm adds a bias")
    qk_norm: bool = knob(False, "normalise queries and keys of each head before RoPE (as Qwen3 does)")
    embedding_norm: bool = knob(
        False, "normalise embeddings; the first block's pre-norm is then left out (BERT, ModernBERT)"
    )

    # Positions
    position_embedding: Literal["rope", "learned", "relative"] = knob(
        "rope", "rotary (Su et al. 2021), a learned table (GPT-2, BERT), or T5's bias by distance"
    )
    rope_theta: float = knob(10_000.0, "base of the rotary frequencies", gt=0)
    rope_local_theta: float | None = knob(
        None, "base in local layers, never scaled (Gemma 3); default: rope_theta, scaled alike", gt=0
    )
    rope_scaling: RopeScalingConfig | None = knob(None, "stretch the rotary positions; none: off")
    relative_buckets: int = knob(32, "distances that T5's bias tells apart", ge=2)
    relative_max_distance: int = knob(128, "distance from which T5's bias no longer grows", ge=2)

    # Attention
    attention_bias: Literal["none", "qkv", "all"] = knob(
        "none", "biases on queries, keys, values (Qwen2), or on the output too"
    )
    attention_scale: float | None = knob(
        None, "factor on query-key products; default: 1 / sqrt(head_dim)", gt=0
    )
    attention_softcap: float | None = knob(
        None, "c: products become c tanh(product / c) (Gemma 2); none: off", gt=0
    )
    sliding_window: int | None = knob(
        None, "tokens that a local layer looks back (an encoder also ahead), itself included", ge=1
    )
    attention_pattern: tuple[LayerType, ...] = knob(
        ("global",),
        "which layers see all and which only the sliding window, repeated over the layers",
        min_length=1,
    )

    # Feed-forward
    feed_forward: Literal["swiglu", "geglu", "geglu_tanh", "gelu", "gelu_tanh", "relu2"] = knob(
        "swiglu",
        "activation, gated (Shazeer 2020) or plain; _tanh: the approximate GELU of GPT-2, T5 and Gemma",
    )
    feed_forward_bias: bool = knob(False, "biases in the feed-forward")
    moe: MoEConfig | None = knob(None, "a mixture of experts in place of one feed-forward; none: off")

    # Embedding and head
    tie_embeddings: bool = knob(False, "the head reuses the token embedding")
    embedding_scale: float = knob(1.0, "factor on embeddings (Gemma: sqrt(hidden_size))", gt=0)
    logit_scale: float = knob(1.0, "factor on the last hidden state before the head", gt=0)
    logit_softcap: float | None = knob(None, "c: logits become c tanh(logit / c) (Gemma 2); none: off", gt=0)
    num_token_types: int = knob(0, "encoder: segment embeddings (BERT has 2); 0: none", ge=0)
    masked_lm_head: bool = knob(
        True, "encoder: a head that predicts masked tokens; without it the encoder only embeds"
    )
    pooling: Literal["mean", "first"] = knob(
        "mean", "encoder: an embedding is the mean of its tokens or the first one's state"
    )
    decoder_start_token_id: int = knob(
        0, "encoder_decoder: the token before the first one to predict (T5: the padding)", ge=0
    )

    # Initialisation
    init_std: float = knob(0.02, "standard deviation of the initial weights", gt=0)
    depth_scaled_init: bool = knob(
        True, "maps into the residual stream start smaller by sqrt(2 num_layers) (GPT-2)"
    )
    mup_base_width: int | None = knob(
        None,
        "hidden_size at which the knobs were tuned; wider models train alike (muP, Yang et al. 2022)",
        ge=1,
    )

    @property
    def gated(self) -> bool:
        """Whether the feed-forward multiplies two projections: it then has three matrices, not two."""
        return self.feed_forward in GATED_ACTIVATIONS

    @property
    def layer_types(self) -> tuple[LayerType, ...]:
        """The kind of each of `num_layers` layers."""
        return self.layer_types_for(self.num_layers)

    def layer_types_for(self, num_layers: int) -> tuple[LayerType, ...]:
        """`attention_pattern` repeated over a stack of `num_layers` layers."""
        return (self.attention_pattern * math.ceil(num_layers / len(self.attention_pattern)))[:num_layers]

    @property
    def width_multiplier(self) -> float:
        """How many times wider than the width at which the knobs were tuned; 1 without muP."""
        return self.hidden_size / (self.mup_base_width or self.hidden_size)

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        """Resolve the zeros. What is not a whole number here is left for the field's own check to refuse."""
        if not isinstance(values, dict) or not all(
            isinstance(values.get(k), int) for k in ("hidden_size", "num_heads")
        ):
            return values
        values = dict(values)
        hidden_size, num_heads = values["hidden_size"], max(values["num_heads"], 1)
        if not values.get("head_dim") and hidden_size % num_heads:
            raise ValueError(
                f"num_heads = {num_heads} must divide hidden_size = {hidden_size}, or head_dim be given"
            )
        gated = values.get("feed_forward", "swiglu") in GATED_ACTIVATIONS
        values["num_kv_heads"] = values.get("num_kv_heads") or num_heads
        values["head_dim"] = values.get("head_dim") or hidden_size // num_heads
        values["intermediate_size"] = values.get("intermediate_size") or (
            -(-hidden_size * 8 // 3 // 64) * 64 if gated else 4 * hidden_size
        )
        if values.get("architecture") == "encoder_decoder":
            values["num_encoder_layers"] = values.get("num_encoder_layers") or values.get("num_layers")
        if moe := values.get("moe"):
            moe = moe.model_dump() if isinstance(moe, MoEConfig) else dict(moe)
            values["moe"] = moe | {
                "intermediate_size": moe.get("intermediate_size") or values["intermediate_size"]
            }
        return values

    @model_validator(mode="after")
    def _check_consistency(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads = {self.num_kv_heads} must divide num_heads = {self.num_heads}")
        if self.position_embedding == "rope" and self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim} must be even, because RoPE turns pairs")
        if "local" in self.attention_pattern and self.sliding_window is None:
            raise ValueError(
                "attention_pattern has local layers, so sliding_window must say how far they look"
            )
        if self.moe is not None and not self.gated:
            raise ValueError(
                f"feed_forward = {self.feed_forward!r}: experts are gated, expected one of {', '.join(GATED_ACTIVATIONS)}"
            )
        if self.architecture == "encoder_decoder" and self.norm_placement != "pre":
            raise ValueError(f"norm_placement = {self.norm_placement!r}: an encoder_decoder has 'pre'")
        return self


# In a recipe every knob of the model may be left out: the plan derives the sizes, the rest has defaults.
_OPTIONAL_FIELDS: dict[str, Any] = {
    name: (Optional[field.annotation], knob(None, field.description or ""))  # noqa: UP045
    for name, field in ModelConfig.model_fields.items()
}
PartialModelConfig: Any = create_model("PartialModelConfig", __base__=BaseConfig, **_OPTIONAL_FIELDS)
