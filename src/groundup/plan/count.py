"""How many parameters a shape has, and how much arithmetic one token costs."""

from dataclasses import dataclass

from groundup.recipe import ModelConfig


@dataclass(frozen=True)
class Parameters:
    """Number of weights, by where they stand. `active` are those that one token meets (fewer than all with experts)."""

    embedding: int
    attention: int
    feed_forward: int
    norms: int
    head: int
    total: int
    active: int


def count(config: ModelConfig) -> Parameters:
    """Weights of a decoder; biases and position tables, under 0.1% at any size worth planning, are left out."""
    width, layers = config.hidden_size, config.num_layers
    query, key_value = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = layers * width * (2 * query + 2 * key_value)
    matrices = 3 if config.feed_forward in ("swiglu", "geglu") else 2
    expert = layers * matrices * width * config.intermediate_size
    norms = (2 * layers + 1) * width + (2 * layers * config.head_dim if config.qk_norm else 0)
    embedding = config.vocab_size * width
    head = 0 if config.tie_embeddings else embedding
    total = embedding + attention + expert + norms + head
    return Parameters(embedding, attention, expert, norms, head, total, total)


def training_flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Operations for one training token: 6 for each weight of a matrix product, 12 L T W for attention, halved.

    PaLM (Chowdhery et al. 2022, appendix B); half of it, because a causal mask needs no product above the diagonal.
    The embedding is a look-up; the head, tied or not, is a product.
    """
    parameters = count(config)
    weights = parameters.attention + parameters.feed_forward + config.vocab_size * config.hidden_size
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * sequence_length / 2
    return 6 * weights + attention
