"""Seconds of a training step on one kind of device, from the work of its operations and the device's rates.

CPUs: rates fitted to measured steps. On them norms, softmax and activations are limited by memory, not by arithmetic, and
small operators by their calls: most of the time of models under a few million parameters. Accelerators: arithmetic at the
efficiency with which the reference model reaches the device's utilization, and bytes at its memory bandwidth.
"""

from dataclasses import dataclass, replace
from functools import cache

from groundup.plan.hardware import DeviceSpec
from groundup.plan.shape.parameter_count import SPANS, training_flops_per_token
from groundup.plan.time.step_work import StepWork, WorkRates, step_work
from groundup.recipe import ModelConfig

LORA_ARITHMETIC, LORA_OVERHEAD = 0.6, 1.17
"""Of training all weights: no gradients of frozen weights, but two more small products for each of seven matrices. Measured
with models of 5.9 and 135 million parameters on cpu-2, within 8% of both."""
CPU_MICRO_BATCH = 2_048
"""Tokens of a forward pass on CPUs, as in train/micro_batch.py."""
ATTENTION_EFFICIENCY = 0.7
"""Of fused attention, forward and backward, relative to products with weights (Dao 2023, FlashAttention-2, figures 4 to 6)."""
STREAM_BYTES, LOGIT_BYTES, OPTIMIZER_BYTES = 44.0, 24.0, 32.0
"""Bytes that a training step moves for each value of the stream and feed-forward, each logit, and each weight: reads and
writes of norms, activations and residuals in both passes; of logits in chunks; of gradient, weight, two moments and copy."""
MEMORY_EFFICIENCY = 0.8
"""Of the memory bandwidth that elementwise kernels reach."""
LAUNCH_SECONDS = 6e-4
"""Of the kernels of one block in both passes, where they are not hidden behind the work."""
REFERENCE_LENGTH = 4_096


@dataclass(frozen=True)
class TrainingSpeed:
    """Speed of `devices` of one kind; `relative`: of this machine, 1 = as in the table of devices."""

    device: DeviceSpec
    devices: int = 1
    relative: float = 1.0

    def step_seconds(
        self,
        config: ModelConfig,
        sequence_length: int,
        batch_tokens: float,
        shares: tuple[float, float] = SPANS,
        *,
        method: str = "full",
    ) -> float:
        """Seconds of a step on `batch_tokens` tokens, on devices that each take their part of them.

        Args:
            shares: of the tokens, in the parts of an encoder-decoder.
            method: full; lora and qlora train adapters alone.
        """
        tokens = batch_tokens / self.devices
        micro_batches = max(1.0, tokens / max(sequence_length, CPU_MICRO_BATCH)) if is_cpu(self.device) else 1.0
        work = step_work(config, sequence_length, tokens, shares, micro_batches)
        arithmetic = replace(work, stream_values=0.0, score_values=0.0, block_calls=0.0, blocks=0.0, weights=0.0)
        products = work_seconds(arithmetic, self.device)
        overhead = work_seconds(work, self.device) - products
        if method != "full":
            return (LORA_ARITHMETIC * products + LORA_OVERHEAD * overhead) / self.relative
        return (products + overhead) / self.relative

    def training_seconds(
        self,
        config: ModelConfig,
        sequence_length: int,
        tokens: float,
        batch_tokens: float,
        shares: tuple[float, float] = SPANS,
        *,
        method: str = "full",
    ) -> float:
        """Seconds of training on `tokens`, in steps of `batch_tokens`."""
        step = self.step_seconds(config, sequence_length, batch_tokens, shares, method=method)
        return tokens / batch_tokens * step


def is_cpu(device: DeviceSpec) -> bool:
    """Whether the rates of the device are fitted to measured steps."""
    return device.rates is not None


def work_seconds(work: StepWork, device: DeviceSpec, precision: str = "bfloat16") -> float:
    """Seconds of `work` on one device, whose calls hide behind the rest where it is an accelerator."""
    rates = device_rates(device, precision)
    if is_cpu(device):
        return work.seconds(rates)
    calls = work.block_calls * LAUNCH_SECONDS
    return max(work.seconds(rates), calls)


@cache
def device_rates(device: DeviceSpec, precision: str = "bfloat16") -> WorkRates:
    """Seconds for each unit of work on one device."""
    if device.rates is not None:
        return device.rates
    efficiency, peak = _product_efficiency(device), product_peak(device, precision)
    memory = device.memory_bandwidth * MEMORY_EFFICIENCY
    return WorkRates(
        product_flops=1 / (efficiency * peak),
        attention_flops=1 / (efficiency * ATTENTION_EFFICIENCY * min(peak, device.peak_flops)),
        stream_values=STREAM_BYTES / memory,
        logit_values=LOGIT_BYTES / memory,
        weights=OPTIMIZER_BYTES / memory,
    )


def product_peak(device: DeviceSpec, precision: str) -> float:
    """Operations per second of products in `precision`; float32 runs at half of bfloat16 (TF32)."""
    if precision == "float8" and device.peak_flops_8 is not None:
        return device.peak_flops_8
    return device.peak_flops / 2 if precision == "float32" else device.peak_flops


@cache
def _product_efficiency(device: DeviceSpec) -> float:
    """Fraction of the peak of products with which the reference model, Llama 7B, reaches the device's utilization.

    The step has a large batch, so that the optimizer's work is nothing. At most 0.9, where memory is slow for the arithmetic.
    """
    tokens = 2.0**22
    config = reference_model()
    work = replace(step_work(config, REFERENCE_LENGTH, tokens), weights=0.0)
    seconds = tokens * training_flops_per_token(config, REFERENCE_LENGTH) / (device.peak_flops * device.utilization)
    memory = device.memory_bandwidth * MEMORY_EFFICIENCY
    rest = (work.stream_values * STREAM_BYTES + work.logit_values * LOGIT_BYTES) / memory
    flops = work.product_flops + work.attention_flops / ATTENTION_EFFICIENCY
    needed = flops / device.peak_flops / (seconds - rest) if seconds > rest else 0.9
    return min(0.9, needed)


@cache
def reference_model() -> ModelConfig:
    """Llama 7B: the model whose utilization the table of devices has."""
    return ModelConfig(
        vocab_size=32_000, hidden_size=4096, num_layers=32, num_heads=32, intermediate_size=11_008, context_length=4096
    )


def without_logits(config: ModelConfig) -> ModelConfig:
    """`config` for the time of tasks that compute no logits: embeddings and labels."""
    return config.model_copy(update={"vocab_size": 1, "masked_lm_head": False})
