"""Throughput of training: tokens per second, model FLOPs utilization (MFU), peak memory."""

import sys
import time
from functools import cache

import torch

from groundup.plan.hardware import DEVICES, match_device

NON_REPRODUCIBLE_FIELDS = ("seconds", "tokens_per_second", "mfu", "memory")
"""Fields of a record that depend on machine and time; all others are equal in every run of a recipe."""


class ThroughputMeter:
    """Measures each step of one process.

    Args:
        flops_per_token: FLOPs of a training step for each token, without recomputation; None if unknown.
        num_devices: devices that process the tokens.
    """

    def __init__(self, device: torch.device, flops_per_token: float | None = None, num_devices: int = 1):
        self.device, self.flops_per_token, self.num_devices = device, flops_per_token, num_devices
        self.peak = peak_flops(device) if flops_per_token else None
        self.began = self.last = time.perf_counter()
        self.tokens = 0

    def step(self, tokens: int) -> dict[str, float]:
        """Statistics of the step that ends now: `seconds`, `tokens_per_second`, `mfu`, and `memory`, the peak in bytes.

        `mfu`: FLOPs of the model divided by the device's peak (PaLM, appendix B).
        """
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self.tokens += tokens
        stats = {"seconds": round(seconds, 6), "tokens_per_second": round(tokens / seconds, 3)}
        if self.peak and self.flops_per_token:
            stats["mfu"] = round(tokens * self.flops_per_token / seconds / self.peak / self.num_devices, 6)
        return stats | {"memory": peak_memory_bytes(self.device)}

    def exclude_elapsed(self) -> None:
        """Exclude the time since the last step, for example of an evaluation, from the next one."""
        self.last = time.perf_counter()

    def summary(self) -> dict[str, float]:
        """Mean over the run, evaluations and checkpoints included."""
        seconds = self.last - self.began
        return {"tokens_per_second": self.tokens / seconds, "seconds": seconds} if self.tokens else {}


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: on the accelerator, or resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return peak_process_bytes() or 0


def peak_process_bytes() -> int | None:
    """Peak resident memory of this process; None on systems that do not count it (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_flops(device: torch.device) -> float | None:
    """Peak dense bfloat16 FLOP/s: from the hardware table for an accelerator, measured on a CPU."""
    if device.type == "cuda":
        name = match_device(torch.cuda.get_device_name(device))
        return None if name is None else DEVICES[name].peak_flops
    return _measured_peak(torch.get_num_threads()) if device.type == "cpu" else None


@cache
def _measured_peak(threads: int, size: int = 1024, rounds: int = 12) -> float:
    """The best of several square matrix products, about 0.25 s. `threads` is the cache key."""
    a, b = torch.ones(size, size, dtype=torch.bfloat16), torch.ones(size, size, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
