"""Bytes of weights, gradients and optimizer state on one device, by optimizer, precision, engine and layout."""

from dataclasses import dataclass
from math import prod

from groundup.plan.layout.communication import rank_parameters, replicated_kv_weights
from groundup.plan.shape.parameter_count import count_blocks
from groundup.plan.shape.weight_shapes import WeightShapes
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig

FLOAT8_GROUP = 256
"""Values that share a float32 scale: train/low_memory_adamw.py."""


@dataclass(frozen=True)
class StateBytes:
    """Bytes on one device; `update`: what an optimizer allocates beside its state during a step."""

    weights: float
    gradients: float
    optimizer: float
    update: float


def state_bytes(config: ModelConfig, shapes: WeightShapes, train: TrainConfig, layout: LayoutConfig) -> StateBytes:
    """What the weights of one device take, with their gradients and optimizer state.

    AdamW keeps two float32 values of each weight, or with float8 two bytes and a share of two scales; Muon one float32 value of
    each matrix of a block (Jordan et al. 2024); a weight average one more of each.
    """
    matrices, others, largest = count_weights(config, shapes, layout)
    total = matrices + others
    stored = 2 if train.precision == "bfloat16-pure" else 4
    adamw = 8.0 if train.optimizer_state_dtype == "float32" else 2 + 8 / FLOAT8_GROUP
    optimizer = matrices * (4 if train.optimizer == "muon" else adamw) + others * adamw
    optimizer += 4 * total if train.weight_averaging != "none" else 0
    update = 0.0
    if train.optimizer == "muon":
        update = 10 * largest  # the update in float32 and three bfloat16 matrices of Newton and Schulz's iteration
    if adamw < 8 or stored < 4:
        largest = max(largest, *map(prod, shapes.ends.values()))
        update = 20 * largest  # moments, gradient, weight and their divisor in float32
    ranks = layout.data_ranks
    if layout.cpu_offload == "all":
        return StateBytes(0.0, 0.0, 0.0, update)
    if train.engine == "deepspeed":
        return _zero_bytes(total, optimizer, stage=layout.zero_stage or 3, train=train, layout=layout)
    if train.engine == "megatron":
        half = train.precision == "bfloat16"
        master = 4 * total if half else 0
        return StateBytes((2 if half else 4) * total, 4 * total, (optimizer + master) / ranks, update)
    return StateBytes(stored * total / ranks, stored * total / ranks, optimizer / ranks, update)


def _zero_bytes(total: float, optimizer: float, *, stage: int, train: TrainConfig, layout: LayoutConfig) -> StateBytes:
    """ZeRO (Rajbhandari et al. 2020, section 5): stage 1 shards optimizer state and master weights, 2 gradients, 3 weights."""
    half, ranks = train.precision == "bfloat16", layout.data_ranks
    optimizer = 0.0 if layout.cpu_offload == "optimizer" else (optimizer + (4 * total if half else 0)) / ranks
    weights = (2 if half else 4) * total / (ranks if stage == 3 else 1)
    return StateBytes(weights, 4 * total / (ranks if stage >= 2 else 1), optimizer, 0.0)


def count_weights(config: ModelConfig, shapes: WeightShapes, layout: LayoutConfig) -> tuple[float, float, int]:
    """(matrices of blocks, other weights) of one device before sharding over data ranks, and the largest matrix."""
    sizes = [
        (count * prod(shape), prod(shape), len(shape) > 1)
        for block, count in count_blocks(shapes)
        for shape in block.values()
    ]
    matrices = sum(size for size, _, is_matrix in sizes if is_matrix)
    vectors = sum(size for size, _, is_matrix in sizes if not is_matrix)
    largest = max((one for _, one, is_matrix in sizes if is_matrix), default=0)
    ends = sum(map(prod, shapes.ends.values()))
    if layout.tensor * layout.pipeline == 1:
        return matrices, vectors + ends, largest
    rank = rank_parameters(config, layout)
    blocks, ends_of_rank = rank.per_tensor_rank(layout, replicated_kv_weights(config, layout))
    share = matrices / max(1, matrices + vectors)
    return share * blocks, (1 - share) * blocks + ends_of_rank, largest
