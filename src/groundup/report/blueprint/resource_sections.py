"""Sections of the blueprint on what it takes: memory, time, money, interruptions."""

from typing import Any

from groundup.plan.layout.layout_search import AS_FAST
from groundup.plan.plan_table import format_flops, memory_parts
from groundup.report import formatting
from groundup.report.blueprint.blueprint_plots import plot_memory, plot_ranges, plot_timeline
from groundup.report.elements import Cell, Element, code, figure, key_values, paragraph, section, strong, table

AXES = {
    "shards": "weights, gradients and optimizer state sharded",
    "replicate": "groups that hold the same weights",
    "tensor": "matrices of each block split (tensor parallel)",
    "pipeline": "blocks in stages (pipeline parallel)",
    "context": "each sequence split (context parallel)",
    "expert": "experts split (expert parallel)",
}


def memory_section(plan: dict[str, Any]) -> dict[str, Any]:
    memory, layout, budget, device = plan["memory"], plan["layout"], plan["budget"], plan["blueprint"]["device"]
    parts = memory_parts(memory)
    usable = device["usable"] * device["memory_bytes"]
    rows = [(name, formatting.byte_size(value), formatting.percent(value, memory["total"])) for name, value in parts]
    rows.append(
        (
            "total",
            formatting.byte_size(memory["total"]),
            formatting.percent(memory["total"], device["memory_bytes"]) + " of the device",
        )
    )
    axes = [(f"{size:,} ×", AXES[axis]) for axis in AXES if (size := layout[axis]) > 1]
    knobs: list[tuple[str, Cell]] = [(size, meaning) for size, meaning in axes]
    checkpointing = layout["activation_checkpointing"]
    knobs += [
        ("Micro-batch", formatting.pluralize(layout["micro_batch"], "sequence") + " on a device at once"),
        (
            "Activations",
            "kept for the backward pass"
            if checkpointing == "none"
            else f"computed again in the backward pass ({checkpointing})",
        ),
    ]
    return section(
        "Memory and layout",
        [
            paragraph(
                f"{'The device' if layout['devices'] == 1 else 'Each of ' + formatting.pluralize(layout['devices'], 'device')} "
                f"({device['label'] or budget['hardware']}, {formatting.byte_size(device['memory_bytes'])}) needs ",
                strong(formatting.byte_size(memory["total"])),
                " at the peak of a training step.",
            ),
            figure(
                "device-memory",
                plot_memory(parts, usable, device["memory_bytes"]),
                "Peak memory of one device.",
                "Parts: " + ", ".join(f"{name} {formatting.byte_size(value)}" for name, value in parts),
            ),
            table(("part", "size", "share"), rows, "Memory of one device by part.", total=True),
            key_values(knobs),
            *_layout_elements(plan["blueprint"]["layouts"]),
        ],
    )


def _layout_elements(layouts: dict[str, Any] | None) -> list[Element]:
    """The fastest layouts of the devices, and how far from them the plan is."""
    if layouts is None:
        return []
    rows = [
        (
            row["layout"],
            f"{row['micro_batch']}",
            row["checkpointing"],
            formatting.duration(row["seconds"]),
            formatting.byte_size(row["memory_bytes"]),
            row["lost"],
        )
        for row in layouts["rows"]
    ]
    ratio = layouts["own_ratio"]
    words = "as fast as the fastest" if ratio < 1 + AS_FAST else f"{ratio:.2f} times the fastest"
    spans: list[Any] = [f"The layout of the plan takes {formatting.duration(layouts['own_seconds'])} a step, {words}. "]
    if ratio >= 1 + AS_FAST:
        spans += [
            "Knobs of the fastest: ",
            code(" ".join(f"{name}={value}" for name, value in layouts["knobs"].items())),
            ".",
        ]
    caption = f"The fastest of {layouts['fitting']:,} layouts that fit, of {layouts['tried']:,} tried."
    headers = ("layout", "micro-batch", "checkpointing", "step", "memory", "why not")
    return [paragraph(*spans), table(headers, rows, caption, align="lrlrrl")]


def _times(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.2g} to {bounds[1]:.2g} times"


def time_section(plan: dict[str, Any]) -> dict[str, Any]:
    facts, budget = plan["blueprint"], plan["budget"]
    stages = [(f"[{name}]", seconds) for name, seconds in facts["stages"].items()]
    total = sum(seconds for _, seconds in stages)
    train = 3600 * plan["hours"]
    rate = plan["train"]["tokens"] / train if train else 0.0
    flops = plan["total_flops"]
    peak = facts["device"]["peak_flops"] * budget["devices"]
    rows: list[tuple[str, Cell]] = [
        ("Compute", f"{format_flops(flops)} in pretraining"),
        (
            "Speed",
            f"{formatting.count(rate)} tokens per second, "
            f"{formatting.percent(flops / peak / train if train else 0, 1)} of the peak of "
            f"{formatting.pluralize(budget['devices'], 'device')} (model FLOPs utilization)",
        ),
        (
            "Rates",
            "of stages other than pretraining: measured on two cores (book/lab-book.md)"
            if facts["stages_measured"]
            else "of stages other than pretraining: assumed, within a factor of two; they are a small part",
        ),
    ]
    missing = [
        f"[{name}]"
        for name in ("finetune", "preference", "reinforcement")
        if facts["recipe"].get(name) is not None and name not in facts["stages"]
    ]
    if missing:
        rows.append(("Not counted", f"{formatting.join_words(missing)}: the examples are not on this machine"))
    return section(
        "Timeline",
        [
            paragraph(
                "All stages take ",
                strong(formatting.duration(total)),
                f", of which pretraining {formatting.duration(train)}"
                f"{_device_time(train, budget['devices'])}. They run one after the other; each can be the last (",
                code("--until"),
                "), and the next command continues there.",
            ),
            figure(
                "timeline",
                plot_timeline(stages),
                "Stages of the run, by table of the recipe.",
                "Bars: " + ", ".join(f"{name} {formatting.duration(seconds)}" for name, seconds in stages),
            ),
            key_values(rows),
        ],
    )


