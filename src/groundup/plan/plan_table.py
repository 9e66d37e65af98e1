"""The plan as a table for the terminal."""

import math
from typing import Any

from groundup.plan.scaling.expected_loss import UNIT, WEB_BYTES_PER_TOKEN
from groundup.plan.scaling.loss_law import NATS

MEMORY_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "unsharded": "unsharded weights",
    "activations": "activations",
    "logits": "logits",
    "slack": "allocator slack",
    "process": "process and libraries",
}
"""Names of the parts of a memory estimate; others are shown as they are called."""
MANY_EPOCHS = 4.5
"""Passes over the text from which the plan warns."""


def format_plan(summary: dict[str, Any]) -> str:
    """`Plan.summary()` as aligned lines."""
    rows = [("not here", f"{text}: not counted") for text in summary.get("missing", ())]
    if "deduplication" in summary:
        rows.append(("deduplication", _format_deduplication(summary["deduplication"])))
    if "base" in summary:
        rows.append(("base", summary["base"]["model"]))
    if "model" in summary:
        model = summary["model"]
        rows += [
            ("model", f"{model['architecture']}, {model['num_layers']} blocks, {model['hidden_size']} wide, "
                      f"{model['num_heads']} heads ({model['num_kv_heads']} key/value heads), "
                      f"vocabulary {model['vocab_size']:,}"),
            ("parameters", format_count(summary["parameters"]["total"])),
        ]  # fmt: skip
    finetuning, stages = [*_finetuning_rows(summary), *_inference_rows(summary)], summary.get("stage_seconds")
    if "train" not in summary:
        training = [] if "base" in summary else [("training", "none: the recipe has no [train]")]
        total = [("time", f"about {format_hours(sum(stages.values()) / 3600)}")] if stages else []
        return _align([*rows, *training, *finetuning, *total])
    train, memory, layout, budget = summary["train"], summary["memory"], summary["layout"], summary["budget"]
    rows = [
        *rows,
        ("tokens", f"{format_count(train['tokens'])}, {summary['tokens_per_parameter']:.3g} per parameter"),
        *([("text", describe_data(summary))] if "data" in summary else []),
        ("steps", f"{train['steps']:,}, {train['batch_tokens']:,} tokens each, sequences of {train['sequence_length']:,}"),
        ("optimizer", f"{_format_optimizer(train)}, {train['warmup_steps']} warmup steps, {train['lr_schedule']} schedule"),
        ("memory", describe_memory(memory)),
        ("layout", f"{layout['devices']} x {budget['hardware']}, {_format_axes(layout)}, micro-batch "
                   f"{layout['micro_batch']}{_format_checkpointing(layout['activation_checkpointing'])}"),
        ("compute", format_flops(summary["total_flops"])),
        ("time", describe_time(summary)),
    ]  # fmt: skip
    if warning := summary.get("checkpoint_warning"):
        rows.append(("checkpoints", warning))
    rows += _scaling_rows(summary)
    rows += _simulation_rows(summary.get("simulation"))
    rows += _cost_rows(summary)
    return _align([*rows, *finetuning])


def describe_memory(memory: dict[str, Any]) -> str:
    """Memory of a device, and its parts of at least one percent."""
    parts = [(name, size) for name, size in memory_parts(memory) if size >= 0.01 * memory["total"]]
    shown = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts)
    return f"{format_bytes(memory['total'])} per device: {shown}"


def memory_parts(memory: dict[str, Any]) -> list[tuple[str, float]]:
    """Name and bytes of each part that is not empty."""
    return [
        (MEMORY_PARTS.get(name, name.replace("_", " ")), value)
        for name, value in memory.items()
        if name != "total" and isinstance(value, int | float) and value > 0
    ]


def _finetuning_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Cost of fine-tuning [base], and the stages that run."""
    rows = []
    hardware = summary["budget"]["hardware"] if "budget" in summary else ""
    if cost := summary.get("finetuning"):
        rows.append(("fine-tuning", f"{describe_finetuning(cost)} on {cost['devices']} x {hardware}"))
    if cost := summary.get("preference"):
        rows.append(("preferences", f"{describe_preference(cost)} on {cost['devices']} x {hardware}"))
    if cost := summary.get("reinforcement"):
        rows.append(("rewards", f"{describe_reinforcement(cost)} on one {hardware}"))
    rows += [(f"[{section}]", text) for section, text in summary.get("tuning_devices", {}).items()]
    if stages := summary.get("stages"):
        rows.append(("runs", ", ".join(stages)))
    return rows


def _inference_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Memory of the served model: weights in each format, and the cache of one user."""
    if (found := summary.get("inference")) is None:
        return []
    rows = [("serving", "; ".join(f"{name}: {format_bytes(size)}" for name, size in found["weights"].items()))]
    if found["cache"]:
        rows.append(("cache", f"{format_bytes(found['cache'])} a user for {found['tokens']:,} tokens, "
                              f"{format_bytes(found['cache_8bit'])} with kv_bits = 8"))  # fmt: skip
    return rows


