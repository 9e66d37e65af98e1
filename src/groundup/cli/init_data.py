"""What `groundup init` finds in the data: kinds, languages, conversations, and the goal that they suggest."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError

SAMPLE = "sample"
MIN_TOKENS = 1_000
"""Less text is a mistake: nothing can be learnt from it."""


class DataFound:
    """What `look_at_data` found: the data of a recipe, lines about it, a name and a goal that it suggests."""

    def __init__(self, data: Any, lines: list[str], name: str, default_goal: str):
        self.data, self.lines, self.name, self.default_goal = data, lines, name, default_goal


def look_at_data(paths: list[str] | None, chat: list[str] | None) -> DataFound:
    """Look at a sample of the files. Raises UserError if a path matches no file."""
    from groundup.plan.init.init_recipe import RecipeData

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


def check_chat(goal: str, paths: list[str]) -> None:
    """Raises UserError for a file that the goal does not learn from: it would be ignored."""
    from groundup.data.survey import iter_turns
    from groundup.plan.init.init_examples import EXAMPLE_FILES, describe_fields, example_kind, first_fields
    from groundup.plan.init.init_recipe import CHAT_GOALS, PAIR_GOALS

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
