"""2. Planning: size, cost and layout of a run, derived from its recipe before it starts.

Reading order:
    compute_optimal.py    model size, tokens, batch size, learning rate, vocabulary and experts of a compute budget
    weight_shapes.py      name and shape of every weight of a model
    parameter_count.py    parameters and training FLOPs of a model
    step_work.py          work of a training step by kind of operation
    hardware.py           speed, memory and links of devices; devices.toml: the table
    run_cost.py           money, energy and emissions; prices.toml: the table
    model_shape.py        width, depth and experts of a model for a budget or a number of parameters
    pipeline_schedule.py  properties of pipeline schedules
    communication.py      bytes sent per step and parallel axis
    saved_activations.py  what blocks keep for the backward pass
    state_memory.py       weights, gradients and optimizer state of a device
    memory_estimate.py    memory of training per device
    training_speed.py     seconds of a training step on one kind of device
    step_time.py          time of a training step on many devices
    layout_search.py      the fastest layouts that fit, and why others lost
    size_warmup.py        batch size and sequence length warmup
    masked_spans.py       masked tokens and spans of a sequence
    engine_support.py     checks of a recipe against its training engine
    parallel_layout.py    checks of a parallel layout against the model
    tuning_layout.py      devices of the stages that tune a model
    finetune_defaults.py  rank, passes, batch and learning rate of fine-tuning
    preference_defaults.py  the same of preference tuning
    feasibility.py        contradictions of a recipe, and the nearest possible plan
    training_knobs.py     tokens, steps, batch and learning rate of training
    memory_fit.py         micro-batch and checkpointing that fit into memory
    run_time.py           loader, evaluation, checkpoints and restarts of a training
    derive.py             a complete recipe and its cost
    stage_time.py         seconds of each stage of a run on CPUs
    stage_timeline.py     the same on accelerators
    storage_estimate.py   bytes on disk of a run
    restart_estimate.py   interruptions of a long run, and checkpoints
    deployment_estimate.py  size, speed and price of serving
    stage_support.py      checks of a recipe against its stages
    plan_table.py         the plan as a table for the terminal
    scaling_law.py        fit of loss against model size
    loss_law.py           loss of a model size and number of tokens, as published
    scaling_plan.py       from one of money, hours, compute, size or tokens to the others
    expected_loss.py      loss to expect of a plan of any size
    plan_alternatives.py  half, double, and other hardware
    scaling_summary.py    what scaling laws say of a plan
    prediction.py         loss prediction for a recipe
    init_examples.py      examples for the goals search and classify
    init_pairs.py         pairs for the goals translate and summarize
    init_recipe.py        a recipe from a few answers
    init_offers.py        plans side by side for money, hardware and time
    init_model_recipe.py  a recipe for a model that exists
    job_file.py           Slurm, Kubernetes and SkyPilot job files

Deliberately absent: torch, and measurements. A plan is a pure function of the recipe, the same on every machine but for
budget.hardware = "this-machine".
"""

from groundup.plan.communication import StepSpec, communication_bytes
from groundup.plan.compute_optimal import compute_optimal_size, optimal_batch_tokens, optimal_learning_rate
from groundup.plan.derive import Plan, derive
from groundup.plan.hardware import DEVICES, DeviceSpec
from groundup.plan.memory_estimate import MemoryEstimate, estimate_training_memory
from groundup.plan.parameter_count import ParameterCounts, count_parameters, training_flops_per_token
from groundup.plan.scaling_law import ScalingLaw, fit_scaling_law
from groundup.plan.step_time import StepTime, estimate_step_time

__all__ = [
    "DEVICES", "DeviceSpec", "MemoryEstimate", "ParameterCounts", "Plan", "ScalingLaw", "StepSpec", "StepTime",
    "communication_bytes", "compute_optimal_size", "count_parameters", "derive", "estimate_step_time",
    "estimate_training_memory", "fit_scaling_law", "optimal_batch_tokens", "optimal_learning_rate",
    "training_flops_per_token",
]  # fmt: skip