def format_bytes(size: float) -> str:
    """Bytes with a unit."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def describe_finetuning(cost: dict[str, Any]) -> str:
    """Data, steps, memory and time of fine-tuning."""
    refused = f" ({cost['refused']:,} of them cannot be used)" if cost.get("refused") else ""
    return (f"{cost['conversations']:,} conversations{refused}, {format_count(cost['tokens'])} tokens in one pass, "
            f"{cost['epochs']:g} passes, {cost['steps']:,} steps in rows of {cost['sequence_length']:,}: "
            f"{format_hours(cost['hours'])} and "
            f"{cost['memory_bytes'] / 1e9:.2f} GB")  # fmt: skip


def describe_preference(cost: dict[str, Any]) -> str:
    """Data, steps, memory and time of preference tuning."""
    return (
        f"{cost['preferences']:,} preferences, {format_count(cost['tokens'])} tokens in one pass, {cost['epochs']:g} passes, "
        f"{cost['steps']:,} steps: {format_hours(cost['hours'])} and {cost['memory_bytes'] / 1e9:.2f} GB"
    )


def describe_reinforcement(cost: dict[str, Any]) -> str:
    """Problems, steps, memory and time of learning from rewards."""
    answers = f"{cost['answers']:,} answers of at most {cost['answer_tokens']:,} tokens"
    resources = f"at most {format_hours(cost['hours'])} and {cost['memory_bytes'] / 1e9:.2f} GB"
    return f"{cost['problems']:,} problems, {cost['steps']:,} steps, {answers}: {resources}"


def describe_data(summary: dict[str, Any]) -> str:
    """The training text of a plan: its tokens, the passes over it, and whether it is the limit."""
    data = summary["data"]
    about = "about " if data.get("estimated") else ""
    text = f"{about}{format_count(data['tokens'])} tokens, read {data['epochs']:.2g} times"
    if data["limited"]:
        size, hours = format_count(summary["parameters"]["total"]), format_hours(summary["hours"])
        text += f": enough for {size} parameters and {hours}; more time will not help, more text will"
    elif data["epochs"] > MANY_EPOCHS:
        text += ": a model learns little more after 4 times, and repeats its text after many"
    return text


def _cost_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Money with the source of its price, energy and emissions."""
    cost = summary["run_cost"]
    devices = summary["budget"]["devices"]
    hours = format_hours(summary["hours"])
    if devices > 1:
        total = devices * summary["hours"]
        hours = f"{format_count(total)} device-hours" if total >= 10 else f"{hours} of {devices} devices"
    price = f"{cost['total']:,.2f} {cost['currency']} for {hours}"
    source = f"{cost['per_device_hour']:.3g} an hour: {cost['source']}"
    rows = [("cost", f"{price} ({source})")]
    if cost["energy_kwh"]:
        rows.append(("energy", f"{format_energy(cost['energy_kwh'])}, {cost['co2_kg']:,.3g} kg of CO2"))
    return rows


def format_energy(kwh: float) -> str:
    """Energy with its unit."""
    return f"{kwh / 1e3:,.3g} MWh" if kwh >= 1e3 else f"{kwh:.3g} kWh" if kwh >= 0.1 else f"{1e3 * kwh:.2g} Wh"


def describe_loss(summary: dict[str, Any]) -> str | None:
    """The loss to expect: by the ladder of the recipe, else by the law of its size; None where no law holds."""
    if ladder := summary.get("predicted_loss"):
        return (
            f"{ladder['loss']:.3f} bits per byte of validation text, 90% interval {ladder['low']:.3f} to "
            f"{ladder['high']:.3f}, from a ladder of {ladder['rungs']} models"
        )
    if (scaling := summary.get("scaling")) is None:
        return None
    loss = scaling["bits_per_byte"]
    return f"{loss['loss']:.2f} bits per byte of English, {loss['low']:.2f} to {loss['high']:.2f}"


