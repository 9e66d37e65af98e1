"""What Megatron's ranks hold, in our names and shapes: a checkpoint that any other engine reads, and the model itself."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundup.parallel.communicator import Communicator
from groundup.train.engines.engine_state import assign_tensor, check_checkpoint, meta_copy
from groundup.train.engines.full_state import ADAM_MOMENTS, read_full_tensors, save_full_tensors
from groundup.train.engines.megatron_weights import build_weight_rules


class OptimizerShard(NamedTuple):
    """What this rank's optimizer moves of one parameter.

    Attributes:
        main: the float32 weight, or a stretch of it.
        adam: AdamW's tensors for it.
        place: where the stretch lies in the flat parameter.
    """

    master_weight: Tensor
    adam_state: dict[str, Tensor]
    flat_range: slice


class MegatronState:
    """The weights that were made of `model`, and AdamW's tensors for them. Methods are collective."""

    def __init__(self, model: nn.Module, wrapped: nn.Module, optimizer: Any, communicator: Communicator):
        from megatron.core import parallel_state  # type: ignore[import-not-found]

        self._tensor = parallel_state.get_tensor_model_parallel_group()
        self._data = parallel_state.get_data_parallel_group()
        (self._optimizer,) = optimizer.chained_optimizers  # experts would have one of their own
        self._adam: torch.optim.Optimizer = self._optimizer.optimizer
        self._is_sharded = self._optimizer.config.use_distributed_optimizer
        self._full_model, self._communicator = meta_copy(model), communicator
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
        self._assign({"": dict(model.named_parameters())}, self._rules)  # which bfloat16 weights have rounded

    def save(self, folder: Path) -> Callable[[], None]:
        """See Engine.save."""
        return save_full_tensors(self._tensors(), folder, self._communicator)

    def load(self, folder: Path) -> None:
        """See Engine.load."""
        check_checkpoint(folder, self._shapes, self._communicator)
        for name, rule in self._rules.items():
            found = read_full_tensors(folder, {own: self._shapes[own] for own in rule.sources})
            step = found.pop("step")[rule.sources[0]]
            self._assign(found, [name])
            if held := self._optimizer_shard(self._weights[name]):
                held.adam_state["step"].copy_(step)

    def gather_full_model(self) -> nn.Module:
        """The whole model, on the CPU; on ranks other than 0 it is empty."""
        for own, tensor in self._merged(lambda weight: self._local_part(weight, _tensor_selector(""))):
            if dist.get_rank() == 0:
                assign_tensor(self._full_model, own, tensor.cpu().clone())
        return self._full_model.eval()

    def gradients(self) -> dict[str, Tensor]:
        """Whole, by our names: between the backward pass and the step."""

        def gradient(weight: Any) -> Tensor:
            return self._local_part(weight, lambda held: weight.main_grad.view(-1)[held.flat_range])

        return {own: tensor.cpu() for own, tensor in self._merged(gradient)}

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the state, whole, by our names."""
        for key in ("", *ADAM_MOMENTS):
            for own, tensor in self._merged(
                lambda weight, key=key: self._local_part(weight, _tensor_selector(key))
            ):
                yield own + (key and f".{key}"), tensor
        step = next(iter(self._adam.state.values()))["step"]
        for rule in self._rules.values():
            for own in rule.sources:
                yield f"{own}.step", step

    def _merged(self, part_of: Callable[[Any], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Something of every weight, put together over the tensor axis, one of Megatron's parameters after the other."""
        for name, rule in self._rules.items():
            part = part_of(self._weights[name]).contiguous()
            parts = [torch.empty_like(part) for _ in range(self._tensor.size())]
            dist.all_gather(parts, part, group=self._tensor)
            yield from zip(rule.sources, rule.merge(parts), strict=True)

    def _local_part(self, weight: nn.Parameter, of: Callable[[OptimizerShard], Tensor]) -> Tensor:
        """What this rank of the tensor axis has of something that lies where its weights do, float32."""
        part = torch.zeros(weight.shape, device=weight.device)
        if held := self._optimizer_shard(weight):
            part.view(-1)[held.flat_range] = of(held).detach().reshape(-1).float()
        if self._is_sharded:
            dist.all_reduce(part, group=self._data)
        return part

    @torch.no_grad()
    def _assign(self, tensors: Mapping[str, Mapping[str, Tensor]], names: Any) -> None:
        """The opposite of `_part`, of our whole tensors by key and name."""
        rank, ranks = self._tensor.rank(), self._tensor.size()
        for name in names:
            weight, rule = self._weights[name], self._rules[name]
            held = self._optimizer_shard(weight)
            for key, whole in tensors.items():
                part = rule.split([whole[own] for own in rule.sources], ranks)[rank]
                if held:
                    _tensor_selector(key)(held).view(-1).copy_(part.reshape(-1)[held.flat_range])
                if not key:
                    weight.copy_(part)  # the copy that products are made with

    def _optimizer_shard(self, weight: Any) -> OptimizerShard | None:
        """None where the distributed optimizer has given the parameter to another rank."""
        if not self._is_sharded:
            main = getattr(weight, "main_param", weight)
            return OptimizerShard(main, self._adam.state[main], slice(None))
        if weight not in self._optimizer.model_param_group_index_map:
            return None
        group, order = self._optimizer.model_param_group_index_map[weight]
        main = self._adam.param_groups[group]["params"][order]
        place = self._optimizer._get_model_param_range_map(weight)["param"]
        return OptimizerShard(main, self._adam.state[main], slice(place.start, place.end))


def _tensor_selector(key: str) -> Callable[[OptimizerShard], Tensor]:
    """The weight, or one of AdamW's tensors for it."""
    return lambda held: held.adam_state[key] if key else held.master_weight
