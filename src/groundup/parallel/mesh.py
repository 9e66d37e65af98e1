"""Who works with whom: the devices as a grid whose axes are those of the layout."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from groundup.recipe.layout_config import LayoutConfig


@dataclass(frozen=True)
class Mesh:
    """The grids of one layout, all over the same ranks in the same order: neighbours share a tensor axis first.

    Attributes:
        weights: (pipeline, replicate, data, tensor), where data is shard x context: whoever sees other tokens.
        tokens: (pipeline, replicate, shard, context, tensor): data, told apart. None where it is one of the two.
        experts: (pipeline, replicate, expert_shard, expert, tensor): data, folded for the experts. None without them.
    """

    layout: LayoutConfig
    device: torch.device
    weight_mesh: DeviceMesh
    token_mesh: DeviceMesh | None
    expert_mesh: DeviceMesh | None

    def group(self, axis: str) -> dist.ProcessGroup:
        grid, name = self._mesh_of(axis)
        return grid.get_group(name)

    def rank(self, axis: str) -> int:
        return self.group(axis).rank() if self.size(axis) > 1 else 0

    def size(self, axis: str) -> int:
        return self.sizes[axis]

    @property
    def sizes(self) -> dict[str, int]:
        """Of every axis, and of what they make together."""
        layout = self.layout
        assert layout.shard is not None
        axes = ("replicate", "shard", "context", "tensor", "pipeline", "expert")
        data = layout.shard * layout.context
        return {axis: getattr(layout, axis) for axis in axes} | {
            "data": data,
            "expert_shard": data // layout.expert,
        }

    @property
    def data_world_size(self) -> int:
        """Groups of ranks that read different rows of a batch."""
        return self.size("replicate") * self.size("shard")

    @property
    def data_rank(self) -> int:
        """Which of them this rank belongs to."""
        return self.rank("replicate") * self.size("shard") + self.rank("shard")

    def _mesh_of(self, axis: str) -> tuple[DeviceMesh, str]:
        if axis in ("shard", "context"):
            return (self.weight_mesh, "data") if self.token_mesh is None else (self.token_mesh, axis)
        if axis in ("expert", "expert_shard"):
            assert self.expert_mesh is not None
            return self.expert_mesh, axis
        return self.weight_mesh, axis


def build_mesh(layout: LayoutConfig, device: torch.device) -> Mesh:
    """The grids over all ranks of the default process group; `layout` is complete (see plan/parallel_layout.py)."""
    assert layout.shard is not None
    data = layout.shard * layout.context

    def grid(**middle: int) -> DeviceMesh:
        sizes = {
            "pipeline": layout.pipeline,
            "replicate": layout.replicate,
            **middle,
            "tensor": layout.tensor,
        }
        return init_device_mesh(device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))

    weights, tokens, experts = grid(data=data), None, None
    if layout.shard > 1 and layout.context > 1:
        tokens = grid(shard=layout.shard, context=layout.context)
    if layout.expert > 1:
        experts = grid(expert_shard=data // layout.expert, expert=layout.expert)
    return Mesh(layout, device, weights, tokens, experts)
