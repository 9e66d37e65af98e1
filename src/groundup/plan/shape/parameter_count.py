"""Number of parameters and training FLOPs of a model."""

from collections import Counter
from dataclasses import dataclass
from math import prod

from groundup.plan.shape.weight_shapes import Shape, Shapes, WeightShapes, weight_shapes
from groundup.recipe import ModelConfig
from groundup.recipe.base_config import cached


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


@cached
def count_parameters(config: ModelConfig) -> ParameterCounts:
    """Weights of the model of `config`: biases, position tables and experts included.

    >>> count_parameters(ModelConfig(vocab_size=50_304, hidden_size=768, num_layers=12, num_heads=12)).total
    162220800
    """
    shapes = weight_shapes(config)
    parts: Counter[str] = Counter(dict.fromkeys(("embedding", "attention", "feed_forward", "norms", "head"), 0))
    idle = 0  # weights of experts that a token does not use
    for name, shape in shapes.ends.items():
        parts[_part(name)] += prod(shape)
    for block, count in count_blocks(shapes):
        for name, shape in block.items():
            parts[_part(name)] += count * prod(shape)
            idle += count * (prod(shape) - _active(config, name, shape))
    total = sum(parts.values())
    return ParameterCounts(**parts, total=total, active=total - idle)


def count_blocks(shapes: WeightShapes, stack: str | None = None) -> list[tuple[Shapes, int]]:
    """Each kind of block, and how many of it there are, in all stacks or in one."""
    stacks = shapes.stacks.values() if stack is None else (shapes.stacks[stack],)
    blocks = {id(block): block for layers in stacks for block in layers}
    counts = Counter(id(block) for layers in stacks for block in layers)
    return [(block, counts[key]) for key, block in blocks.items()]


def _part(name: str) -> str:
    """The field of ParameterCounts of a weight."""
    parts = name.split(".")
    if any(part.endswith("norm") for part in parts):
        return "norms"
    if name.startswith(("head", "embedding")):
        return parts[0]
    if "feed_forward" in parts:
        return "feed_forward"
    return "embedding" if "embedding" in parts else "attention"


def _active(config: ModelConfig, name: str, shape: Shape) -> int:
    """Weights of a tensor that a token uses: of the routed experts, only those that it is sent to."""
    if config.moe is None or ".experts." not in name:
        return prod(shape)
    return prod(shape) // config.moe.num_experts * config.moe.experts_per_token


SPANS, TEXT_PAIRS = (0.9, 0.2), (1.0, 1.2)
"""Input tokens of the encoder and of the decoder, per token of text with span corruption of 15% in spans of three, and per
token of the first text of a pair, whose second one in another language is longer (English to German and Russian)."""


@cached
def training_flops_per_token(config: ModelConfig, sequence_length: int, shares: tuple[float, float] = SPANS) -> float:
    """Operations per training token: 6 per weight of a matrix product, plus 12 L T D for attention, halved if causal.

    After PaLM (Chowdhery et al. 2022, appendix B). The embedding is a look-up; the head, tied or not, is a product. In an
    encoder-decoder the self-attention of the decoder is short, and left out; `shares`: tokens of its parts, such as SPANS.
    """
    keys = 2 * config.state_space.state_size if config.state_space else sequence_length  # a state instead of all keys
    attention = 12 * config.num_heads * config.head_dim * keys
    head = config.vocab_size * config.hidden_size
    shapes = weight_shapes(config)

    def stack(name: str, scores: float) -> float:
        weights = sum(count * block_matrices(config, block) for block, count in count_blocks(shapes, name))
        return 6 * weights + len(shapes.stacks[name]) * scores

    if config.architecture == "encoder_decoder":
        encoder, decoder = stack("encoder.blocks", attention), stack("decoder.blocks", 0)
        return shares[0] * encoder + shares[1] * (decoder + 6 * head)
    return stack("blocks", attention / 2 if config.architecture == "decoder" else attention) + 6 * head


def block_matrices(config: ModelConfig, block: Shapes) -> int:
    """Weights of the matrices of a block that a token is multiplied with."""
    return sum(_active(config, name, shape) for name, shape in block.items() if _is_matrix(name, shape))


def _is_matrix(name: str, shape: Shape) -> bool:
    """Not a vector, nor the vectors of all experts in one tensor."""
    return len(shape) > 1 and not name.endswith("_bias")
