"""What the model says: continuations of the base model, answers of the chat model."""

from typing import Any

from groundup.report import formatting
from groundup.report.elements import Cell, Element, chat, key_values, lead_in, paragraph, sample, section
from groundup.report.run_data import stage_metrics

MAX_CHARACTERS = 900
MAX_TOPICS = 8


def samples_section(facts: dict[str, Any]) -> dict[str, Any] | None:
    found = stage_metrics(facts, "scores").get("samples")
    if not found:
        return None
    settings = facts["stages"]["scores"]["sections"].get("evaluate") or {}
    warmth = settings.get("temperature")
    how = f" at temperature {warmth:g}" if warmth is not None else ""
    return section(
        "In its own words",
        [
            paragraph(
                f"The base model goes on from a few beginnings, drawn{how}, not chosen: these are the first that came, and "
                "the same recipe gives them again."
            ),
            *[sample(_short(row["prompt"], 300), _short(row["text"], MAX_CHARACTERS)) for row in found],
        ],
    )


def chat_section(facts: dict[str, Any]) -> dict[str, Any] | None:
    found = stage_metrics(facts, "chat")
    if not found:
        return None
    answers = [
        chat([("user", _short(row["prompt"], 300)), ("assistant", _short(row["answer"], MAX_CHARACTERS))])
        for row in found.get("answers", [])
    ]
    words = lead_in("The likeliest answers to what the recipe asks it:") if answers else None
    return section("The chat", [_taught(found), key_values(_knobs(found)), words, *answers])


def _taught(found: dict[str, Any]) -> Element:
    number = found.get("conversations", {}).get("train")
    how_many = formatting.pluralize(number, "conversation") if number else "conversations"
    return paragraph(
        f"The base model only goes on from a text. To answer, it was shown {how_many} in a fixed layout, and "
        "learned to predict what the assistant says in them, and nothing else."
    )


def _knobs(found: dict[str, Any]) -> list[tuple[str, Cell]]:
    rows: list[tuple[str, Cell]] = []
    if told := found.get("conversations", {}):
        dropped = sum(told.get("dropped", {}).values())
        words = f"{told.get('read', 0):,} read, {dropped:,} dropped; {told.get('validation', 0):,} held out"
        rows.append(("Conversations", words))
        topics = sorted(told.get("topics", {}).items(), key=lambda item: -item[1])
        if names := [f"{name} ({number:,})" for name, number in topics[:MAX_TOPICS] if name]:
            rows.append(("Topics", ", ".join(names) + (" and others" if len(topics) > MAX_TOPICS else "")))
    trained, whole = (found.get("parameters", {}).get(key) for key in ("trained", "all"))
    how = "LoRA: low-rank additions to the weights" if found.get("method") == "lora" else "all weights"
    if trained and whole:
        how += f", {formatting.count(trained)} trained parameters ({formatting.percent(trained, whole)})"
    rows.append(("Method", how))
    if found.get("steps"):
        passes = f", {formatting.three_digits(found['epochs'])} passes" if found.get("epochs") else ""
        rows.append(("Training", formatting.pluralize(found["steps"], "step") + passes))
    before, after = (found.get("loss", {}).get(f"validation_{when}") for when in ("start", "end"))
    if before is not None and after is not None:
        words = f"{before:.2f} before, {after:.2f} after, nats for each token of a held-out answer"
        rows.append(("Loss", words))
    return rows


def _short(text: str, characters: int) -> str:
    return formatting.excerpt(text, characters, 24) if text.strip() else "(nothing)"
