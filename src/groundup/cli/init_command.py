"""The command init: questions, a look at the data, and a recipe."""

import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.recipe.bundled_recipes import BUNDLED_RECIPES, bundled_recipe

SAMPLE = "sample"
SPEED_TOLERANCE = 1.5
"""Ratio to the speed of the table of devices, either way, that is taken for noise: the same steps on the same idle cores of a
shared host took from 0.41 to 0.65 seconds within a day."""
SMALL_CHAT = 10_000_000
"""Parameters below which init says what a chat model can learn."""
MIN_TOKENS = 1_000
"""Less text is a mistake: nothing can be learnt from it."""


def init(
    out: Annotated[
        Path | None, typer.Option(help="Recipe file to write; default: named by data and goal, or by --recipe.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Copy a recipe that comes with groundup: {', '.join(BUNDLED_RECIPES)}."),
    ] = None,
    goal: Annotated[
        str | None,
        typer.Option(
            help="base, code, chat, chat-4bit, encoder, search, classify, translate, summarize; "
            "with --model: finetune, preferences, rewards, quantize, evaluate."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Training text: file, folder, archive, glob, URL, NAME==VERSION of a package, or `sample`; may be repeated.",
        ),
    ] = None,
    chat: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="What is learnt: conversations, text pairs, labelled texts, preferences, or problems with answers "
            "(JSON, CSV, Parquet, .po, folders); may be repeated.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model that exists: Hugging Face folder, .gguf file or run.")
    ] = None,
    hardware: Annotated[str | None, typer.Option(help="Device type, for example cpu-2 or h100.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Number of devices.")] = 1,
    hours: Annotated[float | None, typer.Option(help="Hours for pretraining.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Take the default of every answer that is not given.")
    ] = False,
) -> None:
    """Write a recipe for a goal, text, hardware and budget, after a look at the text.

    On a terminal it asks for every answer that no option gives; elsewhere, and with --yes, it takes the defaults.

    Example: groundup init --goal chat --data texts --hardware cpu-2 --hours 0.5
    Example: groundup init --goal finetune --model SmolLM2.gguf --chat conversations.jsonl
    Example: groundup init --goal preferences --model SmolLM2.gguf --chat pairs.jsonl
    """
    from groundup.artifacts.machine import Machine
    from groundup.finetune.training_data.input_check import count_inputs
    from groundup.plan import init_recipe
    from groundup.plan.init_model_recipe import MODEL_GOALS
    from groundup.plan.plan_table import describe_data, describe_time
    from groundup.stage_runs import estimate_run_seconds

    if recipe is not None:
        if (goal, data, chat, model, hardware, hours) != (None,) * 6:
            raise UserError("--recipe with answers to questions", hint="groundup plan and run take --set KNOB=VALUE")
        _write(out or Path(f"{recipe}.toml"), bundled_recipe(recipe))
        return
    if out is not None:
        _check_unused(out)
    if model is not None or goal in MODEL_GOALS:
        _init_from_model(goal, model, data or [], chat or [], hardware or _this_cpu(), out)
        return
    is_asking = not yes and sys.stdin.isatty()
    checks: dict[str, Callable[[Any], Any]] = {
        "goal": init_recipe.check_goal, "hardware": init_recipe.check_hardware, "hours": init_recipe.check_hours,
    }  # fmt: skip
    given = {"goal": goal, "hardware": hardware, "hours": hours}
    answers = {name: checks[name](value) for name, value in given.items() if value is not None}
    if data or not is_asking:
        found = look_at_data(data, chat)
    else:
        found = _ask(
            "Training text? A file, folder, archive, glob or URL, or a sample.",
            SAMPLE,
            lambda text: look_at_data([text], chat),
        )
    for line in found.lines:
        print(line)

    def check_goal(answer: str) -> str:
        _check_chat(answer, chat or [])
        init_recipe.check_conversations(init_recipe.check_goal(answer), found.data)
        return answer

    checks["goal"] = check_goal
    devices_known = {
        name: f"{spec.memory_bytes / 1e9:.0f} GB, {spec.peak_flops / 1e12:g} TFLOP/s"
        for name, spec in init_recipe.DEVICES.items()
    }
    questions: dict[str, tuple[str, str, dict[str, str]]] = {
        "goal": ("Goal?", found.default_goal, init_recipe.GOAL_MEANINGS),
        "hardware": ("Device?", _this_cpu(), devices_known),
        "hours": ("Hours of pretraining?", "1", {}),
    }
    for name, (question, default, choices) in questions.items():
        if name not in answers and is_asking:
            for choice, meaning in choices.items():
                print(f"  {choice:<10} {meaning}", file=sys.stderr)
            answers[name] = _ask(question, default, checks[name])
        else:
            answers[name] = checks[name](answers.get(name, default))
    out = out or Path(f"{found.name}-{answers['goal']}.toml")
    _check_unused(out)
    options = answers | {"data": found.data, "devices": devices, "name": _recipe_name(out.stem)}
    text, planned = init_recipe.recipe_toml(**options)
    if answers["hardware"] == _this_cpu() and (speed := _measure_speed(planned, answers["hardware"])):
        text, planned = init_recipe.recipe_toml(**options, relative_speed=speed)
    if planned.recipe.finetune is not None and (read := count_inputs(planned.recipe.finetune)):
        print(f"for fine-tuning: {read.describe()}")
    summary = planned.summary()
    if "data" in summary:
        summary["data"]["estimated"] = True
        print(f"expect: {describe_data(summary)}")
    if answers["goal"] in init_recipe.CHAT_GOALS and planned.parameters and planned.parameters.total < SMALL_CHAT:
        print(
            "a chat model of this size knows the answers that it was trained on, and little else; a downloaded model knows more: "
            "groundup init --goal finetune --model PATH --chat FILE"
        )
    if stages := estimate_run_seconds(planned, Machine()):
        print(f"time: {describe_time(summary | {'stage_seconds': stages})}")
    _write(out, text)


