"""Number of parameters and training FLOPs of a model."""

from dataclasses import dataclass

from groundup.recipe import ModelConfig


@dataclass(frozen=True)
class ParameterCounts:
    """Number of weights by part; `active`: those used for one token."""

    embedding: int
    attention: int
    feed_forward: int
    norms: int
    head: int
    total: int
    active: int


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """Weights of a model without biases and position tables, which are under 0.1%.

    >>> count_parameters(ModelConfig(vocab_size=50_304, hidden_size=768, num_layers=12, num_heads=12)).total
    162220800
    """
    width, layers = config.hidden_size, config.num_layers
    encoder_layers = num_encoder_layers(config)
    cross_layers = layers if encoder_layers else 0
    attention = (layers + cross_layers + encoder_layers) * attention_parameters(config) + _linear_attention(config)
    feed_forward, active_feed_forward = (
        _feed_forward_parameters(config, layers, active=active)
        + _feed_forward_parameters(config, encoder_layers, active=active)
        for active in (False, True)
    )
    norms = norm_parameters(config, 2 * (layers + encoder_layers) + cross_layers + (2 if encoder_layers else 1))
    linear = config.layer_types.count("linear")
    norms += (layers - linear) * qk_norm_parameters(config)
    norms += linear * config.gated_delta.value_head_dim if config.gated_delta else 0
    norms -= norm_parameters(config, layers) if config.shared_norm else 0
    norms += layers * (latent.kv_rank + (latent.q_rank or 0)) if (latent := config.latent_attention) else 0
    if config.state_space is not None:  # one norm a layer, and one inside it
        norms += layers * (config.num_heads * config.head_dim - width)
    narrow = config.embedding_size or width
    embedding = config.vocab_size * narrow
    head = 0 if config.tie_embeddings else embedding
    embedding += narrow * width if config.embedding_size else 0
    if config.architecture == "encoder":
        head += narrow * (width + 1) if config.masked_lm_head else 0  # dense layer and norm
    total = embedding + attention + feed_forward + norms + head
    active = total - feed_forward + active_feed_forward
    return ParameterCounts(embedding, attention, feed_forward, norms, head, total, active)


def attention_parameters(config: ModelConfig) -> int:
    """Weights of attention, or of the state-space mixer, in one layer."""
    if (settings := config.state_space) is not None:
        inner, heads = config.num_heads * config.head_dim, config.num_heads
        convolved = inner + 2 * settings.num_groups * settings.state_size
        projections = config.hidden_size * (2 * inner + convolved + heads)
        return projections + convolved * settings.convolution_width + 3 * heads
    if (latent := config.latent_attention) is not None:
        width, heads = config.hidden_size, config.num_heads
        queries, expanded = (
            heads * config.head_dim,
            heads * (config.head_dim - latent.rope_head_dim + latent.value_head_dim),
        )
        query = width * latent.q_rank + latent.q_rank * queries if latent.q_rank else width * queries
        key_value = width * (latent.kv_rank + latent.rope_head_dim) + latent.kv_rank * expanded
        return query + key_value + heads * latent.value_head_dim * width
    gates = config.num_heads if config.attention_gate else 0
    return config.hidden_size * (2 * config.num_heads + 2 * config.num_kv_heads + gates) * config.head_dim


def _linear_attention(config: ModelConfig) -> int:
    """Weights of all layers of linear attention, less those of as many of attention."""
    if (delta := config.gated_delta) is None:
        return 0
    keys, values = delta.num_key_heads * delta.key_head_dim, delta.num_value_heads * delta.value_head_dim
    projections = config.hidden_size * (2 * keys + 3 * values + 2 * delta.num_value_heads)
    each = projections + (2 * keys + values) * delta.convolution_width + 2 * delta.num_value_heads
    return config.layer_types.count("linear") * (each - attention_parameters(config))


def norm_parameters(config: ModelConfig, count: int) -> int:
    """Weights of `count` norms of the residual stream."""
    return 0 if config.norm.startswith("unweighted") else count * config.hidden_size


def qk_norm_parameters(config: ModelConfig) -> int:
    """Weights of the norms of queries and keys in one layer."""
    if not config.qk_norm or "unweighted" in (config.qk_norm_type, config.norm.split("_")[0]):
        return 0
    return config.head_dim * (2 if config.qk_norm_type == "head" else config.num_heads + config.num_kv_heads)


def _feed_forward_parameters(config: ModelConfig, num_layers: int, *, active: bool) -> int:
    """Weights of the feed-forwards of a stack of layers; `active`: only those of the experts of one token."""
    if config.state_space is not None:
        return 0
    matrices = 3 if config.gated else 2
    dense = matrices * config.hidden_size * config.intermediate_size
    if (moe := config.moe) is None:
        return num_layers * dense
    experts = moe.num_shared_experts + (moe.experts_per_token if active else moe.num_experts)
    sparse = config.hidden_size * (moe.num_experts + matrices * experts * moe.intermediate_size)  # router, experts
    sparse += config.hidden_size if moe.shared_expert_gate else 0
    num_dense = sum(map(moe.is_dense, range(num_layers)))
    return num_dense * dense + (num_layers - num_dense) * sparse


SPANS, TEXT_PAIRS = (0.9, 0.2), (1.0, 1.2)
"""Input tokens of the encoder and of the decoder, per token of text with span corruption of 15% in spans of three, and per
token of the first text of a pair, whose second one in another language is longer (English to German and Russian)."""


def num_encoder_layers(config: ModelConfig) -> int:
    """Blocks of the encoder of an encoder-decoder, beside the `num_layers` of its decoder; else 0."""
    return config.num_encoder_layers or config.num_layers if config.architecture == "encoder_decoder" else 0


def training_flops_per_token(config: ModelConfig, sequence_length: int, shares: tuple[float, float] = SPANS) -> float:
    """Operations per training token: 6 per weight of a matrix product, plus 12 L T D for attention, halved if causal.

    After PaLM (Chowdhery et al. 2022, appendix B). The embedding is a look-up; the head, tied or not, is a product. In an
    encoder-decoder the self-attention of the decoder is short, and left out; `shares`: tokens of its parts, such as SPANS.
    """
    keys = 2 * config.state_space.state_size if config.state_space else sequence_length  # a state instead of all keys
    attention = 12 * config.num_heads * config.head_dim * keys
    head = config.vocab_size * config.hidden_size

    def stack(num_layers: int, attentions: int, scores: float) -> float:
        feed_forward = _feed_forward_parameters(config, num_layers, active=True)
        weights = num_layers * attentions * attention_parameters(config) + _linear_attention(config)
        return 6 * (weights + feed_forward) + num_layers * scores

    if config.architecture == "encoder_decoder":
        encoder = stack(num_encoder_layers(config), 1, attention)
        return shares[0] * encoder + shares[1] * (stack(config.num_layers, 2, 0) + 6 * head)
    return stack(config.num_layers, 1, attention / 2 if config.architecture == "decoder" else attention) + 6 * head
