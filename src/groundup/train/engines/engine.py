"""The seam between the loop, which says when, and the engine, which says where and how.

One device, the ranks of a mesh, DeepSpeed and Megatron each are an engine of a hundred lines or so. Whatever else
training needs (schedules, records, checkpoints, guards, probes) is written once, above this line.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from groundup.train.objectives import Batch


class Engine(Protocol):
    """Computes the steps of one training run, alone or as one rank of many.

    On many ranks the same loop runs on each of them. Every method is then collective: all ranks call it, in the same
    order, and all get the same value back. So the loop may decide by any value it was given, and by nothing else;
    what a clock or a signal says goes through `agree` first.

    A step is `accumulate`, then `update` or `discard`. Between steps the gradient is empty.

    Attributes:
        main: true on the one rank that writes records, finishes checkpoints and speaks to people.
        data_rank: which part of every batch this rank is fed, from 0. Ranks that share the work on the same sequences
            (tensor, pipeline, context parallel) have the same one.
        data_world_size: into how many such parts a batch falls.
        device: where it computes.
        module: this rank's part of the model, to be looked into: by hooks, and at its gradients between `accumulate`
            and `update`. Never called by the loop.
    """

    is_main: bool
    data_rank: int
    data_world_size: int
    device: torch.device
    module: nn.Module

    def forward_backward(self, batch: Batch) -> float:
        """Forward and backward over this rank's part of a batch, in as many pieces as memory asks for.

        Leaves the gradient of, and returns, the mean loss over all positions that the whole batch predicts: over all
        pieces and all ranks, each weighted by the positions it predicts. So neither the pieces nor the ranks change
        more than rounding. One call and not two, because a pipeline's schedule has backward passes between its
        forward passes. `batch` is on the CPU.
        """
        ...

    def optimizer_step(self, lr_multiplier: float) -> float:
        """Clip the gradient, move the weights at `share` of the peak learning rates, and drop the gradient.

        Returns the gradient's norm over all ranks, before clipping. Where that is not finite nothing has moved.
        """
        ...

    def zero_grad(self) -> None:
        """Drop the gradient and leave everything as it was before `accumulate`."""
        ...

    def eval_model(self) -> AbstractContextManager[nn.Module]:
        """A module to be called like the whole model, for as long as the block runs: in evaluation mode, in the
        precision of training, with averaged weights where averages are kept. All ranks call it together.
        """
        ...

    def save(self, folder: Path) -> Callable[[], None]:
        """Take hold of the state: weights, optimizer, averages, all that the next step depends on.

        Training goes on as soon as this returns. The function that it returns writes into `folder` what is left to
        write; it runs on another thread, once, and returns when the files of all ranks are there. It raises OSError.
        """
        ...

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote, on any number of ranks.

        Raises Damaged, on all ranks, when files are missing or broken, having changed nothing; UserError when they
        belong to a model of another shape.
        """
        ...

    def any_rank(self, flag: bool) -> bool:
        """True on all ranks when `wish` is true on any."""
        ...

    def finalize(self) -> nn.Module:
        """The whole model on the CPU in evaluation mode, averaged where averages are kept; ends the engine's life.

        Whole on the main rank; what the others get has no meaning.
        """
        ...


class CorruptCheckpoint(Exception):
    """A checkpoint that cannot be read; the one before it may be whole."""
