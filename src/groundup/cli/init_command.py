"""The command init: questions, a look at the data, plans side by side, and a recipe."""

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.recipe.bundled_recipes import BUNDLED_RECIPES, bundled_recipe


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
    money: Annotated[
        str | None, typer.Option(metavar="USD", help="Money for rented hardware; offers the best plan for it.")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Device type, for example cpu-2 or h100; default: this machine.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Number of devices; default: 1, or what money buys.")
    ] = None,
    hours: Annotated[str | None, typer.Option(help="Hours for pretraining; default: several are offered.")] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="small, good or best; default: best with --money, good with --hours, else small."
        ),
    ] = None,
    form: Annotated[bool, typer.Option("--form", help="Ask in a form in the browser, served on this machine.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the form; 0: any free port.")] = 0,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Take the default of every answer that is not given.")
    ] = False,
) -> None:
    """Write a recipe for a goal, text, money, hardware and time, after a look at the text.

    It offers up to three plans side by side: small now, good tonight, best for the money; with cost, time and expected loss.
    On a terminal it asks for every answer that no option gives; elsewhere, and with --yes, it takes the defaults.

    Example: groundup init --goal chat --data texts --hardware cpu-2 --hours 0.5
    Example: groundup init --data texts --money 50
    Example: groundup init --form
    Example: groundup init --goal finetune --model SmolLM2.gguf --chat conversations.jsonl
    Example: groundup init --goal preferences --model SmolLM2.gguf --chat pairs.jsonl
    """
    from groundup.cli.init_data import SAMPLE
    from groundup.cli.init_session import (
        InitSession,
        check_unused,
        paths_or_sample,
        recipe_name,
        this_machine,
        write_recipe,
    )
    from groundup.plan.init.init_model_recipe import MODEL_GOALS
    from groundup.plan.init.init_offers import OFFER_MEANINGS, BudgetAnswers, default_offer, format_offers

    answers = {"goal": goal, "money": money, "hardware": hardware, "hours": hours}
    if recipe is not None:
        if any(given is not None for given in (*answers.values(), data, chat, model, devices, plan)):
            raise UserError("--recipe with answers to questions", hint="groundup plan and run take --set KNOB=VALUE")
        write_recipe(out or Path(f"{recipe}.toml"), bundled_recipe(recipe))
        return
    if out is not None:
        check_unused(out)
    if form:
        _serve_form({**answers, "data": "\n".join(data or [SAMPLE]), "chat": "\n".join(chat or [])}, devices, out, port)
        return
    if model is not None or goal in MODEL_GOALS:
        _init_from_model(goal, model, data or [], chat or [], hardware or this_machine(), out)
        return
    is_asking = not yes and sys.stdin.isatty()
    session = InitSession(print)
    _check_given(answers)
    if data or not is_asking:
        found = session.look(data, chat)
    else:
        words = "Training text? A file, folder, archive, glob or URL, or a sample."
        found = _ask(words, SAMPLE, lambda text: session.look(paths_or_sample(text), chat))
    for line in found.lines:
        print(line)
    checked: dict[str, Any] = {}
    for question in session.questions(chat):
        given = answers[question.name]
        if given is None and is_asking:
            for choice, meaning in question.choices.items():
                print(f"  {choice:<10} {meaning}", file=sys.stderr)
            checked[question.name] = _ask(question.words, question.default, question.check)
        elif given is not None or question.name == "goal":
            checked[question.name] = question.check(question.default if given is None else given)
    chosen_goal = checked.pop("goal")
    budget = BudgetAnswers(devices=devices, **checked)
    out = out or Path(f"{found.name}-{chosen_goal}.toml")
    check_unused(out)
    print(format_offers(session.offer(chosen_goal, budget, recipe_name(out.stem))))
    if plan is None and is_asking and len(session.plans) > 1:
        for name in session.plans:
            print(f"  {name:<10} {OFFER_MEANINGS[name]}", file=sys.stderr)
        default = default_offer(budget)
        chosen = _ask("Plan?", default, lambda answer: session.choose(answer, budget))
    else:
        chosen = session.choose(plan, budget)
    print(f"plan: {chosen.offer.name}")
    for line in session.describe(chosen, chosen_goal):
        print(line)
    write_recipe(out, chosen.text)


def _check_given(answers: dict[str, str | None]) -> None:
    """Raises UserError for a wrong option, before the data are read."""
    from groundup.plan.init.init_offers import check_money, check_optional_hardware, check_optional_hours
    from groundup.plan.init.init_recipe import check_goal

    checks: dict[str, Callable[[Any], Any]] = {
        "goal": check_goal, "money": check_money, "hardware": check_optional_hardware, "hours": check_optional_hours,
    }  # fmt: skip
    for name, value in answers.items():
        if value is not None:
            checks[name](value)


def _serve_form(given: dict[str, str | None], devices: int | None, out: Path | None, port: int) -> None:
    from groundup.cli.init_form import InitForm
    from groundup.viewers.form_server import serve_form

    serve_form(InitForm(given, devices, out), port)


def _init_from_model(
    goal: str | None, model: str | None, data: list[str], chat: list[str], hardware: str, out: Path | None
) -> None:
    """Write a recipe with [base], after a look at the model and at what it is to learn."""
    from groundup.artifacts.machine import Machine
    from groundup.cli.init_data import check_chat, look_at_data
    from groundup.cli.init_session import recipe_name, write_recipe
    from groundup.data.inputs import require_local_files
    from groundup.finetune.finetune_plan import estimate_finetuning
    from groundup.finetune.preference.preference_plan import estimate_preference
    from groundup.finetune.reinforcement.reinforcement_cost import estimate_reinforcement
    from groundup.plan import plan_table
    from groundup.plan.checks.stage_support import check_stages
    from groundup.plan.init.init_model_recipe import check_model_goal, model_recipe_toml
    from groundup.recipe import parse_recipe
    from groundup.stage_runs import derive_recipe

    goal = check_model_goal(goal, model, data, chat)
    assert model is not None
    if goal == "evaluate":  # of a text as it is, however short
        require_local_files("--data", data[0])
    check_chat(goal, chat)
    found = look_at_data(None if goal == "evaluate" else data or None, chat)
    for line in found.lines:
        print(line)
    out = out or Path(f"{recipe_name(Path(model).resolve().stem)}-{goal}.toml")
    text = model_recipe_toml(goal, model, data, found.data, hardware, recipe_name(out.stem))
    recipe = derive_recipe(parse_recipe(tomllib.loads(text))).recipe
    check_stages(recipe)
    if cost := estimate_finetuning(recipe, Machine()):
        print(f"expect: {plan_table.describe_finetuning(cost)}")
    if cost := estimate_preference(recipe, Machine()):
        print(f"expect: {plan_table.describe_preference(cost)}")
    if cost := estimate_reinforcement(recipe, Machine()):
        print(f"expect: {plan_table.describe_reinforcement(cost)}")
    write_recipe(out, text)


def _ask(question: str, default: str, check: Callable[[str], Any]) -> Any:
    """The answer on the terminal, asked again until `check` takes it."""
    while True:
        try:
            return check(typer.prompt(question, default, err=True))
        except UserError as error:
            print(f"{error.message}{f' ({error.hint})' if error.hint else ''}", file=sys.stderr)
