"""2. Planning: size, cost and layout of a run, derived from its recipe before it starts.

Reading order:
    scaling/              size, tokens and loss of a budget: scaling laws
    shape/                weights and shape of a model
    hardware.py           speed, memory and links of devices; devices.toml: the table
    memory/               memory: of training, on disk, and in use
    time/                 time: of a step, of a training, of all stages
    layout/               layouts of many devices: bytes sent, the fastest that fits, job files
    defaults/             values of knobs that a recipe leaves out
    checks/               checks of a recipe before it starts
    derive.py             a complete recipe and its cost
    cost/                 money and energy, and what other plans would cost; prices.toml: the table
    plan_table.py         the plan as a table for the terminal
    init/                 recipes from answers: `groundup init`

Deliberately absent: torch, and measurements. A plan is a pure function of the recipe, the same on every machine but for
budget.hardware = "this-machine".
"""

from groundup.plan.derive import Plan, derive
from groundup.plan.hardware import DEVICES, DeviceSpec
from groundup.plan.layout.communication import StepSpec, communication_bytes
from groundup.plan.memory.memory_estimate import MemoryEstimate, estimate_training_memory
from groundup.plan.scaling.compute_optimal import compute_optimal_size, optimal_batch_tokens, optimal_learning_rate
from groundup.plan.scaling.scaling_law import ScalingLaw, fit_scaling_law
from groundup.plan.shape.parameter_count import ParameterCounts, count_parameters, training_flops_per_token
from groundup.plan.time.step_time import StepTime, estimate_step_time

__all__ = [
    "DEVICES", "DeviceSpec", "MemoryEstimate", "ParameterCounts", "Plan", "ScalingLaw", "StepSpec", "StepTime",
    "communication_bytes", "compute_optimal_size", "count_parameters", "derive", "estimate_step_time",
    "estimate_training_memory", "fit_scaling_law", "optimal_batch_tokens", "optimal_learning_rate",
    "training_flops_per_token",
]  # fmt: skip
