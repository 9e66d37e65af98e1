"""Speed, memory, links and power of devices: the table devices.toml, and the device at hand.

Data sheets for accelerators, measurements for CPUs; each row of the table names its source. `utilization` (MFU) is that of
steps on one machine, chosen by hand: for A100 and H100 with the published steps of benchmarks/published_runs.toml in view, so
that their table (benchmarks/results/2026-11-29-plan-accuracy-published.md) is no held-out test; for H200 by one measurement
(benchmarks/results/2026-11-26-gpu-h200.md), for B200 by one published training, else assumed, or DEFAULT_UTILIZATION.
"""

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import processor_name, usable_cores
from groundup.plan.time.step_work import WorkRates

GB = 1e9

DEFAULT_UTILIZATION = 0.40
"""MFU of devices whose row has none: between those measured on consumer and on data-centre GPUs."""

PCIE_BANDWIDTH, ETHERNET_BANDWIDTH = 25 * GB, 1.25 * GB
"""Bytes per second, one way: PCIe 4 x16, through which devices without a link talk, and 10 Gb/s, where a row has no network."""

CPU_2_RATES = WorkRates(
    product_flops=1.47e-12, attention_flops=3.5e-12, stream_values=14.3e-9, score_values=1.47e-9, logit_values=3.0e-9,
    block_calls=4.3e-3, blocks=17.5e-3,
)  # fmt: skip
"""Of two cores of a Xeon with AMX: fitted to 21 measured models of 0.4 to 25 million parameters, within 23% of each, 7% on
average (tests/plan/test_training_speed.py). Calls do not become faster with more cores."""

THIS_MACHINE = "this-machine"
"""Name for the device at hand: looked up in the table, or a CPU with its cores. The plan then depends on the machine."""


@dataclass(frozen=True)
class DeviceSpec:
    """Figures of one kind of device.

    Attributes:
        peak_flops: dense bfloat16 matrix operations per second.
        memory_bytes: device memory.
        utilization: fraction of `peak_flops` that training reaches (MFU); published or measured.
        link_bandwidth, network_bandwidth: bytes per second, one way, within a machine and between machines.
        rates: of CPUs: seconds for each kind of work of a training step, fitted to measured steps.
        memory_bandwidth: bytes per second.
        peak_flops_8: the same as `peak_flops` with 8-bit floats; None: not supported.
        devices_per_machine: devices that share the link.
        watts: power of the device at work.
        kind: gpu, workstation, consumer, apple, cpu or tpu.
        label, source: product name, and where the figures are from.
    """

    peak_flops: float
    memory_bytes: float
    utilization: float = DEFAULT_UTILIZATION
    link_bandwidth: float = PCIE_BANDWIDTH
    network_bandwidth: float = ETHERNET_BANDWIDTH
    rates: WorkRates | None = None
    memory_bandwidth: float = 0.0
    peak_flops_8: float | None = None
    devices_per_machine: int = 1
    watts: float = 0.0
    kind: str = "gpu"
    label: str = ""
    source: str = ""


@cache
def _load_devices() -> dict[str, DeviceSpec]:
    tables = tomllib.loads(Path(__file__).with_name("devices.toml").read_text(encoding="utf-8"))
    return {name: _device(row, kind) for kind, rows in tables.items() for name, row in rows.items()}


def _device(row: dict[str, Any], kind: str) -> DeviceSpec:
    return DeviceSpec(
        peak_flops=row["tflops"] * 1e12,
        memory_bytes=row["memory"] * GB,
        utilization=row.get("mfu", DEFAULT_UTILIZATION),
        link_bandwidth=row.get("link", 0) * GB or PCIE_BANDWIDTH,
        network_bandwidth=row.get("network", 0) * GB or ETHERNET_BANDWIDTH,
        rates=CPU_2_RATES.faster(row["cpu_2"]) if "cpu_2" in row else None,
        memory_bandwidth=row["bandwidth"] * GB,
        peak_flops_8=row["tflops_8"] * 1e12 if "tflops_8" in row else None,
        devices_per_machine=row["machine"],
        watts=row["watts"],
        kind=row.get("kind", kind),
        label=row["label"],
        source=row["source"],
    )


DEVICES: dict[str, DeviceSpec] = _load_devices()


def device_spec(name: str) -> DeviceSpec:
    """The figures of the device `name`, or of this machine. Raises UserError if it is unknown."""
    if name == THIS_MACHINE:
        return this_device()[1]
    if name not in DEVICES:
        raise UserError(
            f"budget.hardware = {name!r}, expected one of {', '.join(DEVICES)}",
            hint=f"{THIS_MACHINE} is the device at hand; groundup explain budget.hardware",
        )
    return DEVICES[name]


@cache
def this_device() -> tuple[str, DeviceSpec]:
    """Name and figures of the device at hand: a GPU or Apple chip of the table, else this CPU.

    A CPU of the table, or the measured cores of cpu-2 scaled to the usable ones: `--calibrate` measures the rest.
    """
    gpu = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    if shutil.which(gpu[0]) and (name := match_device(_output(*gpu))):
        return name, DEVICES[name]
    if sys.platform == "darwin" and (name := match_device(_output("sysctl", "-n", "machdep.cpu.brand_string"))):
        return name, replace(DEVICES[name], memory_bytes=_system_memory() or DEVICES[name].memory_bytes)
    cores, base = usable_cores(), DEVICES["cpu-2"]
    speed = cores / 2
    spec = replace(
        base,
        peak_flops=base.peak_flops * speed,
        memory_bytes=_system_memory() or base.memory_bytes,
        rates=CPU_2_RATES.faster(speed),
        memory_bandwidth=base.memory_bandwidth * speed,
        watts=base.watts * speed,
        label=f"{processor_name()}, {cores} cores",
        source="cpu-2, scaled by cores",
    )
    return ("cpu-8" if cores >= 8 else "cpu-2"), spec


def match_device(product: str) -> str | None:
    """The row whose label has the most of the words of `product`, the name that a driver reports; None if none has its model.

    >>> match_device("NVIDIA GeForce RTX 4090, 24564 MiB"), match_device("NVIDIA A100-SXM4-40GB"), match_device("Voodoo 2")
    ('rtx-4090', 'a100-40gb', None)
    """
    words = set(product.lower().replace("-", " ").replace("gb", " gb").replace(",", " ").split())
    best, most = None, 0
    for name, spec in DEVICES.items():
        label = set(spec.label.lower().replace(",", " ").split())
        model = {word for word in name.replace("gb", " gb").replace("-", " ").split() if word not in ("gb", "pcie")}
        if model <= words and (score := len(model) * 10 + len(label & words)) > most:
            best, most = name, score
    return best


def _output(*command: str) -> str:
    """The first line that a system tool prints; empty if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0]


def _system_memory() -> float | None:
    """Bytes of memory of this machine; None where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return None


def describe_platform() -> str:
    """This machine in a few words: for calibrations and their dates."""
    return f"{processor_name()}, {usable_cores()} usable cores, {platform.system()}"
