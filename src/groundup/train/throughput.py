"""How fast it goes: tokens, share of the device's arithmetic, memory."""

import resource
import sys
import time
from functools import cache

import torch

from groundup.plan.hardware import DEVICES

NON_REPRODUCIBLE_FIELDS = ("seconds", "tokens_per_second", "mfu", "memory")
"""What of a record is of the machine and the hour; all else is the same in every run of the recipe."""


class ThroughputMeter:
    """Measures each step of one process.

    Args:
        flops_per_token: operations of a training step for each token, recomputed activations not counted twice; None
            where they are not known.
        devices: devices that share the work.
    """

    def __init__(self, device: torch.device, flops_per_token: float | None = None, num_devices: int = 1):
        self.device, self.flops_per_token, self.num_devices = device, flops_per_token, num_devices
        self.peak = peak_flops(device) if flops_per_token else None
        self.began = self.last = time.perf_counter()
        self.tokens = 0

    def step(self, tokens: int) -> dict[str, float]:
        """Facts of the step that ends now: `seconds` since the last one, `tokens_per_second`, `mfu`, `memory` in bytes.

        `mfu` is the share of the peak that the model's own arithmetic took (PaLM, appendix B); memory is the most that
        was held so far.
        """
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self.tokens += tokens
        facts = {"seconds": round(seconds, 6), "tokens_per_second": round(tokens / seconds, 3)}
        if self.peak and self.flops_per_token:
            facts["mfu"] = round(tokens * self.flops_per_token / seconds / self.peak / self.num_devices, 6)
        return facts | {"memory": peak_memory_bytes(self.device)}

    def exclude_elapsed(self) -> None:
        """Leave what happened since the last step, such as a probe, out of the next one."""
        self.last = time.perf_counter()

    def summary(self) -> dict[str, float]:
        """Over everything since the beginning, probes and saves included."""
        seconds = self.last - self.began
        return {"tokens_per_second": self.tokens / seconds, "seconds": seconds} if self.tokens else {}


def peak_memory_bytes(device: torch.device) -> int:
    """The most bytes that this process has held: on the accelerator, or in main memory where it computes there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 operations per second: of the plan's table for a known accelerator, measured on a CPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device).lower().replace(" ", "-")
        return next((known.peak_flops for kind, known in DEVICES.items() if kind in name), None)
    return _measured_peak(torch.get_num_threads()) if device.type == "cpu" else None


@cache
def _measured_peak(threads: int, size: int = 1024, rounds: int = 12) -> float:
    """The best of some square matrix products; a quarter of a second. Threads are named because they decide it."""
    a, b = torch.ones(size, size, dtype=torch.bfloat16), torch.ones(size, size, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
