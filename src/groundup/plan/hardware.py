"""Speed, memory and links of devices: data sheets for accelerators, measurements for CPUs."""

from dataclasses import dataclass

from groundup.artifacts.errors import UserError


@dataclass(frozen=True)
class DeviceSpec:
    """Figures of one kind of device.

    Attributes:
        peak_flops: dense bfloat16 matrix operations per second.
        memory_bytes: device memory.
        utilization: fraction of `peak_flops` that training reaches (MFU); published or measured.
        link_bandwidth, network_bandwidth: bytes per second, one way, within a machine and between machines.
        kernel_efficiency: fraction of `peak_flops` that kernels reach without communication.
        block_seconds, block_token_seconds: overhead of a training step for each block, and for each block and token.
    """

    peak_flops: float
    memory_bytes: float
    utilization: float
    link_bandwidth: float | None = None
    network_bandwidth: float | None = None
    kernel_efficiency: float = 0.5
    block_seconds: float = 0.0
    block_token_seconds: float = 0.0


GB = 1e9

DEVICES: dict[str, DeviceSpec] = {
    # Two cores of a server CPU with AMX (bfloat16): matrix products reach 400 GFLOP/s. Utilization and overhead fitted to
    # 24 models of 0.4 to 25 million parameters, within 25% of each (lab book).
    "cpu-2": DeviceSpec(400e9, 16 * GB, 0.83, block_seconds=0.0172, block_token_seconds=10.5e-6),
    # Eight such cores: scaled, not measured.
    "cpu-8": DeviceSpec(1.6e12, 16 * GB, 0.83, block_seconds=0.0172, block_token_seconds=10.5e-6 / 4),
    # Peaks and memory: vendor data sheets. Utilization: as public trainers report for dense models of 1B and more;
    # measured on one H200: 0.50 at 1.3B weights and 0.36 at 124M (benchmarks/results/2026-11-26-gpu-h200.md).
    "rtx-4090": DeviceSpec(peak_flops=165e12, memory_bytes=24 * GB, utilization=0.40),
    # Links: NVLink's 600 and 900 GB/s are the sum of both ways; network: 200 and 400 Gb/s per device, as in DGX A100 and
    # H100. kernel_efficiency: calibrated on one published run each (book/thousand-devices.md).
    "a100": DeviceSpec(312e12, 80 * GB, 0.45, 300 * GB, 25 * GB, kernel_efficiency=0.62),
    "h100": DeviceSpec(989e12, 80 * GB, 0.40, 450 * GB, 50 * GB, kernel_efficiency=0.40),
    "h200": DeviceSpec(989e12, 141 * GB, 0.40, 450 * GB, 50 * GB, kernel_efficiency=0.40),
}


def device_spec(name: str) -> DeviceSpec:
    """The figures of the device `name`. Raises UserError if it is unknown."""
    if name not in DEVICES:
        raise UserError(f"budget.hardware = {name!r}, expected one of {', '.join(DEVICES)}")
    return DEVICES[name]
