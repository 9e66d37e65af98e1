"""Run Megatron-Core on a CPU, in tests: CUDA devices are replaced by the CPU, streams and events by null objects.

Megatron names the CUDA device inside its functions, so these are patched in torch. No arithmetic is changed.
"""

import functools
from contextlib import nullcontext
from typing import Any

import torch

FACTORIES = ("tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn", "zeros_like", "empty_like")


class NullStream:
    """A stream or an event without effect."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: self


def install() -> None:
    """Once in a process, before Megatron is imported."""
    if getattr(torch.cuda, "_is_a_cpu", False):
        return
    torch.cuda._is_a_cpu = True
    for name in FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    for name in ("current_stream", "default_stream", "Stream", "Event"):
        setattr(torch.cuda, name, NullStream)
    torch.cuda.current_device = lambda: "cpu"
    torch.cuda.stream = lambda *_: nullcontext()
    torch.cuda.synchronize = lambda *_: None
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.Tensor.to = _on_cpu(torch.Tensor.to)
    torch.nn.Module.cuda = lambda self, *_: self
    original_type = torch.Tensor.type
    torch.Tensor.type = lambda self, *given, **named: (
        original_type(self, *given, **named)
        if given or named
        else original_type(self).replace("torch.", "torch.cuda.", 1)
    )
    import megatron.core.tensor_parallel as tensor_parallel
    import megatron.core.tensor_parallel.random as megatron_random
    import megatron.core.transformer.moe.token_dispatcher as token_dispatcher

    # Sizes as numpy arrays, which it makes of CUDA tensors only.
    token_dispatcher.maybe_move_tensor_to_cpu = lambda tensor, as_numpy=False, record_stream=False: (
        tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor
    )
    tensor_parallel.model_parallel_cuda_manual_seed = lambda *_, **__: None
    megatron_random._get_cuda_rng_state = lambda *_, **__: torch.zeros(0)
    megatron_random._set_cuda_rng_state = lambda *_, **__: None
    megatron_random.CudaRNGStatesTracker.fork = lambda *_, **__: nullcontext()


def _on_cpu(function: Any) -> Any:
    def is_cuda(value: Any) -> bool:
        return str(value).startswith("cuda") if isinstance(value, str | torch.device) else False

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        given = tuple("cpu" if is_cuda(value) else value for value in given)
        named = {key: "cpu" if is_cuda(value) else value for key, value in named.items()}
        return function(*given, **named)

    return call
