"""What DeepSpeed's ranks hold, as a checkpoint that any engine reads: named whole tensors, and no flat partitions.

DeepSpeed's own files are pickled, tied to the number of ranks, and name no weight's moments. So the state is put together
through its public fragments, one tensor at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.parallel.communicator import Communicator
from groundup.train.engines.engine_state import assign_tensor, check_checkpoint, meta_copy
from groundup.train.engines.full_state import ADAM_MOMENTS, read_full_tensors, save_full_tensors


class DeepSpeedState:
    """The weights of `model` and AdamW's tensors for them, by name. Methods are collective."""

    def __init__(self, model: nn.Module, deepspeed: Any, engine: Any, communicator: Communicator):
        self._utils, self._gathered_parameters = deepspeed.utils, deepspeed.zero.GatheredParameters
        self._model, self._engine, self._communicator = model, engine, communicator
        self._weights = dict(model.named_parameters())
        # ZeRO-3 leaves nothing of a parameter's shape on the parameter itself.
        self._shapes = {
            name: torch.Size(getattr(w, "ds_shape", w.shape)) for name, w in self._weights.items()
        }

    def set_weights(self, values: Mapping[str, Tensor]) -> None:
        """Let these, whole, be the weights."""
        for name, weight in self._weights.items():
            self._set(weight, "", values[name].to(self._engine.device))

    def save(self, folder: Path) -> Callable[[], None]:
        """See Engine.save."""
        return save_full_tensors(self._full_tensors(), folder, self._communicator)

    def load(self, folder: Path) -> None:
        """See Engine.load."""
        check_checkpoint(folder, self._shapes, self._communicator)
        step = torch.zeros(())
        for name, weight in self._weights.items():
            found = read_full_tensors(folder, {name: self._shapes[name]})
            step = found.pop("step")[name]
            for key, tensors in found.items():
                self._set(weight, key, tensors[name].to(self._engine.device))
        self.set_step(step)

    def gather_full_model(self) -> nn.Module:
        """The whole model, on the CPU; on ranks other than 0 it is empty."""
        whole = meta_copy(self._model)
        for name, weight in self._weights.items():
            value = self._utils.safe_get_full_fp32_param(weight)
            if dist.get_rank() == 0:
                assign_tensor(whole, name, value.detach().cpu().view(self._shapes[name]))
        return whole.eval()

    def gradients(self) -> dict[str, Tensor]:
        """Whole, by name: between the backward pass and the step."""
        found = {name: self._utils.safe_get_full_grad(weight) for name, weight in self._weights.items()}
        return {name: gradient.detach().float().cpu() for name, gradient in found.items()}

    def set_step(self, step: Tensor) -> None:
        """Let AdamW believe that so many steps were taken."""
        for state in self._states():
            state["step"].copy_(step)

    def _full_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the state, one after the other, whole."""
        step = self._states()[0]["step"].float().cpu()
        for name, weight in self._weights.items():
            yield name, self._utils.safe_get_full_fp32_param(weight).view(self._shapes[name])
            for key in ADAM_MOMENTS:
                moment = self._utils.safe_get_full_optimizer_state(weight, key)
                yield f"{name}.{key}", moment.view(self._shapes[name])
            yield f"{name}.step", step

    def _set(self, weight: nn.Parameter, key: str, value: Tensor) -> None:
        if key:
            self._utils.safe_set_full_optimizer_state(weight, value, key)
            return
        self._utils.safe_set_full_fp32_param(weight, value)
        cut = self._engine.zero_optimization_stage() == 3
        with torch.no_grad(), self._gathered_parameters([weight], modifier_rank=0, enabled=cut):
            if not cut or dist.get_rank() == 0:  # the copy that products are made with
                weight.copy_(value)

    def _states(self) -> list[dict[str, Any]]:
        return [state for state in self._engine.optimizer.optimizer.state.values() if "step" in state]
