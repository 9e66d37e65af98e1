"""Whether a model has changed since its weights were read, compared before each step."""

from typing import Any

from torch import Tensor, nn


class ModelState:
    """What the results of a model depend on, as far as it can be compared quickly: its modules, hooks and tensors."""

    def __init__(self, model: nn.Module):
        modules = list(model.modules())
        self.attributes = list(map(vars, modules))
        self.hooks = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self.tables: list[dict[str, Any]] = [
            table for module in modules for table in (module._parameters, module._buffers, module._modules)
        ]
        tensors = [each for each in (*model.parameters(), *model.buffers()) if not each.is_meta]
        self.tensors = tensors
        self.versioned = [each for each in tensors if not each.is_inference()]
        self.members = self.read_members()  # kept: another object could be given the address of one that is gone
        self.seen = self.read()

    def read_members(self) -> list[Any]:
        return [member for table in self.tables for member in table.values()]

    def read(self) -> tuple[list[int], ...]:
        """Members by their address, where tensors lie, how often they were written to, numbers of attributes and of hooks."""
        return (
            list(map(id, self.read_members())),
            list(map(Tensor.data_ptr, self.tensors)),
            [each._version for each in self.versioned],
            list(map(len, self.attributes)),
            list(map(len, self.hooks)),
        )

    def is_current(self) -> bool:
        """Whether nothing has changed. What is written to a tensor of `torch.inference_mode` is not seen."""
        return self.read() == self.seen
