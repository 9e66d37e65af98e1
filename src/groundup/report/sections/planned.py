"""The plan beside what happened."""

from typing import Any

from groundup.plan.tell import operations
from groundup.report import plots, wording
from groundup.report.blocks import Block, Cell, figure, paragraph, section, table
from groundup.report.collect import metrics, seconds

NOTHING = "–"


def planned(facts: dict[str, Any]) -> dict[str, Any] | None:
    plan = facts["plan"]
    rows = _rows(facts) if "parameters" in plan else []
    if not rows and not facts["stages"]:
        return None
    blocks: list[Block | None] = []
    if rows:
        blocks += [
            paragraph(
                "Before anything was computed, the plan derived from the recipe what the run would be and cost. "
                "Here it stands beside what came of it."
            ),
            table(("", "planned", "happened"), rows, "The plan and the run."),
        ]
    return section("The plan, and what happened", [*blocks, _time(facts)])


def _rows(facts: dict[str, Any]) -> list[list[Cell]]:
    plan, base = facts["plan"], metrics(facts, "base")
    train, took = plan["train"], seconds(facts, "base")
    vocabulary = metrics(facts, "tokenizer").get("vocab_size")
    rows: list[list[Cell]] = [
        ["vocabulary", f"{plan['model']['vocab_size']:,}", f"{vocabulary:,}" if vocabulary else NOTHING],
        ["parameters", wording.count(plan["parameters"]["total"]), _count(base.get("parameters"))],
        ["training tokens", wording.count(train["tokens"]), _count(base.get("tokens"))],
        [
            "tokens for each parameter",
            wording.three_digits(plan["tokens_per_parameter"]),
            wording.three_digits(base["tokens"] / base["parameters"]) if base else NOTHING,
        ],
        ["optimizer steps", f"{train['steps']:,}", f"{base['steps']:,}" if base else NOTHING],
        [
            "arithmetic",
            operations(plan["compute"]),
            operations(plan["compute"] * base["tokens"] / train["tokens"]) if base else NOTHING,
        ],
        [
            "time for pretraining",
            wording.duration(3600 * plan["hours"]),
            wording.duration(took) if took else NOTHING,
        ],
    ]
    speed = base.get("speed", {}).get("tokens_per_second")
    foreseen = train["tokens"] / (3600 * plan["hours"]) if plan["hours"] else 0
    rows.append(
        [
            "tokens per second",
            wording.count(foreseen),
            wording.count(speed)
            if speed
            else wording.count(base["tokens"] / took)
            if base and took
            else NOTHING,
        ]
    )
    if plan.get("memory"):
        rows.append(
            ["memory of each device", wording.size(plan["memory"]["total"]), _size(base.get("peak_memory"))]
        )
    if plan.get("money") is not None:
        spent = plan["money"] * took / (3600 * plan["hours"]) if took else None
        rows.append(["money", f"{plan['money']:,.2f}", f"{spent:,.2f}" if spent is not None else NOTHING])
    return rows


def _time(facts: dict[str, Any]) -> Block | None:
    spent = [
        (stage["folder"], stage["provenance"].get("seconds", 0.0), None) for stage in facts["stages"].values()
    ]
    if len(spent) < 2:
        return None
    whole = sum(amount for _, amount, _ in spent)
    name, most, _ = max(spent, key=lambda row: row[1])
    return figure(
        "time",
        plots.bars(spent, told=wording.duration),
        f"Where the time went: {wording.duration(whole)} in all, {wording.share(most, whole)} of it in {name}.",
        "Bars: " + ", ".join(f"{folder} {wording.duration(amount)}" for folder, amount, _ in spent),
    )


def _count(value: float | None) -> str:
    return NOTHING if value is None else wording.count(value)


def _size(value: float | None) -> str:
    return "not measured" if value is None else wording.size(value)
