"""The plan as a table for the terminal."""

from typing import Any

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
            ("parameters", _format_count(summary["parameters"]["total"])),
        ]  # fmt: skip
    finetuning, stages = _finetuning_rows(summary), summary.get("stage_seconds")
    if "train" not in summary:
        training = [] if "base" in summary else [("training", "none: the recipe has no [train]")]
        total = [("time", f"about {format_hours(sum(stages.values()) / 3600)}")] if stages else []
        return _align([*rows, *training, *finetuning, *total])
    train, memory, layout, budget = summary["train"], summary["memory"], summary["layout"], summary["budget"]
    rows = [
        *rows,
        ("tokens", f"{_format_count(train['tokens'])}, {summary['tokens_per_parameter']:.3g} per parameter"),
        *([("text", describe_data(summary))] if "data" in summary else []),
        ("steps", f"{train['steps']:,}, {train['batch_tokens']:,} tokens each, sequences of {train['sequence_length']:,}"),
        ("optimizer", f"{_format_optimizer(train)}, {train['warmup_steps']} warmup steps, {train['lr_schedule']} schedule"),
        ("memory", f"{memory['total'] / 1e9:.2f} GB per device: weights {memory['weights'] / 1e9:.2f}, gradients "
                   f"{memory['gradients'] / 1e9:.2f}, optimizer {memory['optimizer'] / 1e9:.2f}, "
                   f"unsharded weights {memory['unsharded'] / 1e9:.2f}, activations "
                   f"{(memory['activations'] + memory['logits']) / 1e9:.2f}"),
        ("layout", f"{layout['devices']} x {budget['hardware']}, {_format_axes(layout)}, micro-batch "
                   f"{layout['micro_batch']}{_format_checkpointing(layout['activation_checkpointing'])}"),
        ("compute", format_flops(summary["total_flops"])),
        ("time", describe_time(summary)),
    ]  # fmt: skip
    if loss := summary.get("predicted_loss"):
        rows.append(("predicted loss", f"{loss['loss']:.3f} bits per byte of validation text, 90% interval {loss['low']:.3f} to "
                                       f"{loss['high']:.3f}, from a ladder of {loss['rungs']} models"))  # fmt: skip
    rows += _simulation_rows(summary.get("simulation"))
    if summary["cost"] is not None:
        rows.append(("cost", f"{summary['cost']:,.2f} ({budget['price_per_hour']:g} per device-hour)"))
    return _align([*rows, *finetuning])


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


def describe_finetuning(cost: dict[str, Any]) -> str:
    """Data, steps, memory and time of fine-tuning."""
    refused = f" ({cost['refused']:,} of them cannot be used)" if cost.get("refused") else ""
    return (f"{cost['conversations']:,} conversations{refused}, {_format_count(cost['tokens'])} tokens in one pass, "
            f"{cost['epochs']:g} passes, {cost['steps']:,} steps in rows of {cost['sequence_length']:,}: "
            f"{format_hours(cost['hours'])} and "
            f"{cost['memory_bytes'] / 1e9:.2f} GB")  # fmt: skip


def describe_preference(cost: dict[str, Any]) -> str:
    """Data, steps, memory and time of preference tuning."""
    return (
        f"{cost['preferences']:,} preferences, {_format_count(cost['tokens'])} tokens in one pass, {cost['epochs']:g} passes, "
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
    text = f"{about}{_format_count(data['tokens'])} tokens, read {data['epochs']:.2g} times"
    if data["limited"]:
        size, hours = _format_count(summary["parameters"]["total"]), format_hours(summary["hours"])
        text += f": enough for {size} parameters and {hours}; more time will not help, more text will"
    elif data["epochs"] > MANY_EPOCHS:
        text += ": a model learns little more after 4 times, and repeats its text after many"
    return text


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


def _format_count(value: float) -> str:
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:,.0f}"


def format_hours(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:.1f} days"
