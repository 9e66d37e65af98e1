"""[model]: architecture and size of the transformer."""

import json
import math
from typing import Annotated, Any, Literal, Optional

from pydantic import create_model, model_validator

from groundup.recipe.base_config import BaseConfig, knob
from groundup.recipe.mixer_config import GatedDeltaConfig, LatentAttentionConfig, StateSpaceConfig
from groundup.recipe.model_checks import GATED_ACTIVATIONS, check_parts, check_sizes, check_unused

LayerType = Literal["global", "local", "linear"]


class RopeScalingConfig(BaseConfig):
    """Scaling of rotary positions to texts longer than those of the original training."""

    method: Literal["linear", "dynamic", "yarn", "llama3", "longrope"] = knob(
        meaning="linear (Chen et al. 2023), dynamic NTK, YaRN (Peng et al. 2023), Llama 3.1's or LongRoPE (Ding et al. 2024)"
    )
    factor: float = knob(meaning="context length / original context length", ge=1)
    original_context_length: int | None = knob(
        None, "context length before scaling", unset="model.context_length", ge=1
    )
    beta_fast: float = knob(
        32.0, "yarn: frequencies with more turns than this in the original length are unchanged", gt=0
    )
    beta_slow: float = knob(1.0, "yarn: frequencies with fewer turns than this are fully scaled", gt=0)
    attention_factor: float | None = knob(
        None,
        "yarn, longrope: factor on cos and sin",
        unset="derived: m(mscale) / m(mscale_all_dim), m(s) = 0.1 s ln(factor) + 1; longrope: "
        "sqrt(1 + ln(factor) / ln(original))",
        gt=0,
    )
    mscale: float | None = knob(
        None, "yarn: s of attention_factor (DeepSeek-V2)", unset="1, with mscale_all_dim 0", gt=0
    )
    mscale_all_dim: float | None = knob(
        None, "yarn: s of attention_factor; latent attention: scores are also multiplied by m(s)^2", unset="0", gt=0
    )
    truncate: bool = knob(True, "yarn: bounds of the ramp rounded to whole frequencies; false: gpt-oss")
    low_freq_factor: float = knob(1.0, "llama3: frequencies with fewer turns than this are fully scaled", gt=0)
    high_freq_factor: float = knob(4.0, "llama3: frequencies with more turns than this are unchanged", gt=0)
    short_factors: tuple[float, ...] = knob(
        (), "longrope: divisor of each frequency, in texts up to the original length"
    )
    long_factors: tuple[float, ...] = knob((), "longrope: the same, in longer texts")


class MoEConfig(BaseConfig):
    """Mixture of experts: feed-forward layers with a router (Shazeer et al. 2017)."""

    num_experts: int = knob(meaning="routed experts", ge=1)
    experts_per_token: int = knob(meaning="experts per token (top-k)", ge=1)
    intermediate_size: int = knob(
        None, "feed-forward width of one expert", unset="derived: model.intermediate_size", ge=1
    )
    expert_bias: bool = knob(False, "biases in the routed experts (gpt-oss)")
    router_bias: bool = knob(False, "bias of the router logits (gpt-oss)")
    num_shared_experts: int = knob(0, "experts for all tokens (Dai et al. 2024)", ge=0)
    shared_expert_gate: bool = knob(False, "each token scales the shared experts by a sigmoid, as Qwen2-MoE")
    num_dense_layers: int = knob(0, "first layers with an ordinary feed-forward", ge=0)
    dense_layers: tuple[int, ...] = knob((), "other layers with an ordinary feed-forward, counted from 0")
    router_activation: Literal["softmax", "sigmoid", "sparsemixer"] = knob(
        "softmax", "activation of the router logits; sparsemixer: one softmax for each chosen expert (Phi-3.5-MoE)"
    )
    router_jitter: float = knob(0.01, "sparsemixer: half the relative distance to the best expert that counts", ge=0)
    normalize_scores: bool = knob(True, "normalize the routing weights of each token to sum to 1")
    routed_scale: float = knob(1.0, "factor on the routing weights (DeepSeek-V2)", gt=0)
    scale_inputs: bool = knob(False, "routing weights scale the inputs of experts, not their outputs (Llama 4)")
    num_expert_groups: int = knob(1, "groups of experts, of which a token uses a few (DeepSeek-V2)", ge=1)
    experts_groups_per_token: int = knob(1, "groups per token, those with the best experts", ge=1)
    load_balancing: Literal["none", "auxiliary_loss", "bias"] = knob(
        "none", "auxiliary loss per sequence (Fedus et al. 2021, DeepSeek-V3) or router bias (Wang et al. 2024)"
    )
    load_balancing_rate: float = knob(1e-3, "weight of the auxiliary loss, or update step of the bias", ge=0)

    @model_validator(mode="after")
    def _check_experts(self) -> "MoEConfig":
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                f"experts_per_token = {self.experts_per_token}, expected at most num_experts = {self.num_experts}"
            )
        groups, used = self.num_expert_groups, self.experts_groups_per_token
        if self.num_experts % groups:
            raise ValueError(f"num_expert_groups = {groups} does not divide num_experts = {self.num_experts}")
        if not self.experts_per_token * groups / self.num_experts <= used <= groups:
            raise ValueError(
                f"experts_groups_per_token = {used}, expected at most num_expert_groups = {groups}, and enough for "
                f"experts_per_token = {self.experts_per_token}"
            )
        if self.router_activation == "sparsemixer" and (groups > 1 or self.load_balancing == "bias"):
            raise ValueError("router_activation = 'sparsemixer' with groups of experts or a bias, expected neither")
        if self.shared_expert_gate and not self.num_shared_experts:
            raise ValueError("shared_expert_gate = true, expected num_shared_experts of at least 1")
        return self

    def is_dense(self, layer: int) -> bool:
        """Whether layer number `layer` has an ordinary feed-forward."""
        return layer < self.num_dense_layers or layer in self.dense_layers


