"""What the devices of a plan can do: vendor figures for accelerators, our own measurements for laptops."""

from dataclasses import dataclass

from groundup.artifacts.errors import UserError


@dataclass(frozen=True)
class DeviceSpec:
    """One kind of device.

    Attributes:
        peak: dense bfloat16 matrix operations per second.
        memory: bytes.
        utilization: share of `peak` that training reaches; published or measured, see the comment at each.
        link, network: bytes a second, one way, to the other devices of a machine and to other machines; None: unknown.
        kernels: share of `peak` that products and what is between them reach where nothing waits for a link.
    """

    peak_flops: float
    memory_bytes: float
    utilization: float
    link_bandwidth: float | None = None
    network_bandwidth: float | None = None
    kernel_efficiency: float = 0.5


GB = 1e9

DEVICES: dict[str, DeviceSpec] = {
    # Two cores of a server processor with AVX-512 bfloat16: 400 GFLOP/s of matrix products in a loop (measured, lab
    # book); a model of a few million parameters reaches two fifths of it.
    "cpu-2": DeviceSpec(peak_flops=400e9, memory_bytes=16 * GB, utilization=0.40),
    # A laptop of 8 such cores: the same, per core.
    "cpu-8": DeviceSpec(peak_flops=1.6e12, memory_bytes=16 * GB, utilization=0.40),
    # Peaks and memory: vendor data sheets. Utilization: what public trainers report for dense models of 1B and up; ours
    # on one H200 was 0.50 at 1.3B weights and 0.36 at 124M (benchmarks/results/2026-11-26-gpu-h200.md).
    "rtx-4090": DeviceSpec(peak_flops=165e12, memory_bytes=24 * GB, utilization=0.40),
    # Links: NVLink's 600 and 900 GB/s are both ways together; the network is 200 and 400 Gb/s for each device, as in
    # NVIDIA's DGX A100 and H100 (Meta's machines have the latter too: torchtitan, benchmarks). Kernels: calibrated on
    # one published run each, which book/thousand-devices.md names.
    "a100": DeviceSpec(
        312e12,
        80 * GB,
        utilization=0.45,
        link_bandwidth=300 * GB,
        network_bandwidth=25 * GB,
        kernel_efficiency=0.62,
    ),
    "h100": DeviceSpec(
        989e12,
        80 * GB,
        utilization=0.40,
        link_bandwidth=450 * GB,
        network_bandwidth=50 * GB,
        kernel_efficiency=0.40,
    ),
    "h200": DeviceSpec(
        989e12,
        141 * GB,
        utilization=0.40,
        link_bandwidth=450 * GB,
        network_bandwidth=50 * GB,
        kernel_efficiency=0.40,
    ),
}


def device_spec(name: str) -> DeviceSpec:
    """The figures for `budget.hardware`. Raises UserError for a name that is not in the table."""
    if name not in DEVICES:
        raise UserError(f"budget.hardware = {name!r}: not in the table", hint=f"one of {', '.join(DEVICES)}")
    return DEVICES[name]
