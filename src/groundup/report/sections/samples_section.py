"""Report sections: continuations of the base model, answers of the chat model."""

from typing import Any

from groundup.report import formatting
from groundup.report.elements import Cell, Element, chat, key_values, lead_in, paragraph, sample, section
from groundup.report.quality_checks import worse_than_baseline
from groundup.report.run_data import stage_metrics
from groundup.report.sections.scores_section import use_lines

MAX_CHARACTERS = 900
METHODS = {"lora": "LoRA: low-rank updates of the weights", "qlora": "QLoRA: low-rank updates of weights in 4 bits"}
MAX_TOPICS = 8
MAX_TRANSLATIONS = 5


def samples_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    metrics = stage_metrics(run_data, "scores").get("samples")
    if not metrics:
        return None
    settings = run_data["stages"]["scores"]["sections"].get("evaluate") or {}
    temperature = settings.get("temperature")
    how = f" at temperature {temperature:g}" if temperature is not None else ""
    return section(
        "Base model samples",
        [
            paragraph(
                f"Continuations by the base model, sampled{how} and not selected; reproducible with the same recipe."
            ),
            *[sample(_short(row["prompt"], 300), _short(row["text"], MAX_CHARACTERS)) for row in metrics],
        ],
    )


def chat_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    metrics = stage_metrics(run_data, "chat")
    if not metrics:
        return None
    scores = stage_metrics(run_data, "scores")
    if "task" in metrics:
        uses = [] if scores else [paragraph(f"{line}.") for line in use_lines(run_data)]
        return section("Fine-tuning", [_example_task(metrics), key_values(_knobs(metrics, scores)), *uses])
    samples = (metrics.get("translation") or {}).get("samples", [])[:MAX_TRANSLATIONS]
    translations = [
        chat([("user", _short(row["source"], 300)), ("assistant", _short(row["text"], MAX_CHARACTERS))])
        for row in samples
    ]
    answers = [
        chat([("user", _short(row["prompt"], 300)), ("assistant", _short(row["answer"], MAX_CHARACTERS))])
        for row in metrics.get("answers", [])
    ]
    text = lead_in("Greedy answers to the prompts of the recipe:") if answers else None
    caption = lead_in("Held-out texts, not selected:") if translations else None
    return section(
        "Chat fine-tuning",
        [_description(metrics), key_values(_knobs(metrics, scores)), text, *answers, caption, *translations],
    )


def _example_task(metrics: dict[str, Any]) -> Element:
    return paragraph(
        "The base model was fine-tuned to give the query and the text of a pair similar embeddings, and the other texts of a "
        "batch others."
        if metrics["task"] == "embedding"
        else "The base model was fine-tuned with a linear layer on the mean of its last hidden states to give a text one of "
        + ", ".join(f"{label} ({count:,})" for label, count in metrics["classification"]["labels"].items())
        + "."
    )


def _description(metrics: dict[str, Any]) -> Element:
    number = metrics.get("conversations", {}).get("train")
    conversations = formatting.pluralize(number, "conversation") if number else "conversations"
    return paragraph(
        f"The base model was fine-tuned on {conversations} in the chat template, with a loss on the assistant's tokens only."
    )


def _knobs(metrics: dict[str, Any], scores: dict[str, Any]) -> list[tuple[str, Cell]]:
    rows: list[tuple[str, Cell]] = []
    if conversations := metrics.get("conversations", {}):
        dropped = sum(conversations.get("dropped", {}).values())
        text = f"{conversations.get('read', 0):,} read, {dropped:,} dropped; {conversations.get('validation', 0):,} held out"
        rows.append(("Conversations", text))
        counts = conversations.get("dropped", {}) | conversations.get("changed", {})
        meanings = conversations.get("reasons", {})
        if losses := [f"{count:,} {meanings.get(reason, reason)}" for reason, count in counts.items()]:
            rows.append(("Dropped or changed", "; ".join(losses)))
        topics = sorted(conversations.get("topics", {}).items(), key=lambda item: -item[1])
        if names := [f"{name} ({number:,})" for name, number in topics[:MAX_TOPICS] if name]:
            rows.append(("Topics", ", ".join(names) + (" and others" if len(topics) > MAX_TOPICS else "")))
    if examples := metrics.get("examples"):
        rows.append(("Examples", f"{examples['train']:,} for training, {examples['validation']:,} held out"))
    trained, total = (metrics.get("parameters", {}).get(key) for key in ("trained", "all"))
    how = METHODS.get(metrics.get("method", ""), "all weights")
    if trained and total:
        how += f", {formatting.count(trained)} trained parameters ({formatting.percent(trained, total)})"
    rows.append(("Method", how))
    if metrics.get("steps"):
        passes = f", {formatting.three_digits(metrics['epochs'])} epochs" if metrics.get("epochs") else ""
        passes += f", learning rate {metrics['learning_rate']:g}" if metrics.get("learning_rate") else ""
        kept = formatting.kept_weights(metrics)
        rows.append(
            ("Training", formatting.pluralize(metrics["steps"], "step") + passes + (f"; {kept}" if kept else ""))
        )
    recall = metrics.get("recall") or {}
    if recall.get("questions"):
        first = f"{recall['before']} before, " if "before" in recall else ""
        rows.append(("Recall", f"{first}{recall['recalled']} after, of {recall['questions']} training questions"))
    if ordinary := metrics.get("ordinary_text"):
        text = f"{formatting.bits_before_after(ordinary)}, in bits per byte"
        text += worse_than_baseline(scores, ordinary["after"])
        rows.append(("Ordinary text", text))
    before, after = (metrics.get("loss", {}).get(f"validation_{when}") for when in ("start", "end"))
    if before is not None and after is not None:
        per = "held-out example" if "task" in metrics else "token of held-out answers"
        text = f"{before:.2f} before, {after:.2f} after, in nats per {per}"
        rows.append(("Loss", text))
    return rows


def _short(text: str, characters: int) -> str:
    return formatting.excerpt(text, characters, 24) if text.strip() else "(empty)"
