"""`groundup init --model`: a recipe that starts from a model that exists."""

from collections.abc import Sequence
from pathlib import Path

from groundup.artifacts.errors import UserError
from groundup.plan.init.init_examples import first_fields
from groundup.plan.init.init_recipe import RecipeData, check_hardware, conversation_tables, source_table, to_toml

MODEL_GOALS = {
    "finetune": ("finetune", "export", "report"),
    "preferences": ("preference", "export", "report"),
    "rewards": ("reinforcement", "export", "report"),
    "quantize": ("quantize", "report"),
    "evaluate": ("evaluate", "report"),
}
"""Tables of each goal, beyond [base]."""
LEARNT = {
    "finetune": ("conversations", "a `messages` list, or prompt and completion"),
    "preferences": ("preferences", "prompt, chosen and rejected, or prompt, completion and label"),
    "rewards": ("problems", "prompt and answer, or prompt and tests"),
}
"""What each goal learns from, and the fields of its files."""


LABEL_FIELDS = {"label", "kto_tag"}
TEST_FIELDS = {"tests", "test_list", "test"}


def check_model_goal(goal: str | None, model: str | None, data: Sequence[str], chat: Sequence[str]) -> str:
    """The goal. Raises UserError for another goal, a missing model, and a goal without what it needs."""
    if goal not in MODEL_GOALS:
        raise UserError(f"--model with --goal {goal}: expected one of {', '.join(MODEL_GOALS)}")
    if model is None or not Path(model).expanduser().exists():
        hint = "a Hugging Face folder, a .gguf file or a run"
        if model and model.count("/") == 1 and not Path(model).parent.exists():
            hint += f"; models are not downloaded here: hf download {model} --local-dir {Path(model).name}"
        raise UserError(f"--goal {goal}: no model at --model {model}", hint=hint)
    if goal in LEARNT and not chat:
        what, fields = LEARNT[goal]
        raise UserError(f"--goal {goal}: no {what}", hint=f"--chat FILE: JSON, CSV or Parquet with {fields}")
    if goal == "evaluate" and len(data) != 1:
        raise UserError(
            f"--goal evaluate: {len(data)} texts, expected one",
            hint="--data: a UTF-8 text file, a folder of them or a glob",
        )
    return goal


def model_recipe_toml(goal: str, model: str, text: Sequence[str], data: RecipeData, hardware: str, name: str) -> str:
    """The TOML text of a recipe; `text` as the command line gave it, and `data` as it was found."""
    writers = {
        "finetune": _finetune, "preference": _preference, "reinforcement": _reinforcement, "quantize": _quantize,
        "evaluate": _evaluate,
    }  # fmt: skip
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
    return f"[finetune]\n{_prompts(data)}\n{conversation_tables(data.conversations)}"


def _preference(text: Sequence[str], data: RecipeData) -> str:
    fields = _fields(data)
    labelled = not {"chosen", "rejected"} <= fields and fields & LABEL_FIELDS
    loss = (
        'loss = "kto"  # answers with labels' if labelled else 'loss = "dpo"  # groundup explain dpo names the others'
    )
    return f"[preference]\n{loss}\n{_prompts(data)}\n{_sources('preference', data)}"


def _reinforcement(text: Sequence[str], data: RecipeData) -> str:
    kind = "tests" if _fields(data) & TEST_FIELDS else "answer"
    meaning = "the code passes the problem's tests" if kind == "tests" else "the final answer is that of the problem"
    rewards = f'rewards = [{{ kind = "{kind}" }}]  # 1 if {meaning}; groundup explain reinforcement.rewards'
    return f"[reinforcement]\n{rewards}\n{_prompts(data)}\n{_sources('reinforcement', data)}"


def _fields(data: RecipeData) -> set[str]:
    found = (first_fields(Path(path).expanduser()) for path in data.conversations)
    return {name.lower() for names in found for name in names}


def _prompts(data: RecipeData) -> str:
    return f"prompts = {to_toml(list(data.questions))}\n" if data.questions else ""


def _sources(table: str, data: RecipeData) -> str:
    names = enumerate(data.conversations, start=1)
    return "\n".join(f'[[{table}.sources]]\nname = "file-{number}"\npath = {to_toml(path)}\n' for number, path in names)


def _quantize(text: Sequence[str], data: RecipeData) -> str:
    return "[quantize]\n" + ("" if data.sources else "# Without [data], calibrated on text that the model writes.\n")


def _evaluate(text: Sequence[str], data: RecipeData) -> str:
    return f"[evaluate]\ntext = {to_toml(text[0])}\n"
