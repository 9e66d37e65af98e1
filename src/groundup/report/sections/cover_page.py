"""Cover page of a report: key numbers and a summary table."""

from typing import Any

from groundup.report import formatting
from groundup.report.elements import Cell, code
from groundup.report.quality_checks import check_run, strongest_baseline
from groundup.report.run_data import masked_lm_scores, stage_metrics, stage_seconds
from groundup.stages import last_model_stage

MAX_WARNINGS = 5
"""On the cover."""

MEASURABLE_BITS = 0.0005
"""Bits per byte that quantization must cost to be called a loss: the next digit is noise."""


def cover_page(run_data: dict[str, Any], title: str | None, author: str | None) -> dict[str, Any]:
    """{"title", "subtitle", "author", "numbers", "card", "sample", "colophon"}."""
    return {
        "kind": "groundup · report",
        "title": title or run_data["name"],
        "subtitle": "A language model built from the ground up"
        if not run_data["recipe"].get("base")
        else "A language model made from one that exists",
        "author": author,
        "numbers": _numbers(run_data),
        "card": [[name, value if isinstance(value, list) else [value]] for name, value in _card(run_data)],
        "sample": _sample(run_data),
        "colophon": _colophon(run_data),
    }


def describe_model(model: dict[str, Any]) -> str:
    """Architecture and dimensions of a model in a phrase."""
    keys = model["num_kv_heads"]
    heads = f"{model['num_heads']} heads" + (f" ({keys} key-value heads)" if keys != model["num_heads"] else "")
    return (
        f"{model['architecture'].replace('_', '-')} transformer, {model['num_layers']} blocks, "
        f"hidden size {model['hidden_size']:,}, {heads}"
    )


def _numbers(run_data: dict[str, Any]) -> list[dict[str, str]]:
    base, scores, quantized = (stage_metrics(run_data, stage) for stage in ("base", "scores", "quantized"))
    numbers = []
    if base:
        numbers.append((formatting.short_count(base["parameters"]), "parameters"))
        if "tokens" in base:
            numbers.append((formatting.short_count(base["tokens"]), "training tokens"))
    if "bits_per_byte" in scores:
        numbers.append((f"{scores['bits_per_byte']:.2f}", "bits per byte, held out"))
    if quantized:
        numbers.append((formatting.byte_size(quantized["bytes"]["after"]), f"quantized to {quantized['bits']} bits"))
    return [{"value": value, "label": label} for value, label in numbers]


def _card(run_data: dict[str, Any]) -> list[tuple[str, Cell]]:
    rows: list[tuple[str, Cell]] = []
    model = run_data["plan"].get("model")
    if model:
        description = describe_model(model)
        rows.append(("Model", description[0].upper() + description[1:]))
        rows.append(("Context", f"{model['context_length']:,} tokens; vocabulary of {model['vocab_size']:,}"))
    if data := stage_metrics(run_data, "data"):
        kept = sum(row["kept"]["bytes"] for row in data["sources"].values())
        rows.append(("Data", f"{formatting.byte_size(kept)} of text: {formatting.join_words(list(data['sources']))}"))
    base = stage_metrics(run_data, "base")
    if "format" in base:
        rows.append(("Base", f"{base['model']} ({base['format']})"))
    if "steps" in base and (seconds := stage_seconds(run_data, "base")):
        processor = run_data["stages"]["base"]["provenance"].get("processor", "one machine")
        steps = formatting.pluralize(base["steps"], "step")
        rows.append(("Trained", f"{steps} in {formatting.duration(seconds)} on {processor}"))
    scores = stage_metrics(run_data, "scores")
    if masked := masked_lm_scores(run_data):
        rows.append(("Scores", f"{formatting.percent(masked['accuracy'], 1)} accuracy on masked tokens"))
    if "bits_per_byte" in scores:
        bounds = scores["bits_per_byte_interval"]
        interval = f" (95% interval {formatting.interval(bounds, 2)})" if bounds else ""
        strongest = strongest_baseline(scores)
        baseline = f"; strongest baseline, {strongest[0]}: {strongest[1]:.2f}" if strongest else ""
        rows.append(("Scores", f"{scores['bits_per_byte']:.2f} bits per byte of held-out text{interval}{baseline}"))
    if chat := stage_metrics(run_data, "chat"):
        rows.append(("Fine-tuning" if "task" in chat else "Chat", _describe_chat(chat)))
    if quantized := stage_metrics(run_data, "quantized"):
        rows.append((f"{quantized['bits']}-bit model", _describe_quantization(quantized)))
    warnings = check_run({name: each["metrics"] for name, each in run_data["stages"].items()})
    rows += [("Warning", text) for text in warnings[:MAX_WARNINGS]]
    if (more := len(warnings) - MAX_WARNINGS) > 0:
        rows.append(("Warning", f"{more} more under Evaluation"))
    rows.append(("Limitations", "Generated text can be false, offensive or unsafe."))
    last = last_model_stage(run_data["stages"])
    if last:
        stage = run_data["stages"][last]
        rows.append(("Fingerprint", [code(stage["fingerprint"][:16]), f" of {stage['folder']}"]))
    return rows


def _describe_chat(chat: dict[str, Any]) -> str:
    number = chat.get("conversations", {}).get("train")
    data = f"on {formatting.pluralize(number, 'conversation')}, " if number else ""
    if examples := chat.get("examples", {}).get("train"):
        data = f"for {chat['task']} on {formatting.pluralize(examples, 'example')}, "
    return f"fine-tuned {data}{'with LoRA' if chat.get('method') == 'lora' else 'all weights'}"


def _describe_quantization(quantized: dict[str, Any]) -> str:
    before, after = quantized["bytes"]["before"], quantized["bytes"]["after"]
    description = (
        f"{formatting.byte_size(after)} (float: {formatting.byte_size(before)}), {quantized['method'].upper()}"
    )
    held_out = quantized.get("held_out", {})
    if "float" in held_out and quantized["method"] in held_out:
        cost = held_out[quantized["method"]]["bits_per_byte"] - held_out["float"]["bits_per_byte"]
        description += f", {cost:+.3f} bits per byte" if cost >= MEASURABLE_BITS else ", no measurable loss"
    return description


def _sample(run_data: dict[str, Any]) -> dict[str, str] | None:
    """A sample for the cover: a chat answer, else a continuation."""
    if answers := stage_metrics(run_data, "chat").get("answers"):
        first = answers[0]
        return {
            "prompt": formatting.excerpt(first["prompt"], 80, 2),
            "reply": formatting.excerpt(first["answer"], 160, 3),
        }
    if samples := stage_metrics(run_data, "scores").get("samples"):
        first = samples[0]
        return {"prompt": formatting.excerpt(first["prompt"], 80, 2), "text": formatting.excerpt(first["text"], 200, 3)}
    return None


def _colophon(run_data: dict[str, Any]) -> str:
    for stage in reversed(list(run_data["stages"].values())):
        provenance = stage["provenance"]
        if version := provenance.get("packages", {}).get("groundup"):
            commit = f", commit {provenance['commit']}" if provenance.get("commit") else ""
            return f"Made with groundup {version}{commit}"
    return "Made with groundup"
