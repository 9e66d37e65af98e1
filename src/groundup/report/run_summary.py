"""Terminal summary of a finished run: model, scores, samples, next commands."""

from pathlib import Path
from typing import Any

from groundup.artifacts.harness_metrics import metric_rows
from groundup.report import formatting
from groundup.report.quality_checks import check_run, strongest_baseline, worse_than_baseline
from groundup.report.run_data import collect_run, damaged_metrics, masked_lm_scores, stage_metrics, stage_seconds
from groundup.report.sections.quantization_section import TEXT_ORIGINS
from groundup.report.sections.scores_section import use_lines
from groundup.report.sections.usage_section import next_commands
from groundup.stages import MODEL_STAGES

MAX_SAMPLES = 2
MAX_COMMANDS = 3


def summarize_run(run: Path) -> str:
    """Summary from the manifests of the finished stages."""
    run_data = collect_run(run)
    with damaged_metrics(run):
        parts = [
            _built(run_data, run), _scores(run_data), _samples(run_data), _warnings(run_data), _next(run_data, run),
        ]  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in parts if lines).replace(formatting.NO_BREAK_SPACE, " ")


def _built(run_data: dict[str, Any], run: Path) -> list[str]:
    lines = []
    if base := stage_metrics(run_data, "base"):
        seconds = stage_seconds(run_data, "base")
        made = f"from {base['model']}" if "format" in base else f"trained on {formatting.count(base['tokens'])} tokens"
        hours = run_data["plan"].get("hours")
        planned = f" (planned: {formatting.duration(3600 * hours)})" if hours else ""
        duration = f" in {formatting.duration(seconds)}{planned}" if seconds and "tokens" in base else ""
        lines.append(f"model: {formatting.count(base['parameters'])} parameters, {made}{duration}")
        lines += [f"model: {text}" for text in [formatting.kept_weights(base)] if text]
    tuned = stage_metrics(run_data, "chat")
    if text := formatting.kept_weights(tuned):
        lines.append(f"{'fine-tuned' if 'task' in tuned else 'chat'} model: {text}")
    if quantized := stage_metrics(run_data, "quantized"):
        sizes = [formatting.byte_size(quantized["bytes"][key]) for key in ("after", "before")]
        lines.append(f"{quantized['bits']}-bit model: {sizes[0]}, float model: {sizes[1]}")
    lines += [f"report: {path}" for path in sorted(run.glob("*-report/report.pdf"))]
    return [f"built in {run}:", *(f"  {line}" for line in lines)]


def _scores(run_data: dict[str, Any]) -> list[str]:
    scores = stage_metrics(run_data, "scores")
    chat = [
        *_chat_scores(run_data), *_preference_scores(run_data), *_reward_scores(run_data), *_quantized_scores(run_data)
    ]  # fmt: skip
    if not scores:
        return ["scores:", *chat] if chat else []
    if "masked_lm" in scores:
        lines = [f"  {line}" for line in use_lines(run_data)]
        if masked := masked_lm_scores(run_data):
            accuracy = formatting.percent(masked["accuracy"], 1)
            lines = [
                f"  {accuracy} accuracy on masked tokens of held-out text, {masked['loss']:.2f} nats per token",
                *lines,
            ]
        return ["scores:", *lines] if lines else []
    baseline = strongest_baseline(scores)
    comparison = f"strongest baseline: {baseline[0]} {baseline[1]:.2f}" if baseline else ""
    comparison += ", which is better" if baseline and baseline[1] < scores["bits_per_byte"] else ""
    bounds = scores["bits_per_byte_interval"]
    interval = f" (95% interval {formatting.interval(bounds, 2)})" if bounds else ""
    return [
        "scores:",
        f"  {scores['bits_per_byte']:.3f} bits per byte of held-out text{interval}{'; ' + comparison if comparison else ''}",
        *(
            f"  {task} {metric}: {value:.4f}" + (f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else "")
            for task, metric, value, bounds, _ in metric_rows(scores.get("harness", {}))
        ),
        *chat,
    ]


