"""The engine interface: where and how a training step is computed. The loop (training_loop.py) decides when.

Schedules, metrics, checkpoint rotation, loss-spike detection and evaluation are written once, above this interface.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from groundup.train.objectives import Batch


class Engine(Protocol):
    """The steps of one training run, on a single device or as one rank of several.

    With several ranks the same loop runs on each of them. Every method is then collective: all ranks call it in the same
    order and get the same return value, so the loop may branch on return values only. Clocks and signals differ between
    ranks and go through `any_rank` first; files go through `broadcast`.

    A step is `forward_backward`, then `optimizer_step` or `zero_grad`. Between steps there is no gradient.

    Attributes:
        is_main: true on the one rank that writes metrics, completes checkpoints and prints.
        data_rank: the part of every global batch that this rank is given, from 0. Tensor, pipeline and context parallel
            ranks that process the same sequences have the same one.
        data_world_size: number of such parts.
        device: where it computes.
        module: this rank's part of the model, for hooks and for reading gradients between `forward_backward` and
            `optimizer_step`. The loop never calls it.
    """

    is_main: bool
    data_rank: int
    data_world_size: int
    device: torch.device
    module: nn.Module

    def forward_backward(self, batch: Batch) -> float:
        """Forward and backward pass over this rank's part of a batch (on the CPU), in micro-batches.

        Returns, and leaves the gradient of, the mean loss over all positions that the global batch predicts: each
        micro-batch and rank is weighted by its predicted positions, so their number changes results only by rounding.
        One call, because pipeline schedules interleave forward and backward passes.
        """
        ...

    def optimizer_step(self, lr_multiplier: float) -> float:
        """Clip the gradient, update the weights at `lr_multiplier` times the peak learning rates, clear the gradient.

        Returns the gradient norm over all ranks, before clipping. If it is not finite, no weight has changed.
        """
        ...

    def zero_grad(self) -> None:
        """Clear the gradient; everything is as before `forward_backward`."""
        ...

    def eval_model(self) -> AbstractContextManager[nn.Module]:
        """Context with a module that can be called like the whole model on all ranks: evaluation mode, training
        precision, averaged weights if weight averaging is on.
        """
        ...

    def save(self, folder: Path) -> Callable[[], None]:
        """Snapshot weights, optimizer state and weight average.

        Training may continue after the return. The returned function writes the snapshot into `folder`; it is called
        once, on another thread, returns when the files of all ranks are written, and raises OSError.
        """
        ...

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, on any number of ranks.

        Raises CorruptCheckpoint on all ranks, having changed nothing, if files are missing or have another content than
        was written; UserError if they belong to a model of another shape.
        """
        ...

    def any_rank(self, flag: bool) -> bool:
        """True on all ranks if `flag` is true on any."""
        ...

    def broadcast(self, value: Any) -> Any:
        """The main rank's value, on all ranks."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order."""
        ...

    def finalize(self) -> nn.Module:
        """The full model on the CPU in evaluation mode, averaged if weight averaging is on. The engine is unusable
        afterwards; on ranks other than the main one the return value is undefined.
        """
        ...


class CorruptCheckpoint(Exception):
    """A damaged checkpoint; the message is one line with the file."""