class ModelConfig(BaseConfig):
    """A complete transformer: `groundup.Decoder(ModelConfig(vocab_size=..., hidden_size=..., num_layers=..., num_heads=...))`.

    num_kv_heads, head_dim, intermediate_size and num_encoder_layers are derived if left out. Fields: groundup explain model.
    """

    # Size
    architecture: Literal["decoder", "encoder", "encoder_decoder"] = knob("decoder", "type of transformer")
    vocab_size: int = knob(meaning="rows of the token embedding", ge=1)
    hidden_size: int = knob(meaning="width of the residual stream", ge=1)
    num_layers: int = knob(meaning="transformer blocks; of the decoder, in an encoder_decoder", ge=1)
    num_encoder_layers: int | None = knob(
        None, "encoder_decoder: blocks of the encoder", unset="derived: num_layers", ge=1
    )
    num_heads: int = knob(meaning="query heads", ge=1)
    num_kv_heads: int = knob(
        None, "key/value heads: grouped-query attention (Ainslie et al. 2023)", unset="derived: num_heads", ge=1
    )
    head_dim: int = knob(None, "width of a head", unset="derived: hidden_size / num_heads", ge=1)
    intermediate_size: int = knob(
        None,
        "width of the feed-forward",
        unset="derived: 4 hidden_size, or 8/3 hidden_size rounded up to 64 if gated",
        ge=1,
    )
    context_length: int = knob(1024, "maximum sequence length, in tokens", ge=1)

    # Norms
    norm: Literal["rmsnorm", "zero_centered_rmsnorm", "layernorm", "unweighted_rmsnorm", "unweighted_layernorm"] = knob(
        "rmsnorm",
        "normalization; zero_centered: the weight is an offset from 1 (Gemma); unweighted: no weight (nanochat, OLMo 1)",
    )
    norm_eps: float = knob(1e-5, "epsilon in the denominator of norms", gt=0)
    norm_placement: Literal["pre", "post", "sandwich", "parallel", "sublayer_output"] = knob(
        "pre",
        "before each sublayer (GPT-2), after the residual sum (BERT), before and after each sublayer (Gemma 2), before "
        "sublayers that are parallel (GPT-J), or after each sublayer, before the sum (OLMo 2)",
    )
    shared_norm: bool = knob(False, "parallel: one norm for both sublayers, as GPT-J and Falcon")
    norm_bias: bool = knob(False, "layernorm: bias")
    qk_norm: bool = knob(False, "normalize queries and keys of each head before RoPE, as Qwen3")
    qk_norm_type: Literal["head", "projection", "per_head", "unweighted"] = knob(
        "head",
        "qk_norm of each head, over all heads at once (OLMo 2), of each head with weights of its own (Cohere), or of each "
        "head without weights in layers that rotate (Llama 4)",
    )
    qk_norm_after_rope: bool = knob(False, "qk_norm after the rotation, as Hunyuan and Llama 4")
    embedding_norm: bool = knob(False, "normalize embeddings instead of the first pre-norm, as BERT and ModernBERT")
    keep_first_norm: bool = knob(False, "embedding_norm: keep the first pre-norm too, as nanochat and BLOOM")

    # Positions
    position_embedding: Literal["rope", "learned", "relative", "alibi", "sinusoidal", "sinusoidal_fairseq"] = knob(
        "rope",
        "rotary (Su et al. 2021), learned (GPT-2, BERT), relative bias (T5), bias linear in the distance (Press et al. 2022), "
        "or sines (Vaswani et al. 2017; fairseq: from position 2, M2M-100)",
    )
    rope_theta: float = knob(10_000.0, "base of the rotary frequencies", gt=0)
    rotary_dim: int | None = knob(
        None, "first elements of each head that rotate (GPT-J, GPT-NeoX)", unset="head_dim: all of them", ge=2
    )
    rope_local_theta: float | None = knob(
        None, "base in local layers, without rope_scaling (Gemma 3)", unset="rope_theta, with rope_scaling", gt=0
    )
    rope_scaling: RopeScalingConfig | None = knob(None, "rotary position scaling", unset="off")
    rope_pattern: tuple[bool, ...] = knob(
        (True,),
        "whether a layer rotates queries and keys, repeated over the layers (SmolLM3: not the fourth)",
        min_length=1,
    )
    relative_buckets: int = knob(32, "relative: number of distance buckets", ge=2)
    relative_bias_per_layer: bool = knob(False, "relative: a bias table for each layer (UMT5), not one for all")
    relative_max_distance: int = knob(128, "relative: distance of the last bucket", ge=2)

    # Attention
    attention_bias: Literal["none", "qkv", "output", "all"] = knob(
        "none", "bias on queries, keys and values (Qwen2), on the output projection (GPT-Neo), or on all of them"
    )
    attention_scale: float | None = knob(None, "factor on attention scores", unset="derived: 1 / sqrt(head_dim)", gt=0)
    attention_softcap: float | None = knob(
        None, "c: attention scores become c tanh(score / c) (Gemma 2)", unset="off", gt=0
    )
    latent_attention: LatentAttentionConfig | None = knob(None, "keys and values from a latent vector", unset="off")
    state_space: StateSpaceConfig | None = knob(
        None,
        "state-space layers in place of attention and feed-forward, with num_heads and head_dim (Mamba-2)",
        unset="off",
    )
    gated_delta: GatedDeltaConfig | None = knob(None, "linear attention, in layers of type linear", unset="off")
    attention_gate: bool = knob(False, "multiply the output of each head by a sigmoid of the input (Qwen3-Next)")
    attention_sinks: bool = knob(
        False, "a learned score for each head in the denominator of the softmax (Xiao et al. 2023; gpt-oss)"
    )
    sliding_window: int | None = knob(
        None,
        "attention window of local layers in tokens, the token itself included; an encoder looks as far ahead",
        unset="no local layers",
        ge=1,
    )
    attention_pattern: tuple[LayerType, ...] = knob(
        ("global",),
        "layer types, repeated over the layers; local: sliding window attention; linear: gated_delta",
        min_length=1,
    )

    # Feed-forward
    feed_forward: Literal[
        "swiglu", "swiglu_clamped", "geglu", "geglu_tanh", "gelu", "gelu_tanh", "relu", "relu2", "silu", "xielu"
    ] = knob("swiglu", "activation, gated (Shazeer 2020) or not; _tanh: the GELU approximation of GPT-2, T5 and Gemma")
    swiglu_alpha: float = knob(1.702, "swiglu_clamped: factor inside the sigmoid (gpt-oss)", gt=0)
    swiglu_limit: float = knob(7.0, "swiglu_clamped: largest gate, and largest size of the other factor", gt=0)
    feed_forward_bias: bool = knob(False, "bias in the feed-forward")
    moe: MoEConfig | None = knob(None, "mixture of experts", unset="off")

    # Embedding and head
    tie_embeddings: bool = knob(False, "share the weights of token embedding and head")
    residual_scale: float = knob(1.0, "factor on the output of each sublayer, before the sum (Granite)", gt=0)
    embedding_size: int | None = knob(
        None, "encoder: width of embeddings that a linear layer widens (ELECTRA, ALBERT)", unset="hidden_size", ge=1
    )
    embedding_scale: float = knob(1.0, "factor on embeddings (Gemma: sqrt(hidden_size))", gt=0)
    logit_scale: float = knob(1.0, "factor on the last hidden state, before the head", gt=0)
    logit_softcap: float | None = knob(None, "c: logits become c tanh(logit / c) (Gemma 2)", unset="off", gt=0)
    head_bias: bool = knob(False, "bias of the logits (GPT-J, Phi); the head of a masked language model always has one")
    num_token_types: int = knob(0, "encoder: token types, also called segments (BERT: 2); 0: none", ge=0)
    masked_lm_head: bool = knob(True, "encoder: head for masked tokens; false: embeddings only")
    masked_head_activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = knob(
        "gelu", "encoder: activation of the dense layer in the head for masked tokens"
    )
    masked_head_bias: bool | None = knob(
        None, "encoder: bias of the dense layer in the head for masked tokens", unset="feed_forward_bias"
    )
    pooling: Literal["mean", "cls"] = knob("mean", "encoder: text embedding from the mean of tokens or the first token")
    decoder_start_token_id: int = knob(
        0, "encoder_decoder: first input token of the decoder (T5: the padding token)", ge=0
    )
    forced_bos_token_id: int | None = knob(
        None, "encoder_decoder: second input token of the decoder (mBART: the language; BART)", unset="none", ge=0
    )

    # Initialization
    init_std: float = knob(0.02, "standard deviation of initial weights", gt=0)
    depth_scaled_init: bool = knob(
        True, "divide the initial output projections of sublayers by sqrt(2 num_layers) (GPT-2)"
    )
    mup_base_width: int | None = knob(
        None, "hidden_size at which the hyperparameters were tuned; enables muP (Yang et al. 2022)", unset="off", ge=1
    )

    @property
    def gated(self) -> bool:
        """Whether the feed-forward is gated: three matrices, not two."""
        return self.feed_forward in GATED_ACTIVATIONS

    @property
    def rotary_width(self) -> int:
        """Elements of a head that RoPE rotates."""
        return self.latent_attention.rope_head_dim if self.latent_attention else self.rotary_dim or self.head_dim

    @property
    def has_state(self) -> bool:
        """Whether layers keep a state in place of keys: it cannot forget single tokens, and goes on into the next document."""
        return self.state_space is not None or self.gated_delta is not None

    @property
    def layer_types(self) -> tuple[LayerType, ...]:
        """The type of each of `num_layers` layers."""
        return self.layer_types_for(self.num_layers)

    def layer_types_for(self, num_layers: int) -> tuple[LayerType, ...]:
        """`attention_pattern` repeated over `num_layers` layers."""
        return (self.attention_pattern * math.ceil(num_layers / len(self.attention_pattern)))[:num_layers]

    def rotates(self, layer: int) -> bool:
        """Whether the queries and keys of a layer are rotated."""
        return self.position_embedding == "rope" and self.rope_pattern[layer % len(self.rope_pattern)]

    @property
    def decoder_prefix(self) -> tuple[int, ...]:
        """Tokens with which the target text of an encoder_decoder begins, before the first generated one."""
        forced = () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)
        return (self.decoder_start_token_id, *forced)

    @property
    def cached_context_length(self) -> int:
        """Maximum tokens with a key/value cache: dynamic and longrope would change the keys in it beyond the original length."""
        dynamic = self.rope_scaling is not None and self.rope_scaling.method in ("dynamic", "longrope")
        if self.position_embedding == "rope" and self.rope_scaling and dynamic:
            return min(self.rope_scaling.original_context_length or self.context_length, self.context_length)
        return self.context_length

    @property
    def width_multiplier(self) -> float:
        """hidden_size / mup_base_width; 1 without muP."""
        return self.hidden_size / (self.mup_base_width or self.hidden_size)

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        """Derive what is None. Values of wrong types are left to the checks of their fields."""
        if not isinstance(values, dict) or not all(
            isinstance(values.get(k), int) for k in ("hidden_size", "num_heads")
        ):
            return values
        hidden_size, num_heads = values["hidden_size"], max(values["num_heads"], 1)
        if values.get("head_dim") is None and hidden_size % num_heads:
            raise ValueError(f"hidden_size = {hidden_size} is not divisible by num_heads = {num_heads}")
        gated = values.get("feed_forward", "swiglu") in GATED_ACTIVATIONS
        derived = {
            "num_kv_heads": num_heads,
            "head_dim": hidden_size // num_heads,
            "intermediate_size": -(-hidden_size * 8 // 3 // 64) * 64 if gated else 4 * hidden_size,
        }
        if values.get("architecture") == "encoder_decoder":
            derived["num_encoder_layers"] = values.get("num_layers")
        values = derived | {name: value for name, value in values.items() if value is not None}
        if isinstance(moe := values.get("moe"), dict | MoEConfig):
            moe = {name: value for name, value in dict(moe).items() if value is not None}
            values["moe"] = {"intermediate_size": values["intermediate_size"]} | moe
        return values

    @model_validator(mode="after")
    def _check_consistency(self) -> "ModelConfig":
        check_sizes(self)
        check_parts(self)
        check_unused(self)
        return self


def _optional(name: str) -> Any:
    """The knob `name` of ModelConfig as it is in a recipe: None where the plan derives it, or its default applies."""
    field = ModelConfig.model_fields[name]
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    default = json.dumps(field.default) if isinstance(field.default, bool | tuple) else str(field.default)
    unset = extra.get("unset") or ("derived by the plan" if field.is_required() else default)
    bounded = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return Optional[bounded], knob(None, field.description or "", unset=str(unset))  # noqa: UP045


PartialModelConfig: Any = create_model(
    "PartialModelConfig", __base__=BaseConfig, **{name: _optional(name) for name in ModelConfig.model_fields}
)
