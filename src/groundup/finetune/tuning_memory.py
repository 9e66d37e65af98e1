"""Memory of tuning a model: all its weights, or adapters over weights that stay as they are stored.

What blocks keep for the backward pass is in plan/memory/saved_activations.py; a product with a frozen matrix keeps the same
input, for the adapter, and makes its cast or dequantized copy of the matrix anew in each pass (model/frozen_linear.py).
"""

from dataclasses import replace
from pathlib import Path

from groundup.interop.model_loading import is_quantized
from groundup.plan.memory.memory_estimate import (
    ALLOCATOR_SLACK,
    FROZEN_CROSS_ENTROPY_CHUNK,
    LOGIT_CHUNKS,
    PROCESS_BYTES,
    SINGLE_DEVICE,
    DeviceKind,
    MemoryEstimate,
    estimate_training_memory,
    forward_pass,
    layer_activations,
)
from groundup.plan.memory.saved_activations import ForwardPass, end_activations
from groundup.plan.shape.parameter_count import count_blocks, count_parameters
from groundup.plan.shape.weight_shapes import weight_shapes
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig
from groundup.recipe.tuning_config import TuningConfig

NF4_BYTES = 4.127 / 8
"""Of a weight: quantize/layers/nf4.py."""
ANSWER_LOGITS = 1 << 24
"""Logits of a chunk of losses on whole answers: finetune/response_log_probs.py."""
LOGIT_COPIES = 3
"""Of a chunk there, in float32, in the backward pass: logits, their softmax and their gradient."""


def tuning_memory(
    config: ModelConfig,
    tuning: TuningConfig,
    length: int,
    micro_batch: int,
    base: Path | None,
    layout: LayoutConfig = SINGLE_DEVICE,
    *,
    kind: DeviceKind,
    whole_answers: bool = False,
    teacher: Path | None = None,
) -> MemoryEstimate:
    """Training all weights: as pretraining. LoRA: gradients and moments of the adapters alone.

    Args:
        base: the model of [base]; None: one that the run trains.
        layout: the memory is that of each of its devices; packed weights are whole on each.
        kind: of the devices.
        whole_answers: the loss is one of log-probabilities of answers (DPO, GRPO, distillation).
        teacher: the model whose predictions are learned, which is in memory as its files are.
    """
    train = TrainConfig(precision=tuning.precision)
    step = forward_pass(config, length, micro_batch, layout, train, kind)
    if tuning.method == "full":
        memory = estimate_training_memory(config, length, micro_batch, layout, train=train, kind=kind)
    else:
        memory = _adapter_memory(
            config, tuning, step, layer_activations(config, step, length, layout, train), base, layout
        )
        slack = ALLOCATOR_SLACK * memory.total if kind == "cpu" else 0.0
        memory = replace(memory, slack=slack, process=PROCESS_BYTES[kind])
    if whole_answers or teacher is not None:
        chunk = min(step.tokens * config.vocab_size, ANSWER_LOGITS)
        logits = LOGIT_COPIES * 4 * chunk * (2 if teacher is not None else 1)
        memory = replace(memory, logits=logits + _head_bytes(config, step))
    if teacher is not None:
        memory = replace(memory, weights=memory.weights + _file_bytes(teacher))
    return memory


def _adapter_memory(
    config: ModelConfig,
    tuning: TuningConfig,
    step: ForwardPass,
    blocks: list[float],
    base: Path | None,
    layout: LayoutConfig,
) -> MemoryEstimate:
    """The moment of the loss, when all activations, a chunk of logits and the cast head are in memory; without the process."""
    rank, shards = tuning.lora_rank or 0, layout.data_ranks
    matrices = [
        (count, shape)
        for block, count in count_blocks(weight_shapes(config))
        for name, shape in block.items()
        if len(shape) == 2 and "router" not in name
    ]
    adapters = 4 * rank * sum(count * sum(shape) for count, shape in matrices)
    casts = adapters / 2 if step.products == 2 else 0
    narrow = (
        step.tokens * rank * step.products * sum(count for count, _ in matrices)
    )  # inputs of the adapters' second matrices
    is_packed = tuning.method == "qlora" or (base is not None and is_quantized(base))
    weights = base_bytes(config, base, is_packed=is_packed)
    gathered = 0.0
    if shards > 1 and not is_packed:  # two blocks are gathered at a time
        gathered, weights = 2 * weights / max(1, config.num_layers), weights / shards
    chunk = min(step.tokens, LOGIT_CHUNKS["cuda"] if step.fused else FROZEN_CROSS_ENTROPY_CHUNK)
    logits = chunk * config.vocab_size * (step.products + 4) + _head_bytes(config, step)
    return MemoryEstimate(
        weights=weights + adapters / shards, gradients=adapters / shards, optimizer=2 * adapters / shards,
        unsharded=gathered + casts, activations=sum(blocks) + narrow + end_activations(config, step),
        logits=logits, activations_by_layer=tuple(blocks),
    )  # fmt: skip


def _head_bytes(config: ModelConfig, step: ForwardPass) -> float:
    """The head in the precision of products, and the gradient of what it reads."""
    width = config.embedding_size or config.hidden_size
    return width * (config.vocab_size * (2 if step.products == 2 else 0) + step.tokens * step.stream)


def base_bytes(config: ModelConfig, base: Path | None, *, is_packed: bool) -> float:
    """Bytes of the weights of [base] in memory; `is_packed`: the matrices of blocks in NF4, or as the files have them."""
    counts = count_parameters(config)
    stored = _file_bytes(base) if base is not None and base.is_dir() else 4.0 * counts.total
    if not is_packed or (base is not None and is_quantized(base)):
        return stored
    return stored - (stored / counts.total - NF4_BYTES) * (counts.attention + counts.feed_forward)


def _file_bytes(folder: Path) -> float:
    return float(sum(file.stat().st_size for file in folder.glob("*.safetensors")))
