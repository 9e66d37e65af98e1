"""Several adapters on one base in one forward pass: each row of a batch with its own (Chen et al. 2023, "Punica").

The base's products are computed for all rows together, the low-rank updates for the rows of each adapter. Other modules that
an adapter changes, such as the token embedding, run once for each adapter's rows.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.interop.adapters.lora_layer import LoRALinear
from groundup.model.embedding import Embedding
from groundup.model.frozen_linear import PackedLinear, frozen_linear
from groundup.model.head import Head
from groundup.model.norm import RMSNorm

ROW_MODULES = (nn.Linear, PackedLinear, LoRALinear, Embedding, Head, RMSNorm, nn.LayerNorm)
"""Modules whose output of a row depends on that row alone, with rows in the first dimension."""

RowGroups = list[tuple[str | None, Tensor]]
"""The adapter of each group of rows, None: the base, and the numbers of the rows."""


class AdapterModels:
    """A base model and the same with adapters, as `with_adapter` makes them.

    >>> models = AdapterModels(model, {"legal": with_adapter(model, Path("adapters/legal"))})
    >>> for rows, network in models.groups(["legal", None, "legal"]):
    ...     logits[rows] = network(tokens[rows]).logits
    """

    def __init__(self, base: nn.Module, adapters: Mapping[str, nn.Module]):
        self._models: dict[str | None, nn.Module] = {None: base, **adapters}
        self._row_groups: RowGroups = []  # of the next forward pass of `_mixed`
        changes = {name: changed_modules(base, adapted) for name, adapted in adapters.items()}
        separable = {name: changed for name, changed in changes.items() if changed is not None}
        self._mixes = {None, *separable}
        self._mixed = self._combine(base, separable)

    def __getitem__(self, name: str | None) -> nn.Module:
        return self._models[name]

    def __contains__(self, name: str | None) -> bool:
        return name in self._models

    def groups(self, names: Sequence[str | None]) -> Iterator[tuple[list[int], nn.Module]]:
        """Rows that one forward pass takes together, each row one token, and the model for it, until the next group is asked for.

        An adapter that changes what rows share, such as the experts of a mixture, has a pass of its own.
        """
        alone = dict.fromkeys(name for name in names if name not in self._mixes)
        together = dict.fromkeys(name for name in names if name in self._mixes)
        for name in alone:
            yield [row for row, each in enumerate(names) if each == name], self._models[name]
        if len(together) == 1:
            (name,) = together
            yield [row for row, each in enumerate(names) if each == name], self._models[name]
        elif together:
            rows = [row for row, each in enumerate(names) if each in together]
            members = {name: [i for i, row in enumerate(rows) if names[row] == name] for name in together}
            self._row_groups[:] = [(name, torch.tensor(members[name])) for name in together]
            yield rows, self._mixed

    def _combine(self, base: nn.Module, separable: Mapping[str, Mapping[str, nn.Module]]) -> nn.Module:
        """A model with the tensors of `base` whose changed modules look at `_row_groups`."""
        shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
        mixed = copy.deepcopy(base, shared)
        for path in dict.fromkeys(path for changed in separable.values() for path in changed):
            modules = {name: changed[path] for name, changed in separable.items() if path in changed}
            plain = mixed.get_submodule(path)
            low_rank = all(isinstance(each, LoRALinear) and each.magnitude is None for each in modules.values())
            kind = RowLoRALinear if low_rank else RowModule
            mixed.set_submodule(path, kind(plain, modules, self._row_groups))
        return mixed.eval()


class RowModule(nn.Module):
    """A module for the rows of the base, and others in its place for the rows of adapters."""

    def __init__(self, base: nn.Module, modules: Mapping[str, nn.Module], row_groups: RowGroups):
        super().__init__()
        self.base = base
        self._modules_of: dict[str | None, nn.Module] = {**modules}  # in a dict: no submodules
        self._row_groups = row_groups

    def forward(self, *inputs: Any) -> Tensor:
        size = len(inputs[0])
        parts, order = [], []
        for name, rows in self._row_groups:
            index = rows.to(inputs[0].device)
            own = [each[index] if isinstance(each, Tensor) and len(each) == size else each for each in inputs]
            parts.append(self._modules_of.get(name, self.base)(*own))
            order.append(index)
        return torch.cat(parts)[torch.cat(order).argsort()]


class RowLoRALinear(RowModule):
    """A linear layer for all rows, with the low-rank updates of the rows of adapters."""

    def forward(self, x: Float[Tensor, "B ... in"]) -> Float[Tensor, "B ... out"]:  # type: ignore[override]
        output = frozen_linear(self.base, x) if type(self.base) is nn.Linear else self.base(x)
        for name, rows in self._row_groups:
            layer = self._modules_of.get(name)
            if isinstance(layer, LoRALinear):
                index = rows.to(x.device)
                output[index] += layer.low_rank(x[index].to(layer.lora_a.dtype)).to(output.dtype)
        return output


def changed_modules(base: nn.Module, adapted: nn.Module) -> dict[str, nn.Module] | None:
    """The modules of `adapted` that are not those of `base`, by name; None: there is one whose rows depend on one another."""
    found: dict[str, nn.Module] = {}

    def compare(name: str, first: nn.Module, second: nn.Module) -> bool:
        if type(first) is not type(second) or not _same_tensors(first, second):
            found[name] = second
            return isinstance(second, ROW_MODULES)
        children = zip(first.named_children(), second.named_children(), strict=True)
        below = [compare(f"{name}.{key}" if name else key, one, other) for (key, one), (_, other) in children]
        return all(below)

    separable = compare("", base, adapted)
    return found if separable else None


def _same_tensors(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules hold the same memory; of an embedding and a head, with their tables."""
    pairs = [(first, second)]
    if isinstance(first, Head) and isinstance(second, Head):
        pairs.append((first.table, second.table))
    whole = isinstance(first, Embedding)
    return all(_memory(one, whole) == _memory(other, whole) for one, other in pairs)


def _memory(module: nn.Module, whole: bool) -> list[tuple[int, torch.Size]]:
    """Addresses and shapes of a module's tensors; whole: also those of its children."""
    tensors = (*module.parameters(whole), *module.buffers(whole))
    return [(tensor.data_ptr(), tensor.shape) for tensor in tensors]