def _this_cpu() -> str:
    """Name of this machine in the table of devices."""
    return "cpu-8" if (os.cpu_count() or 1) >= 8 else "cpu-2"


def _measure_speed(planned: Any, hardware: str) -> float | None:
    """Speed of this machine, relative to `hardware`; None if it is about the same."""
    from groundup.plan.derive import require_derived, resolved_model_config
    from groundup.train.relative_speed import measure_relative_speed

    if planned.recipe.train is None:
        return None
    batch_tokens = require_derived(planned.recipe.train.batch_tokens, "train.batch_tokens")
    speed = measure_relative_speed(hardware, resolved_model_config(planned.recipe), batch_tokens)
    if 1 / SPEED_TOLERANCE < speed < SPEED_TOLERANCE:
        return None
    print(f"measured: this machine trains at {speed:.2g} times the speed of {hardware}")
    return float(f"{speed:.2g}")


def _check_unused(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists", hint="choose another name with --out")


def _write(out: Path, text: str) -> None:
    _check_unused(out)
    write_atomically(out, text.encode())
    print(f"wrote {out}\nnext: groundup plan {out}")


class DataFound:
    """What `look_at_data` found: the data of a recipe, lines about it, a name and a goal that it suggests."""

    def __init__(self, data: Any, lines: list[str], name: str, default_goal: str):
        self.data, self.lines, self.name, self.default_goal = data, lines, name, default_goal


def look_at_data(paths: list[str] | None, chat: list[str] | None) -> DataFound:
    """Look at a sample of the files. Raises UserError if a path matches no file."""
    from groundup.plan.init_recipe import RecipeData

    for path in chat or ():
        if not Path(path).expanduser().exists():
            raise UserError(f"--chat {path}: no such file", hint="JSON or CSV with conversations, or a .po catalogue")
    if not paths or paths == [SAMPLE]:
        data = RecipeData(conversations=chat or (), questions=_first_questions(chat or []))
        return DataFound(data, [], SAMPLE, "chat-4bit")
    from groundup.artifacts.machine import Machine
    from groundup.artifacts.progress import auto_progress
    from groundup.data.survey import conversations_as_text, describe_tokens, parse_source, survey_files, without_filters

    specs = []
    for path in paths:
        specs.append(parse_source(path, [spec.name for spec in specs]))
    survey = survey_files(specs, Machine(progress=auto_progress()))
    if short := survey.short_sources:
        specs = [without_filters(spec) if spec.name in short else spec for spec in specs]
        survey = survey_files(specs, Machine())
    lines = survey.describe() if survey.files else ["the text is not on this machine: the run will look at it"]
    if short:
        lines.append(f"short texts in {', '.join(sorted(short))}: without filters and masking, deduplicated only")
    if survey.conversations and not survey.text_sources:  # there is no other text to learn the language from
        talks = survey
        specs = [conversations_as_text(spec, talks.conversations) for spec in specs]
        survey = survey_files(specs, Machine())
        survey.conversations, survey.conversation_languages = talks.conversations, talks.conversation_languages
        lines = [*survey.describe(), "only conversations: they are the text of pretraining, too"]
    specs = [spec for spec in specs if spec.name in survey.text_sources]
    languages = survey.main_languages
    talked = survey.conversation_languages.most_common(1)
    fits = not talked or not languages or talked[0][0] in languages
    conversations = chat or (survey.conversations if fits else [])
    if not fits:
        lines.append(f"the conversations are in {talked[0][0]}, which the text is not: left out")
    if survey.files and survey.tokens < MIN_TOKENS:
        found = f"{describe_tokens(survey.tokens)} tokens of text" if survey.text_bytes else "no text"
        hint = "; ".join(lines) or "text, Markdown, HTML, code, tables, JSON lines, dumps or archives of them"
        raise UserError(
            f"--data {' '.join(paths[:3])}: {found} in {survey.files:,} file{'s' * (survey.files != 1)}", hint=hint
        )
    known = bool(survey.files)
    data = RecipeData(
        specs, languages, survey.text_bytes if known else None, survey.tokens if known else None, survey.prompts,
        conversations, _first_questions(conversations),
    )  # fmt: skip
    is_code = set(survey.kinds) == {"code"}
    has_chat = bool(conversations) or languages[:1] == ["en"]
    return DataFound(data, lines, specs[0].name, "code" if is_code else "chat-4bit" if has_chat else "base")


MAX_MESSAGE = 60
"""Characters of a program's message that is a prompt."""


def _first_questions(paths: list[str]) -> list[str]:
    """The first two different user turns of the conversations."""
    from groundup.data.readers.gettext import parse_gettext
    from groundup.data.survey import iter_turns

    def read_turns(file: Path) -> Iterator[str]:
        if file.suffix != ".po":
            return iter_turns(file, "user")
        entries = parse_gettext(file.read_text(encoding="utf-8", errors="replace"), file.name)
        return (entry[0] for entry in entries if isinstance(entry, list) and len(entry[0]) <= MAX_MESSAGE)

    files = [file for path in paths if (file := Path(path).expanduser()).is_file()]
    turns = (text for file in files for text in read_turns(file))
    return list(dict.fromkeys(islice(turns, 100)))[:2]


def _check_chat(goal: str, paths: list[str]) -> None:
    """Raises UserError for a file that the goal does not learn from: it would be ignored."""
    from groundup.data.survey import iter_turns
    from groundup.plan.init_examples import EXAMPLE_FILES, describe_fields, example_kind, first_fields
    from groundup.plan.init_recipe import CHAT_GOALS, PAIR_GOALS

    for path, file in ((path, Path(path).expanduser()) for path in paths):
        if file.is_file() and not file.stat().st_size:
            raise UserError(f"--chat {path}: an empty file", hint="what wrote it has failed: write it again")
        if goal in EXAMPLE_FILES:
            is_read, expected = example_kind(file) in EXAMPLE_FILES[goal][0], EXAMPLE_FILES[goal][1]
        elif {"chosen", "rejected"} <= set(first_fields(file)) and goal != "preferences":
            raise UserError(
                f"--chat {path}: pairs of a chosen and a rejected answer",
                hint="--goal preferences with --model writes a recipe with the table [preference], which learns from them",
            )
        elif goal in ("preferences", "rewards"):  # the stage's own check reads them
            continue
        elif goal in (*CHAT_GOALS, *PAIR_GOALS, "finetune"):
            is_read = file.is_dir() or file.suffix == ".po" or any(True for _ in iter_turns(file))
            expected = "JSON, CSV or Parquet with a `messages` list, prompt and completion, ..., or a .po catalogue"
        else:
            raise UserError(f"--chat {path}: --goal {goal} learns from no examples", hint="leave --chat out")
        if not is_read:
            raise UserError(
                f"--chat {path}: nothing for --goal {goal} in it", hint=f"expected {expected}{describe_fields([path])}"
            )


def _init_from_model(
    goal: str | None, model: str | None, data: list[str], chat: list[str], hardware: str, out: Path | None
) -> None:
    """Write a recipe with [base], after a look at the model and at what it is to learn."""
    from groundup.artifacts.machine import Machine
    from groundup.data.inputs import require_local_files
    from groundup.finetune.finetune_plan import estimate_finetuning
    from groundup.finetune.preference.preference_plan import estimate_preference
    from groundup.finetune.reinforcement.reinforcement_cost import estimate_reinforcement
    from groundup.plan import plan_table
    from groundup.plan.init_model_recipe import check_model_goal, model_recipe_toml
    from groundup.plan.stage_support import check_stages
    from groundup.recipe import parse_recipe
    from groundup.stage_runs import derive_recipe

    goal = check_model_goal(goal, model, data, chat)
    assert model is not None
    if goal == "evaluate":  # of a text as it is, however short
        require_local_files("--data", data[0])
    _check_chat(goal, chat)
    found = look_at_data(None if goal == "evaluate" else data or None, chat)
    for line in found.lines:
        print(line)
    out = out or Path(f"{_recipe_name(Path(model).resolve().stem)}-{goal}.toml")
    text = model_recipe_toml(goal, model, data, found.data, hardware, _recipe_name(out.stem))
    recipe = derive_recipe(parse_recipe(tomllib.loads(text))).recipe
    check_stages(recipe)
    if cost := estimate_finetuning(recipe, Machine()):
        print(f"expect: {plan_table.describe_finetuning(cost)}")
    if cost := estimate_preference(recipe, Machine()):
        print(f"expect: {plan_table.describe_preference(cost)}")
    if cost := estimate_reinforcement(recipe, Machine()):
        print(f"expect: {plan_table.describe_reinforcement(cost)}")
    _write(out, text)


def _recipe_name(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-") or "recipe"


def _ask(question: str, default: str, check: Callable[[str], Any]) -> Any:
    """The answer on the terminal, asked again until `check` takes it."""
    while True:
        try:
            return check(typer.prompt(question, default, err=True))
        except UserError as error:
            print(f"{error.message}{f' ({error.hint})' if error.hint else ''}", file=sys.stderr)
