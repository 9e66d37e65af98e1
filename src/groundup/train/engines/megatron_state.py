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
from groundup.train.engines.megatron_weights import (
    build_weight_rules,
    read_source,
    split_source,
    stack_experts,
    stage_parameters,
)


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
        self._expert_data = parallel_state.get_expert_data_parallel_group()
        self._optimizers: list[Any] = optimizer.chained_optimizers  # experts have one of their own
        self._is_sharded = optimizer.config.use_distributed_optimizer
        self._full_model, self.communicator = meta_copy(model), communicator
        self._config: Any = model.config
        self._rules = build_weight_rules(self._config)
        network: Any = wrapped
        while not hasattr(network, "decoder"):
            network = network.module
        self._weights = stage_parameters(network, parallel_state.get_expert_model_parallel_rank())
        self._owners = self._find_owners()
        self._shapes = {name: weight.shape for name, weight in self._full_model.named_parameters()}
        for adam in (each.optimizer for each in self._optimizers):
            for main in (main for group in adam.param_groups for main in group["params"]):
                adam.state[main] = {key: torch.zeros_like(main) for key in ADAM_MOMENTS}
                adam.state[main]["step"] = torch.zeros(())
        self._assign({"": dict(model.named_parameters())}, self._rules)  # master weights from unrounded ones

    def load(self, folder: Path) -> dict[str, str]:
        """See Engine.load."""
        check_checkpoint(folder, self._shapes, self.communicator)
        for name in self._weights:
            sources = [split_source(source)[0] for source in self._rules[name].sources]
            saved = read_full_tensors(folder, {source: self._shapes[source] for source in sources})
            step = saved.pop("step")[sources[0]]
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
        step = next(iter(self._optimizers[0].optimizer.state.values()))["step"]
        for name in self._shapes:
            yield f"{name}.step", step

    def _merged(self, part_of: Callable[[Any], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """`part_of` every weight, gathered over all ranks and converted to our names and shapes."""
        yield from stack_experts(self._merged_sources(part_of), self._config)

    def _merged_sources(self, part_of: Callable[[Any], Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, rule in self._rules.items():
            if name in self._weights:
                part = part_of(self._weights[name]).contiguous()
                parts = [torch.empty_like(part) for _ in range(self._tensor.size())]
                dist.all_gather(parts, part, group=self._tensor)
                merged = [tensor.contiguous() for tensor in rule.merge(parts)]
            else:
                device = next(iter(self._weights.values())).device
                merged = [torch.empty(self._source_shape(source), device=device) for source in rule.sources]
            if name in self._owners:
                for tensor in merged:
                    dist.broadcast(tensor, src=self._owners[name])
            yield from zip(rule.sources, merged, strict=True)

    def _source_shape(self, source: str) -> torch.Size:
        name, expert = split_source(source)
        return self._shapes[name] if expert is None else self._shapes[name][1:]

    def _find_owners(self) -> dict[str, int]:
        """The first rank with each parameter that other pipeline or expert ranks lack."""
        names = [set(names) for names in self.communicator.all_gather_objects(list(self._weights))]
        if difference := set().union(*names) ^ self._rules.keys():
            raise RuntimeError(f"Megatron's model has other parameters: {sorted(difference)}")
        owners = {name: [rank for rank, own in enumerate(names) if name in own] for name in self._rules}
        return {name: ranks[0] for name, ranks in owners.items() if len(ranks) < len(names)}

    def _local_part(self, weight: nn.Parameter, select: Callable[[OptimizerShard], Tensor]) -> Tensor:
        """The tensor parallel shard of `select(...)`, float32, gathered over the data axis if the optimizer is sharded."""
        part = torch.zeros(weight.shape, device=weight.device)
        if shard := self._optimizer_shard(weight):
            part.view(-1)[shard.flat_range] = select(shard).detach().reshape(-1).float()
        if self._is_sharded:
            # Megatron marks the parameters of distributed experts.
            dist.all_reduce(part, group=self._data if getattr(weight, "allreduce", True) else self._expert_data)
        return part

    @torch.no_grad()
    def _assign(self, tensors: Mapping[str, Mapping[str, Tensor]], names: Any) -> None:
        """Set tensors from full ones, by key and our name."""
        rank, ranks = self._tensor.rank(), self._tensor.size()
        for name in self._weights.keys() & names:
            weight, rule = self._weights[name], self._rules[name]
            shard = self._optimizer_shard(weight)
            for key, full in tensors.items():
                part = rule.split([read_source(full, source) for source in rule.sources], ranks)[rank]
                if shard:
                    _tensor_selector(key)(shard).view(-1).copy_(part.reshape(-1)[shard.flat_range])
                if not key:
                    weight.copy_(part)

    def _optimizer_shard(self, weight: Any) -> OptimizerShard | None:
        """None if the distributed optimizer keeps the parameter on another rank."""
        if not self._is_sharded:
            main = getattr(weight, "main_param", weight)
            (state,) = (each.optimizer.state[main] for each in self._optimizers if main in each.optimizer.state)
            return OptimizerShard(main, state, slice(None))
        for each in self._optimizers:
            if weight in each.model_param_group_index_map:
                group, order = each.model_param_group_index_map[weight]
                main = each.optimizer.param_groups[group]["params"][order]
                span = each._get_model_param_range_map(weight)["param"]
                return OptimizerShard(main, each.optimizer.state[main], slice(span.start, span.end))
        return None


def _tensor_selector(key: str) -> Callable[[OptimizerShard], Tensor]:
    """Selects the weight, or one of AdamW's tensors."""
    return lambda shard: shard.adam_state[key] if key else shard.master_weight
