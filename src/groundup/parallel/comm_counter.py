"""Count the bytes that a rank sends, at the collectives.

The bytes of a collective depend on its algorithm. Counted is the least that one for long messages needs, a ring's for
most (Chan et al. 2007, "Collective communication", table 1; nccl-tests, doc/PERFORMANCE.md). For n ranks:

    all-gather, reduce-scatter, all-to-all    (n - 1) / n of the full tensor
    all-reduce                                twice that
    send                                      the tensor
"""

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FULL_OUTPUT_OPS = {"_allgather_base_", "allgather_", "all_gather_into_tensor", "allgather_into_tensor_coalesced_"}
FULL_INPUT_OPS = {
    "_reduce_scatter_base_", "reduce_scatter_", "reduce_scatter_tensor", "reduce_scatter_tensor_coalesced_",
    "alltoall_base_", "alltoall_", "all_to_all_single",
}  # fmt: skip
ALL_REDUCE_OPS = {"allreduce_", "all_reduce", "all_reduce_", "allreduce_coalesced_"}
SEND_OPS = {"send"}
NO_SEND_OPS = {"recv_", "recv_any_source_", "barrier", "wait_tensor", "monitored_barrier_"}
BROADCAST_OPS = {"broadcast_", "broadcast"}


class CommCounter(TorchDispatchMode):
    """Counts this rank's communication while it is entered.

    Attributes:
        sent_bytes: (ranks of the group, name of the collective) -> bytes.
        calls: the same -> number of calls.

        with CommCounter() as counter:
            loss.backward()
        counter.sent_within(ranks)
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent_bytes: Counter[tuple[tuple[int, ...], str]] = Counter()
        self.calls: Counter[tuple[tuple[int, ...], str]] = Counter()

    def sent_within(self, ranks: tuple[int, ...]) -> int:
        """Bytes that this rank has sent in collectives of exactly these ranks."""
        return sum(sent for (group, _), sent in self.sent_bytes.items() if group == ranks)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.namespace in ("c10d", "_c10d_functional"):
            self._count(function._opname, args, kwargs or {}, result)
        return result

    def _count(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        if name in NO_SEND_OPS:
            return
        ranks = _ranks(args, kwargs)
        n = len(ranks)
        # c10d's own operations take the output first and the input second.
        first, second = _bytes(args[0]), _bytes(args[1]) if len(args) > 1 else 0
        functional = not name.endswith("_") and name not in SEND_OPS
        if name in FULL_OUTPUT_OPS:
            sent = (n - 1) / n * (_bytes(result) if functional else first)
        elif name == "alltoall_base_" and args[4]:  # unequal chunks: all but the rank's own
            local = args[4][ranks.index(dist.get_rank())]
            sent = second * (1 - local / max(1, sum(args[4])))
        elif name in FULL_INPUT_OPS:
            sent = (n - 1) / n * (first if functional else second)
        elif name in ALL_REDUCE_OPS:
            sent = 2 * (n - 1) / n * first
        elif name in SEND_OPS:
            sent = first
        elif name in BROADCAST_OPS:
            sent = (n - 1) / n * first
        else:
            raise NotImplementedError(f"bytes of {name}")
        self.sent_bytes[ranks, name] += round(sent)
        self.calls[ranks, name] += 1


def _ranks(args: Any, kwargs: Any) -> tuple[int, ...]:
    for value in tree_leaves((args, kwargs)):
        if isinstance(value, torch.ScriptObject):
            try:
                group = dist.ProcessGroup.unbox(value)
            except (RuntimeError, TypeError):  # another object, such as a reduction
                continue
            return tuple(dist.get_process_group_ranks(group))
        if isinstance(value, str):
            try:
                return tuple(dist.get_process_group_ranks(_resolve_process_group(value)))  # type: ignore[arg-type]
            except (RuntimeError, ValueError, LookupError):
                continue
    raise LookupError("a collective without a group")


def _bytes(value: Any) -> int:
    return sum(x.numel() * x.element_size() for x in tree_leaves(value) if isinstance(x, Tensor))