def _device_time(seconds: float, devices: int) -> str:
    return f" ({devices * seconds / 3600:,.0f} device hours)" if devices > 1 else ""


def cost_section(plan: dict[str, Any]) -> dict[str, Any]:
    facts = plan["blueprint"]
    cost, hours, budget = facts["cost"], facts["hours_range"], plan["budget"]
    currency = cost["currency"]
    owned = (
        "the price of electricity alone: the device has no price in the table" if cost["is_owned"] else cost["source"]
    )
    rows: list[tuple[str, Cell]] = [
        ("Price", f"{cost['per_device_hour']:.3g} {currency} for one {budget['hardware']} and hour; {owned}"),
        (
            "Range",
            f"{_times(facts['time_range'])} the expected: {facts['time_range_source']}; prices are of {cost['date']}",
        ),
        (
            "Energy",
            f"{formatting.three_digits(cost['energy_kwh'])} kWh, about "
            f"{formatting.three_digits(cost['co2_kg'])} kg of CO₂ at the world's mean",
        ),
    ]
    low, high = cost["low"] / cost["total"], cost["high"] / cost["total"]
    bars = [
        (row["name"], low * row["cost"], row["cost"], high * row["cost"])
        for row in facts["alternatives"]
        if not row["objection"]
    ]
    return section(
        "Cost",
        [
            paragraph(
                "Expected: ",
                strong(f"{formatting.money(cost['total'])} {currency}"),
                f", from {formatting.money(cost['low'])} to {formatting.money(cost['high'])}.",
            ),
            figure(
                "cost",
                plot_ranges(bars, currency),
                "Cost of pretraining, of this plan and of others in section “Alternatives”: "
                "expected, and its range. All stages of "
                f"this plan take {formatting.duration(3600 * hours[0])} to {formatting.duration(3600 * hours[1])}.",
                f"{formatting.money(cost['total'])} {currency}, from "
                f"{formatting.money(cost['low'])} to {formatting.money(cost['high'])}.",
            ),
            key_values(rows),
        ],
    )


def risk_section(plan: dict[str, Any]) -> dict[str, Any]:
    facts = plan["blueprint"]
    restarts, device, memory = facts["restarts"], facts["device"], plan["memory"]
    room = 1 - memory["total"] / device["memory_bytes"]
    failures = restarts["failures"]
    rows: list[tuple[str, Cell, Cell]] = [
        (
            "a device or machine fails",
            f"{failures:.2g} times" if failures >= 0.01 else "under 1 in 100",
            "the run continues from its last checkpoint, bit for bit; failed processes restart by themselves",
        ),
        (
            "memory is exceeded",
            f"{formatting.percent(room, 1)} of room",
            "a smaller micro-batch, or activation checkpointing; the plan keeps 10% free",
        ),
        (
            "the loss diverges",
            "seen in most large runs",
            "spikes are detected, the batch is skipped, and the run goes back to a checkpoint",
        ),
        (
            "text is missing",
            formatting.count(facts["tokens_missing"]) + " tokens" if facts["tokens_missing"] else "none",
            "a model for less text, or more sources: groundup plan names both",
        ),
        (
            "text repeats, or has evaluation sets in it",
            "usual on the web",
            "near duplicates are removed; data.decontaminate keeps sets out",
        ),
        (
            "training is slower than planned",
            f"up to {facts['time_range'][1]:.2g} times",
            "the first 100 steps show it: compare tokens per second with section “Timeline”",
        ),
    ]
    knobs: list[tuple[str, Cell]] = [
        (
            "Checkpoint",
            f"{formatting.byte_size(restarts['checkpoint_bytes'])} over all devices, written in "
            f"about {formatting.duration(restarts['checkpoint_seconds'])} while training goes on",
        ),
        (
            "Interval",
            f"{formatting.duration(restarts['interval_seconds'])} in the recipe; checkpoints and lost work cost least at "
            f"{formatting.duration(restarts['best_interval_seconds'])} (machine.checkpoint_every_minutes)",
        ),
        (
            "Overhead",
            f"{formatting.percent(restarts['overhead'], 1)} of the time of the steps, for checkpoints, lost work and restarts; "
            "part of the planned time",
        ),
    ]
    return section(
        "Risks and restarts",
        [
            paragraph(
                "One interruption is expected in 50,700 device hours, as in the training of Llama 3 (2024, section 3.3.4): "
                f"{f'{failures:.2g}' if failures >= 0.01 else 'under 0.01'} in this run."
            ),
            table(("risk", "expected", "what is done"), rows, "Risks.", align="lll"),
            key_values(knobs),
        ],
    )