def _scaling_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Loss to expect, the optimum of the compute, and what twice as much would buy."""
    rows = []
    if loss := describe_loss(summary):
        is_ladder = bool(summary.get("predicted_loss"))
        advice = "" if is_ladder else "; groundup ladder predicts that of your text"
        rows.append(("predicted loss" if is_ladder else "expected loss", loss + advice))
    if (scaling := summary.get("scaling")) is None:
        return rows
    curve = scaling["isoflop"]
    parameters, tokens, loss = curve["minimum"]
    unit, factor = scaling["unit"], 1.0
    if unit == NATS:  # as the loss to expect
        unit, factor = UNIT, 1 / math.log(2) / WEB_BYTES_PER_TOKEN
    if curve["penalty"] > 1.1:
        best = f"{format_count(parameters)} parameters on {format_count(tokens)} tokens would reach {factor * loss:.2f}"
        best += f" {unit}, not {factor * curve['chosen'][2]:.2f}"
        penalty = f"this plan takes {curve['penalty']:.2g} times the compute of its loss"
        rows.append(("same compute", f"{best}; {penalty}"))
    double = next(step for step in scaling["other_budgets"] if step["factor"] == 2)
    rows.append(("twice of it", f"{format_count(double['parameters'])} parameters on {format_count(double['tokens'])} tokens: "
                                f"{factor * double['loss']:.2f} {unit}, {-factor * double['change']:.3f} less"))  # fmt: skip
    return rows


def format_layouts(search: Any, other: Any, limit: int = 8) -> str:
    """The fastest layouts of a LayoutSearch, why the others lost, and the knobs of the best one."""
    refused = ", ".join(f"{name} {count}" for name, count in search.refused.items())
    lines = [f"{len(search.candidates)} of {search.tried} layouts fit{f'; refused: {refused}' if refused else ''}"]
    lines += [
        f"{candidate.describe():<44} micro-batch {candidate.micro_batch:<4} checkpointing "
        f"{candidate.activation_checkpointing:<10} {candidate.precision:<9} {candidate.seconds:8.3f} s a step  MFU "
        f"{candidate.step.utilization:4.0%}  {candidate.memory.total / 1e9:6.1f} GB  {candidate.lost or 'the fastest'}"
        for candidate in [*search.candidates[:limit], *([other] if other else [])]
    ]
    knobs = " ".join(f"--set {name}={value}" for name, value in search.best.knobs().items())
    return "\n".join([*lines, f"the fastest: {knobs}"])


def describe_time(summary: dict[str, Any]) -> str:
    """Time of pretraining, and of all stages if it is known."""
    text = format_hours(summary["hours"])
    if stages := summary.get("stage_seconds"):
        text = f"about {format_hours(sum(stages.values()) / 3600)}, of which pretraining {text}"
    return text


def _format_optimizer(train: dict[str, Any]) -> str:
    adamw = f"AdamW, learning rate {train['learning_rate']:g}"
    return (
        adamw if train["optimizer"] == "adamw" else f"Muon, learning rate {train['muon_learning_rate']:g}, with {adamw}"
    )


def _format_checkpointing(mode: str) -> str:
    return "" if mode == "none" else f", with machine.activation_checkpointing = {mode}"


def format_flops(value: float) -> str:
    """Floating point operations with their SI prefix: 6.4e14 -> "640 teraFLOP"."""
    prefixes = {1e24: "yotta", 1e21: "zetta", 1e18: "exa", 1e15: "peta", 1e12: "tera", 1e9: "giga"}
    for size, prefix in prefixes.items():
        if value >= size:
            return f"{value / size:.3g} {prefix}FLOP"
    return f"{value:,.0f} FLOP"


def _align(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<14} {value}" for name, value in rows)


def _format_deduplication(estimate: dict[str, Any]) -> str:
    names = ", ".join(estimate["unknown_sources"])
    if names and not estimate["documents"]:
        return f"up to {estimate['limit_bytes'] / 1e9:g} GB; no estimate yet: {names} not available"
    unknown = f"; without {names}, not downloaded yet" if names else ""
    return (f"{estimate['peak_bytes'] / 1e9:.2g} GB of {estimate['limit_bytes'] / 1e9:g} GB "
            f"for about {estimate['documents']:,} documents, "
            f"{estimate['passes']} pass{'es' if estimate['passes'] > 1 else ''}{unknown}")  # fmt: skip


def _simulation_rows(simulation: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Counts of a simulation on fake devices, beside the estimates."""
    if simulation is None:
        return []
    pairs = [("memory between steps", simulation["memory"]["state"]), ("peak memory", simulation["memory"]["peak"])]
    pairs += [(f"sent along {axis}", both) for axis, both in simulation["sent"].items()]
    counts = [f"{name} {both['simulated'] / 1e9:.2f} GB (estimate {both['planned'] / 1e9:.2f})" for name, both in pairs]
    return [("simulation", f"one rank of {simulation['devices']:,} and one micro-batch: {', '.join(counts)}")]


def _format_axes(layout: dict[str, Any]) -> str:
    axes = {axis: layout[axis] for axis in ("replicate", "context", "tensor", "pipeline", "expert") if layout[axis] > 1}
    words = [f"shard {layout['shards'] // layout['context']}", *(f"{axis} {size}" for axis, size in axes.items())]
    return " x ".join(words)


def format_count(value: float) -> str:
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:,.0f}"


def format_hours(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.1f} minutes" if 60 * hours >= 1 else f"{max(1.0, 3600 * hours):.0f} s"
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:.1f} days"
