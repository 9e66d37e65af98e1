"""`groundup init --model`: a recipe that starts from a model that exists."""

from collections.abc import Sequence
from pathlib import Path

from groundup.artifacts.errors import UserError
from groundup.plan.init_recipe import RecipeData, check_hardware, conversation_tables, source_table, to_toml

MODEL_GOALS = {
    "finetune": ("finetune", "export", "report"),
    "quantize": ("quantize", "report"),
    "evaluate": ("evaluate", "report"),
}
"""Tables of each goal, beyond [base]."""


def check_model_goal(goal: str | None, model: str | None, data: Sequence[str], chat: Sequence[str]) -> str:
    """The goal. Raises UserError for another goal, a missing model, and a goal without what it needs."""
    if goal not in MODEL_GOALS:
        raise UserError(f"--model with --goal {goal}: expected one of {', '.join(MODEL_GOALS)}")
    if model is None or not Path(model).expanduser().exists():
        raise UserError(
            f"--goal {goal}: no model at --model {model}", hint="a Hugging Face folder, a .gguf file or a run"
        )
    if goal == "finetune" and not chat:
        raise UserError("--goal finetune: no conversations", hint="--chat FILE: JSON or CSV, such as a `messages` list")
    if goal == "evaluate" and len(data) != 1:
        raise UserError(
            f"--goal evaluate: {len(data)} texts, expected one",
            hint="--data: a UTF-8 text file, a folder of them or a glob",
        )
    return goal


def model_recipe_toml(goal: str, model: str, text: Sequence[str], data: RecipeData, hardware: str, name: str) -> str:
    """The TOML text of a recipe; `text` as the command line gave it, and `data` as it was found."""
    writers = {"finetune": _finetune, "quantize": _quantize, "evaluate": _evaluate}
    tables = [writers[table](text, data) if table in writers else f"[{table}]\n" for table in MODEL_GOALS[goal]]
    if data.sources and goal != "evaluate":
        tables.insert(0, "# Ordinary text, for scores before and after.\n" + "".join(map(source_table, data.sources)))
    return f"""\
# Written by groundup init for: {goal} of {Path(model).name} on {check_hardware(hardware)}.
# Meaning of a knob: groundup explain KNOB. Cost of the run: groundup plan RECIPE.
name = {to_toml(name)}

[budget]
hardware = {to_toml(hardware)}

[base]
model = {to_toml(model)}

{chr(10).join(tables)}"""


def _finetune(text: Sequence[str], data: RecipeData) -> str:
    prompts = f"prompts = {to_toml(list(data.questions))}\n" if data.questions else ""
    return f"[finetune]\n{prompts}\n{conversation_tables(data.conversations)}"


def _quantize(text: Sequence[str], data: RecipeData) -> str:
    return "[quantize]\n" + ("" if data.sources else "# Without [data], calibrated on text that the model writes.\n")


def _evaluate(text: Sequence[str], data: RecipeData) -> str:
    return f"[evaluate]\ntext = {to_toml(text[0])}\n"
