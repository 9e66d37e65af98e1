"""Seconds of each stage of a run on accelerators; on CPUs see stage_time.py, whose rates were measured."""

from groundup.plan.derive import Plan, resolved_model_config
from groundup.plan.hardware import device_spec
from groundup.plan.shape.parameter_count import training_flops_per_token
from groundup.plan.time.run_time import DISK_BANDWIDTH
from groundup.plan.time.stage_time import BYTES_PER_TOKEN, DATA_SECONDS_PER_MEGABYTE, TOKENIZER_SECONDS_PER_MEGABYTE

CORES_PER_DEVICE = 16
"""Processor cores beside each accelerator (assumed; clouds give 12 to 32)."""
MEASURED_CORES = 2
"""Of the machine on which the rates of stage_time.py were measured."""
START_SECONDS = 60.0
"""Of a stage that opens the model: imports, weights, compilation (assumed)."""
FORWARD_FRACTION = 1 / 3
"""Operations of a forward pass, of those of a training step."""
QUANTIZE_SECONDS_PER_PARAMETER = 1.5e-7
"""GPTQ of 7 billion weights in a quarter of an hour on one data-centre GPU (assumed from public reports)."""
EPOCHS_OF_CONVERSATIONS = 3.0


def accelerator_stage_seconds(plan: Plan, text_bytes: float, conversation_bytes: float | None) -> dict[str, float]:
    """Seconds of each table of the recipe, pretraining included; without those whose data are not known."""
    recipe, config = plan.recipe, resolved_model_config(plan.recipe)
    assert plan.parameters is not None
    device = device_spec(recipe.budget.hardware)
    speed = device.peak_flops * device.utilization
    flops = training_flops_per_token(config, config.context_length)
    here = min(recipe.budget.devices, device.devices_per_machine)  # text is read on one machine
    cores = CORES_PER_DEVICE * here / MEASURED_CORES
    megabytes, weights = text_bytes / 1e6, 4 * plan.parameters.total
    reading = START_SECONDS + weights / DISK_BANDWIDTH
    seconds: dict[str, float] = {}
    if recipe.data:
        seconds["data"] = START_SECONDS + megabytes * DATA_SECONDS_PER_MEGABYTE / cores
    if recipe.tokenizer:
        seconds["tokenizer"] = START_SECONDS + megabytes * TOKENIZER_SECONDS_PER_MEGABYTE / cores
    if recipe.train:
        seconds["train"] = plan.seconds
    if recipe.evaluate:
        seconds["evaluate"] = reading + FORWARD_FRACTION * flops * recipe.evaluate.max_tokens / speed
    if recipe.finetune and conversation_bytes is not None:
        tokens = EPOCHS_OF_CONVERSATIONS * conversation_bytes / BYTES_PER_TOKEN
        seconds["finetune"] = reading + flops * tokens / (speed * recipe.budget.devices)
    if recipe.quantize:
        seconds["quantize"] = reading + QUANTIZE_SECONDS_PER_PARAMETER * plan.parameters.total
    if recipe.export:
        seconds["export"] = 2 * weights / DISK_BANDWIDTH
    if recipe.report:
        seconds["report"] = START_SECONDS / 4
    return seconds
