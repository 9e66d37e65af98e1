"""Activation checkpointing: blocks forget what they computed, and compute it again for the backward pass.

Full keeps what enters each block (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"): a third more
arithmetic. Selective also keeps the results of matrix products and attention, which take most of the time, and computes
again what is between them (after Korthikanti et al. 2022, section 5). The numbers are the same, bit for bit.
"""

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from groundup.artifacts.machine import ActivationCheckpointing

aten = torch.ops.aten
SAVED_OPS = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten._scaled_mm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    }
)
"""Operations whose results selective recomputation keeps."""


def apply_activation_checkpointing(model: nn.Module, mode: ActivationCheckpointing) -> None:
    """Let the blocks of `model`, the members of its module lists, forget. They keep their names and weights."""
    if mode == "none":
        return
    for part in model.modules():
        for block in part if isinstance(part, nn.ModuleList) else ():
            block.__class__ = _checkpointed_class(type(block), mode)


@cache
def _checkpointed_class(block: type[nn.Module], kind: ActivationCheckpointing) -> type[nn.Module]:
    """A kind of block that forgets. One class for all such blocks: whoever compiles one has compiled them all."""
    contexts = {"context_fn": partial(create_selective_checkpoint_contexts, _policy)}
    options: dict[str, Any] = contexts if kind == "selective" else {}

    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Tensor:
        run = partial(block.forward, self)
        return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False, **options, **named)

    return type(f"Checkpointed{block.__name__}", (block,), {"forward": forward})


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in SAVED_OPS else CheckpointPolicy.PREFER_RECOMPUTE
