"""Device mesh: all ranks as a grid whose axes are those of the parallel layout."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from groundup.parallel.rendezvous import COLLECTIVE_TIMEOUT
from groundup.plan.layout.parallel_layout import complete_layout
from groundup.recipe.layout_config import LayoutConfig


@dataclass(frozen=True)
class Mesh:
    """The device meshes of one layout, over the same ranks in the same order; neighbours are on one tensor axis.

    Attributes:
        weight_mesh: (pipeline, replicate, data, tensor), where data is shard x context.
        token_mesh: (pipeline, replicate, shard, context, tensor); None where shard or context is 1.
        expert_mesh: (pipeline, replicate, expert_shard, expert, tensor); None without expert parallelism.
    """

    layout: LayoutConfig
    device: torch.device
    weight_mesh: DeviceMesh
    token_mesh: DeviceMesh | None
    expert_mesh: DeviceMesh | None

    def group(self, axis: str) -> dist.ProcessGroup:
        mesh, name = self._mesh_of(axis)
        return mesh.get_group(name)

    def rank(self, axis: str) -> int:
        return self.group(axis).rank() if self.size(axis) > 1 else 0

    def size(self, axis: str) -> int:
        return self.sizes[axis]

    @property
    def sizes(self) -> dict[str, int]:
        """Of every axis of the layout, and of `data` and `expert_shard`."""
        axes = ("replicate", "shard", "context", "tensor", "pipeline", "expert")
        sizes = {axis: getattr(self.layout, axis) for axis in axes}
        data = sizes["shard"] * sizes["context"]
        return sizes | {"data": data, "expert_shard": data // sizes["expert"]}

    @property
    def data_world_size(self) -> int:
        """Groups of ranks that read different sequences of a batch."""
        return self.size("replicate") * self.size("shard")

    @property
    def data_rank(self) -> int:
        """The group of this rank."""
        return self.rank("replicate") * self.size("shard") + self.rank("shard")

    def _mesh_of(self, axis: str) -> tuple[DeviceMesh, str]:
        if axis in ("shard", "context"):
            return (self.weight_mesh, "data") if self.token_mesh is None else (self.token_mesh, axis)
        if axis in ("expert", "expert_shard"):
            assert self.expert_mesh is not None
            return self.expert_mesh, axis
        return self.weight_mesh, axis


def build_mesh(layout: LayoutConfig, device: torch.device) -> Mesh:
    """The device meshes over all ranks of the default process group.

    Raises UserError when the axes of `layout` do not multiply to the number of ranks.

        mesh = build_mesh(LayoutConfig(tensor=2), torch.device("cuda"))
    """
    layout = complete_layout(layout, dist.get_world_size())
    assert layout.shard is not None
    data = layout.shard * layout.context

    def build(**middle: int) -> DeviceMesh:
        axes = {"pipeline": layout.pipeline, "replicate": layout.replicate, **middle, "tensor": layout.tensor}
        ranks = torch.arange(dist.get_world_size()).reshape(*axes.values())
        groups = [_new_group(ranks.movedim(axis, -1).flatten(0, -2)) for axis in range(ranks.ndim)]
        return DeviceMesh.from_group(groups, device.type, mesh=ranks, mesh_dim_names=tuple(axes))

    weights, tokens, experts = build(data=data), None, None
    if layout.shard > 1 and layout.context > 1:
        tokens = build(shard=layout.shard, context=layout.context)
    if layout.expert > 1:
        experts = build(expert_shard=data // layout.expert, expert=layout.expert)
    return Mesh(layout, device, weights, tokens, experts)


def _new_group(ranks: torch.Tensor) -> dist.ProcessGroup:
    """The group of this rank; one row of `ranks` a group. `init_device_mesh` makes groups that wait for 30 minutes."""
    if len(ranks) == 1:
        group = dist.group.WORLD
    else:
        group, _ = dist.new_subgroups_by_enumeration(ranks.tolist(), timeout=COLLECTIVE_TIMEOUT)
    assert isinstance(group, dist.ProcessGroup)
    return group
