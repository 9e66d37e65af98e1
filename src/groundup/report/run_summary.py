"""The closing lines of a run: what was built, what it scores, what it says, and what to type next."""

from pathlib import Path
from typing import Any

from groundup.report import formatting
from groundup.report.run_data import collect_run, stage_metrics, stage_seconds
from groundup.report.sections.usage_section import next_commands

MAX_SAMPLES = 2
MAX_COMMANDS = 3


def summarize_run(run: Path) -> str:
    """Some lines for the terminal, from the manifests of the finished stages."""
    facts = collect_run(run)
    parts = [_built(facts, run), _scores(facts), _samples(facts), _next(facts, run)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines).replace(formatting.NO_BREAK_SPACE, " ")


def _built(facts: dict[str, Any], run: Path) -> list[str]:
    lines = []
    if base := stage_metrics(facts, "base"):
        took = stage_seconds(facts, "base")
        lines.append(
            f"a model of {formatting.count(base['parameters'])} parameters, trained on {formatting.count(base['tokens'])} tokens"
            + (f" in {formatting.duration(took)}" if took else "")
        )
    if quantized := stage_metrics(facts, "quantized"):
        sizes = [formatting.byte_size(quantized["bytes"][key]) for key in ("after", "before")]
        lines.append(f"in {quantized['bits']} bits: {sizes[0]} instead of {sizes[1]}")
    lines += [f"its report: {path}" for path in sorted(run.glob("*-report/report.pdf"))]
    return [f"built in {run}:", *(f"  {line}" for line in lines)]


def _scores(facts: dict[str, Any]) -> list[str]:
    scores = stage_metrics(facts, "scores")
    if not scores:
        return []
    if guessed := scores.get("masked_lm"):
        return [
            f"it guesses {formatting.percent(guessed['accuracy'], 1)} of the hidden tokens of held-out text "
            f"({guessed['loss']:.2f} nats for each)"
        ]
    baselines = scores.get("baselines", {})
    beside = ", ".join(f"{name} {baselines[name]:.2f}" for name in ("xz", "gzip") if name in baselines)
    sure = (
        f" (95% interval {formatting.interval(scores['bits_per_byte_interval'], 2)})"
        if scores["bits_per_byte_interval"]
        else ""
    )
    return [
        "it scores:",
        f"  {scores['bits_per_byte']:.3f} bits per byte of held-out text{sure}{'; ' + beside if beside else ''}",
    ]


def _samples(facts: dict[str, Any]) -> list[str]:
    lines = []
    for row in stage_metrics(facts, "chat").get("answers", [])[:MAX_SAMPLES]:
        lines += [
            f"  you:   {formatting.excerpt(row['prompt'], 100, 1)}",
            f"  model: {formatting.excerpt(row['answer'], 200, 3)}",
        ]
    if not lines:
        for row in stage_metrics(facts, "scores").get("samples", [])[:MAX_SAMPLES]:
            lines.append(f"  {formatting.excerpt(row['prompt'] + row['text'], 300, 4)}")
    return ["it says:", *lines] if lines else []


def _next(facts: dict[str, Any], run: Path) -> list[str]:
    lines = next_commands(facts, str(run))[:MAX_COMMANDS]
    width = max((len(command) for command, _ in lines), default=0)
    return ["next:", *(f"  {command:<{width}}   {does}" for command, does in lines)] if lines else []
