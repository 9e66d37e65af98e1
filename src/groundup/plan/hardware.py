"""What the devices of a plan can do: vendor figures for accelerators, our own measurements for laptops."""

from dataclasses import dataclass

from groundup.artifacts.errors import UserError


@dataclass(frozen=True)
class Device:
    """One kind of device.

    Attributes:
        peak: dense bfloat16 matrix operations per second.
        memory: bytes.
        utilization: share of `peak` that training reaches; published or measured, see the comment at each.
    """

    peak: float
    memory: float
    utilization: float


GB = 1e9

DEVICES: dict[str, Device] = {
    # Two cores of a server processor with AVX-512 bfloat16: 400 GFLOP/s of matrix products in a loop (measured, lab
    # book); a model of a few million parameters reaches two fifths of it.
    "cpu-2": Device(peak=400e9, memory=16 * GB, utilization=0.40),
    # A laptop of 8 such cores: the same, per core.
    "cpu-8": Device(peak=1.6e12, memory=16 * GB, utilization=0.40),
    # Peaks and memory: vendor data sheets. Utilization: what public trainers report for dense models of 1B and up.
    "rtx-4090": Device(peak=165e12, memory=24 * GB, utilization=0.40),
    "a100": Device(peak=312e12, memory=80 * GB, utilization=0.45),
    "h100": Device(peak=989e12, memory=80 * GB, utilization=0.40),
    "h200": Device(peak=989e12, memory=141 * GB, utilization=0.40),
}


def device(name: str) -> Device:
    """The figures for `budget.hardware`. Raises UserError for a name that is not in the table."""
    if name not in DEVICES:
        raise UserError(f"budget.hardware = {name!r}: not in the table", hint=f"one of {', '.join(DEVICES)}")
    return DEVICES[name]
