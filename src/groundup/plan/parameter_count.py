"""How many parameters a shape has, and how much arithmetic one token costs."""

from dataclasses import dataclass

from groundup.recipe import ModelConfig


@dataclass(frozen=True)
class ParameterCounts:
    """Number of weights, by where they stand. `active` are those that one token meets (fewer than all with experts)."""

    embedding: int
    attention: int
    feed_forward: int
    norms: int
    head: int
    total: int
    active: int


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """Weights of a model; biases and position tables, under 0.1% at any size worth planning, are left out."""
    width, layers = config.hidden_size, config.num_layers
    reading = config.num_encoder_layers if config.architecture == "encoder_decoder" else 0
    crossing = layers if reading else 0  # the attention to what was read
    attention = (layers + crossing + reading) * _attention_parameters(config)
    feed_forward = (layers + reading) * _feed_forward_parameters(config)
    norms = (2 * (layers + reading) + crossing + (2 if reading else 1)) * width
    norms += 2 * layers * config.head_dim if config.qk_norm else 0
    embedding = config.vocab_size * width
    head = 0 if config.tie_embeddings else embedding
    if config.architecture == "encoder":
        head += width * (width + 1) if config.masked_lm_head else 0  # a layer and a norm before the scores
    total = embedding + attention + feed_forward + norms + head
    return ParameterCounts(embedding, attention, feed_forward, norms, head, total, total)


def _attention_parameters(config: ModelConfig) -> int:
    """Weights of one layer's attention."""
    return 2 * config.hidden_size * (config.num_heads + config.num_kv_heads) * config.head_dim


def _feed_forward_parameters(config: ModelConfig) -> int:
    """Weights of one layer's feed-forward."""
    return (3 if config.gated else 2) * config.hidden_size * config.intermediate_size


ENCODER_TOKEN_FRACTION, DECODER_TOKEN_FRACTION = 0.9, 0.2
"""Of the tokens of a text, what an encoder reads and a decoder writes when 15% are cut out in spans of three."""


def training_flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Operations for one training token: 6 for each weight of a matrix product, 12 L T W for attention, halved.

    PaLM (Chowdhery et al. 2022, appendix B); half of it, because a causal mask needs no product above the diagonal.
    The embedding is a look-up; the head, tied or not, is a product. An encoder sees above the diagonal too. An
    encoder-decoder reads and writes a part of the text's tokens each; its writer's attention is short, and left out.
    """
    attention = 12 * config.num_heads * config.head_dim * sequence_length
    head = config.vocab_size * config.hidden_size
    layer = _attention_parameters(config) + _feed_forward_parameters(config)
    if config.architecture == "decoder":
        return config.num_layers * (6 * layer + attention / 2) + 6 * head
    if config.architecture == "encoder":
        return config.num_layers * (6 * layer + attention) + 6 * head
    reads = config.num_encoder_layers * (6 * layer + attention)
    writes = config.num_layers * 6 * (layer + _attention_parameters(config)) + 6 * head
    return ENCODER_TOKEN_FRACTION * reads + DECODER_TOKEN_FRACTION * writes
