"""The closing lines of a run: what was built, what it scores, what it says, and what to type next."""

from pathlib import Path
from typing import Any

from groundup.report import wording
from groundup.report.collect import collect, metrics, seconds
from groundup.report.sections.use import next_commands

SPOKEN = 2
NEXT = 3


def summary(run: Path) -> str:
    """Some lines for the terminal, from the manifests of the finished stages."""
    facts = collect(run)
    parts = [_built(facts, run), _scores(facts), _speech(facts), _next(facts, run)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines).replace(wording.SPACE, " ")


def _built(facts: dict[str, Any], run: Path) -> list[str]:
    lines = []
    if base := metrics(facts, "base"):
        took = seconds(facts, "base")
        lines.append(
            f"a model of {wording.count(base['parameters'])} parameters, trained on {wording.count(base['tokens'])} tokens"
            + (f" in {wording.duration(took)}" if took else "")
        )
    if quantized := metrics(facts, "quantized"):
        sizes = [wording.size(quantized["bytes"][key]) for key in ("after", "before")]
        lines.append(f"in {quantized['bits']} bits: {sizes[0]} instead of {sizes[1]}")
    lines += [f"its report: {path}" for path in sorted(run.glob("*-report/report.pdf"))]
    return [f"built in {run}:", *(f"  {line}" for line in lines)]


def _scores(facts: dict[str, Any]) -> list[str]:
    scores = metrics(facts, "scores")
    if not scores:
        return []
    if guessed := scores.get("hidden"):
        return [
            f"it guesses {wording.share(guessed['right'], 1)} of the hidden tokens of held-out text "
            f"({guessed['loss']:.2f} nats for each)"
        ]
    baselines = scores.get("baselines", {})
    beside = ", ".join(f"{name} {baselines[name]:.2f}" for name in ("xz", "gzip") if name in baselines)
    sure = (
        f" (95% interval {wording.interval(scores['bits_per_byte_interval'], 2)})"
        if scores["bits_per_byte_interval"]
        else ""
    )
    return [
        "it scores:",
        f"  {scores['bits_per_byte']:.3f} bits per byte of held-out text{sure}{'; ' + beside if beside else ''}",
    ]


def _speech(facts: dict[str, Any]) -> list[str]:
    lines = []
    for row in metrics(facts, "chat").get("answers", [])[:SPOKEN]:
        lines += [
            f"  you:   {wording.excerpt(row['prompt'], 100, 1)}",
            f"  model: {wording.excerpt(row['answer'], 200, 3)}",
        ]
    if not lines:
        for row in metrics(facts, "scores").get("samples", [])[:SPOKEN]:
            lines.append(f"  {wording.excerpt(row['prompt'] + row['text'], 300, 4)}")
    return ["it says:", *lines] if lines else []


def _next(facts: dict[str, Any], run: Path) -> list[str]:
    lines = next_commands(facts, str(run))[:NEXT]
    width = max((len(command) for command, _ in lines), default=0)
    return ["next:", *(f"  {command:<{width}}   {does}" for command, does in lines)] if lines else []
