"""Checkpoint state of the Megatron engine: full tensors with our names and shapes, readable by any engine."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.parallel.communicator import Communicator
from groundup.train.engines.engine_state import check_checkpoint, meta_copy
from groundup.train.engines.full_state import ADAM_MOMENTS, FullTensorState, read_full_tensors
from groundup.train.engines.megatron_weights import build_weight_rules


class OptimizerShard(NamedTuple):
    """This rank's optimizer tensors of one parameter.

    Attributes:
        master_weight: the float32 weight, or a range of it.
        adam_state: AdamW's tensors for it.
        flat_range: position of the range in the flattened parameter.
    """

    master_weight: Tensor
    adam_state: dict[str, Tensor]
    flat_range: slice


class MegatronState(FullTensorState):
    """The weights made from `model` and their AdamW tensors. Methods are collective."""

    def __init__(self, model: nn.Module, wrapped: nn.Module, optimizer: Any, communicator: Communicator):
        from megatron.core import parallel_state  # type: ignore[import-not-found]

        self._tensor = parallel_state.get_tensor_model_parallel_group()
        self._data = parallel_state.get_data_parallel_group()
        (self._optimizer,) = optimizer.chained_optimizers
        self._adam: torch.optim.Optimizer = self._optimizer.optimizer
        self._is_sharded = self._optimizer.config.use_distributed_optimizer
        self._full_model, self.communicator = meta_copy(model), communicator
        self._rules = build_weight_rules(model.config)  # type: ignore[arg-type]
        network: Any = wrapped
        while not hasattr(network, "decoder"):
            network = network.module
        self._weights = dict(network.named_parameters())
        self._shapes = {name: weight.shape for name, weight in self._full_model.named_parameters()}
        for group in self._adam.param_groups:
            for main in group["params"]:
                self._adam.state[main] = {key: torch.zeros_like(main) for key in ADAM_MOMENTS}
                self._adam.state[main]["step"] = torch.zeros(())
        self._assign({"": dict(model.named_parameters())}, self._rules)  # master weights from unrounded ones

    def load(self, folder: Path) -> dict[str, str]:
        """See Engine.load."""
        check_checkpoint(folder, self._shapes, self.communicator)
        for name, rule in self._rules.items():
            saved = read_full_tensors(folder, {source: self._shapes[source] for source in rule.sources})
            step = saved.pop("step")[rule.sources[0]]
            self._assign(saved, [name])
            if shard := self._optimizer_shard(self._weights[name]):
                shard.adam_state["step"].copy_(step)
        return {}

    def gather_full_model(self) -> nn.Module:
        """The full model on the CPU; filled on rank 0 only."""
        full_weights = {}
        for name, tensor in self._merged(lambda weight: self._local_part(weight, _tensor_selector(""))):
            if dist.get_rank() == 0:
                full_weights[name] = tensor.cpu().clone()
        self._full_model.load_state_dict(full_weights, strict=False, assign=True)
        return self._full_model.eval()

    def gradients(self) -> dict[str, Tensor]:
        """Full gradients by our names, between the backward pass and the step."""

        def gradient(weight: Any) -> Tensor:
            return self._local_part(weight, lambda shard: weight.main_grad.view(-1)[shard.flat_range])

        return {name: tensor.cpu() for name, tensor in self._merged(gradient)}

    def full_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for key in ("", *ADAM_MOMENTS):
            for name, tensor in self._merged(lambda weight, key=key: self._local_part(weight, _tensor_selector(key))):
                yield name + (key and f".{key}"), tensor
        step = next(iter(self._adam.state.values()))["step"]
        for rule in self._rules.values():
            for name in rule.sources:
                yield f"{name}.step", step

    def _merged(self, part_of: Callable[[Any], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """`part_of` every weight, gathered over the tensor axis and converted to our names and shapes."""
        for name, rule in self._rules.items():
            part = part_of(self._weights[name]).contiguous()
            parts = [torch.empty_like(part) for _ in range(self._tensor.size())]
            dist.all_gather(parts, part, group=self._tensor)
            yield from zip(rule.sources, rule.merge(parts), strict=True)

    def _local_part(self, weight: nn.Parameter, select: Callable[[OptimizerShard], Tensor]) -> Tensor:
        """The tensor parallel shard of `select(...)`, float32, gathered over the data axis if the optimizer is sharded."""
        part = torch.zeros(weight.shape, device=weight.device)
        if shard := self._optimizer_shard(weight):
            part.view(-1)[shard.flat_range] = select(shard).detach().reshape(-1).float()
        if self._is_sharded:
            dist.all_reduce(part, group=self._data)
        return part

    @torch.no_grad()
    def _assign(self, tensors: Mapping[str, Mapping[str, Tensor]], names: Any) -> None:
        """Set tensors from full ones, by key and our name."""
        rank, ranks = self._tensor.rank(), self._tensor.size()
        for name in names:
            weight, rule = self._weights[name], self._rules[name]
            shard = self._optimizer_shard(weight)
            for key, full in tensors.items():
                part = rule.split([full[source] for source in rule.sources], ranks)[rank]
                if shard:
                    _tensor_selector(key)(shard).view(-1).copy_(part.reshape(-1)[shard.flat_range])
                if not key:
                    weight.copy_(part)

    def _optimizer_shard(self, weight: Any) -> OptimizerShard | None:
        """None if the distributed optimizer keeps the parameter on another rank."""
        if not self._is_sharded:
            main = getattr(weight, "main_param", weight)
            return OptimizerShard(main, self._adam.state[main], slice(None))
        if weight not in self._optimizer.model_param_group_index_map:
            return None
        group, order = self._optimizer.model_param_group_index_map[weight]
        main = self._adam.param_groups[group]["params"][order]
        span = self._optimizer._get_model_param_range_map(weight)["param"]
        return OptimizerShard(main, self._adam.state[main], slice(span.start, span.end))


def _tensor_selector(key: str) -> Callable[[OptimizerShard], Tensor]:
    """Selects the weight, or one of AdamW's tensors."""
    return lambda shard: shard.adam_state[key] if key else shard.master_weight