def _chat_scores(run_data: dict[str, Any]) -> list[str]:
    """Before and after fine-tuning."""
    chat, uses = stage_metrics(run_data, "chat"), [f"  {line}" for line in use_lines(run_data)]
    if "task" in chat:
        return uses
    lines = []
    before, after = (chat.get("loss", {}).get(f"validation_{when}") for when in ("start", "end"))
    if before is not None and after is not None:
        lines.append(f"  held-out answers: {before:.2f} nats per token before fine-tuning, {after:.2f} after")
    if (recall := chat.get("recall") or {}).get("questions"):
        first = f"{recall['before']} before, " if "before" in recall else ""
        lines.append(
            f"  training questions answered as trained: {first}{recall['recalled']} of {recall['questions']} after"
        )
    if ordinary := chat.get("ordinary_text"):
        text = f"  ordinary text, bits per byte: {formatting.bits_before_after(ordinary)}"
        lines.append(text + worse_than_baseline(stage_metrics(run_data, "scores"), ordinary["after"]))
    return lines + uses


def _preference_scores(run_data: dict[str, Any]) -> list[str]:
    scores = stage_metrics(run_data, "preference").get("scores")
    if not scores:
        return []
    before, after = scores["before"], scores["after"]
    return [
        f"  held-out preferences: the better answer has the higher reward in {formatting.percent(after['accuracy'], 1)}"
        + (f", before in {formatting.percent(before['accuracy'], 1)}" if "accuracy" in before else "")
    ]


def _reward_scores(run_data: dict[str, Any]) -> list[str]:
    metrics = stage_metrics(run_data, "reinforcement")
    if not metrics:
        return []
    lines = [
        f"  reward of sampled answers: {metrics['curve']['reward'][0]:.2f} to {metrics['curve']['reward'][-1]:.2f}"
    ]
    if scores := metrics.get("held_out"):
        before, after = (formatting.percent(scores[when], 1) for when in ("before", "after"))
        lines.append(f"  held-out problems solved: {before} before, {after} after, of {scores['problems']:,}")
    return lines


def _quantized_scores(run_data: dict[str, Any]) -> list[str]:
    """The quantized model beside the float model, on text that neither has seen."""
    metrics = stage_metrics(run_data, "quantized")
    row = metrics.get("held_out", {}).get(metrics.get("method"), {})
    if (agreement := row.get("top1_agreement")) is None:
        return []
    text = TEXT_ORIGINS[metrics.get("text_origin", "corpus")]
    divergence = row.get("kl_divergence")
    return [
        f"  {metrics['bits']}-bit model: {formatting.percent(agreement, 1)} of its most likely tokens are the float model's"
        + (f", KL divergence {divergence:.3f} nats per token" if divergence is not None else "")
        + f"; {metrics['eval_tokens']:,} tokens of {text}"
    ]


def _samples(run_data: dict[str, Any]) -> list[str]:
    lines = []
    last = next((name for name in reversed(MODEL_STAGES) if stage_metrics(run_data, name).get("answers")), "chat")
    for row in stage_metrics(run_data, last).get("answers", [])[:MAX_SAMPLES]:
        lines += [
            f"  you:   {formatting.excerpt(row['prompt'], 100, 1)}",
            f"  model: {formatting.excerpt(row['answer'], 200, 3)}",
        ]
    if not lines:
        for row in stage_metrics(run_data, "scores").get("samples", [])[:MAX_SAMPLES]:
            lines.append(f"  {formatting.excerpt(row['prompt'] + row['text'], 300, 4)}")
    return ["samples:", *lines] if lines else []


def _warnings(run_data: dict[str, Any]) -> list[str]:
    warnings = check_run({name: stage["metrics"] for name, stage in run_data["stages"].items()})
    return ["warnings:", *(f"  {warning}" for warning in warnings)] if warnings else []


def _next(run_data: dict[str, Any], run: Path) -> list[str]:
    lines = next_commands(run_data, str(run))[:MAX_COMMANDS]
    width = max((len(command) for command, _ in lines), default=0)
    rows = [f"  {command:<{width}}   {description}" for command, description in lines]
    return ["next commands:", *rows] if rows else []
