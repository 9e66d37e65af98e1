"""Checkpoint state of the DeepSpeed engine: full tensors by name, readable by any engine.

DeepSpeed's own files are pickled, tied to the number of ranks and without parameter names. The state is therefore
gathered through its public functions, one tensor at a time.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.parallel.communicator import Communicator
from groundup.parallel.sharded_checkpoint import load_into
from groundup.train.engines.engine_state import check_checkpoint
from groundup.train.engines.full_state import ADAM_MOMENTS, FullTensorState, read_full_tensors


class DeepSpeedState(FullTensorState):
    """The weights of `model`, their AdamW tensors and its persistent buffers, by name. Methods are collective.

    Args:
        full_model: a copy of the model on the meta device, which `gather_full_model` fills.
    """

    def __init__(
        self, model: nn.Module, full_model: nn.Module, deepspeed: Any, engine: Any, communicator: Communicator
    ):
        self._utils, self._gathered_parameters = deepspeed.utils, deepspeed.zero.GatheredParameters
        self._full_model, self._engine, self.communicator = full_model, engine, communicator
        self._weights = dict(model.named_parameters())
        persistent = model.state_dict().keys()
        self._buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
        # ZeRO-3 leaves nothing of a parameter's shape on the parameter itself.
        self._shapes = {name: torch.Size(getattr(w, "ds_shape", w.shape)) for name, w in self._weights.items()}

    def set_weights(self, values: Mapping[str, Tensor]) -> None:
        """Set all weights from full tensors."""
        for name, weight in self._weights.items():
            self._set(weight, "", values[name].to(self._engine.device))

    def load(self, folder: Path) -> dict[str, str]:
        """See Engine.load."""
        buffers = {name: torch.empty_like(buffer, device="cpu") for name, buffer in self._buffers.items()}
        shapes = self._shapes | {name: buffer.shape for name, buffer in buffers.items()}
        check_checkpoint(folder, shapes, self.communicator)
        load_into(folder, buffers)
        for name, buffer in buffers.items():
            self._buffers[name].copy_(buffer)
        step = torch.zeros(())
        for name, weight in self._weights.items():
            saved = read_full_tensors(folder, {name: self._shapes[name]})
            step = saved.pop("step")[name]
            for key, tensors in saved.items():
                self._set(weight, key, tensors[name].to(self._engine.device))
        self.set_step(step)
        return {}

    def gather_full_model(self) -> nn.Module:
        """The full model on the CPU; filled on rank 0 only."""
        full_model = self._full_model
        for name, buffer in self._buffers.items():
            full_model.get_buffer(name).copy_(buffer)
        for name, weight in self._weights.items():
            value = self._utils.safe_get_full_fp32_param(weight)
            if dist.get_rank() == 0:
                # Not by load_state_dict: the shapes of ZeRO-3 parameters are those of empty tensors.
                module, _, leaf = name.rpartition(".")
                full_weight = nn.Parameter(value.detach().cpu().view(self._shapes[name]), weight.requires_grad)
                setattr(full_model.get_submodule(module), leaf, full_weight)
        return full_model.eval()

    def gradients(self) -> dict[str, Tensor]:
        """Full gradients by name, between the backward pass and the step."""
        gradients = {name: self._utils.safe_get_full_grad(weight) for name, weight in self._weights.items()}
        return {name: gradient.detach().float().cpu() for name, gradient in gradients.items()}

    def set_step(self, step: Tensor) -> None:
        """Set AdamW's step count."""
        for state in self._states():
            state["step"].copy_(step)

    def full_tensors(self) -> Iterator[tuple[str, Tensor]]:
        step = self._states()[0]["step"].float().cpu()
        for name, weight in self._weights.items():
            yield name, self._utils.safe_get_full_fp32_param(weight).view(self._shapes[name])
            for key in ADAM_MOMENTS:
                moment = self._utils.safe_get_full_optimizer_state(weight, key)
                yield f"{name}.{key}", moment.view(self._shapes[name])
            yield f"{name}.step", step
        yield from self._buffers.items()

    def _set(self, weight: nn.Parameter, key: str, value: Tensor) -> None:
        if key:
            self._utils.safe_set_full_optimizer_state(weight, value, key)
            return
        self._utils.safe_set_full_fp32_param(weight, value)
        is_sharded = self._engine.zero_optimization_stage() == 3
        with torch.no_grad(), self._gathered_parameters([weight], modifier_rank=0, enabled=is_sharded):
            if not is_sharded or dist.get_rank() == 0:
                weight.copy_(value)

    def _states(self) -> list[dict[str, Any]]:
        return [state for state in self._engine.optimizer.optimizer.state.values() if "step" in state]
