"""Activation checkpointing: blocks drop their activations and recompute them in the backward pass.

Full keeps only the input of each block (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"): a third more
arithmetic. Selective also keeps the results of matrix products and attention, which take most of the time (after
Korthikanti et al. 2022, section 5). Results are the same, bit for bit.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from groundup.artifacts.machine import ActivationCheckpointing
from groundup.parallel.module_surgery import specialize

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
"""Operations whose results selective checkpointing keeps."""


def apply_activation_checkpointing(model: nn.Module, mode: ActivationCheckpointing) -> None:
    """Checkpoint the blocks of `model`: the members of its module lists. Raises ValueError for an unknown mode."""
    mixins = {"none": None, "selective": _SelectiveCheckpointing, "full": _FullCheckpointing}
    if mode not in mixins:
        raise ValueError(f"activation checkpointing {mode!r}: expected {', '.join(mixins)}")
    if (mixin := mixins[mode]) is None:
        return
    for part in model.modules():
        for block in part if isinstance(part, nn.ModuleList) else ():
            specialize(block, mixin)


class _FullCheckpointing(nn.Module):
    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        return checkpoint(super().forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)


class _SelectiveCheckpointing(nn.Module):
    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        return checkpoint(
            super().forward,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=partial(create_selective_checkpoint_contexts, _policy),
            **named,
        )


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in SAVED_OPS else CheckpointPolicy.PREFER_RECOMPUTE
