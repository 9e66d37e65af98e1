"""Preferences and labelled answers from files, in the shapes in which they are published.

{"prompt": ..., "chosen": ..., "rejected": ...}     a better and a worse answer: DPO and its kin
{"prompt": ..., "completion": ..., "label": true}   an answer, and whether it is good: KTO

Prompts and answers are texts or lists of messages. Without a prompt, it is what chosen and rejected begin with alike:
messages, or "Human:" and "Assistant:" paragraphs (Bai et al. 2022). Each pair also holds two labelled answers. A field
`tools` has the definitions for the chat template.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import (
    PROMPTS,
    TURN_LISTS,
    Messages,
    as_messages,
    question_messages,
    system_message,
    turns,
)
from groundup.data.record_files import FileRecord
from groundup.finetune.training_data.read_stats import ReadStats, RecordDropped
from groundup.finetune.training_data.record_reader import read_records
from groundup.finetune.training_data.turn_checks import check_messages, tools_of
from groundup.recipe.finetune_config import FinetuneSourceConfig
from groundup.recipe.preference_config import PreferenceConfig

PARAGRAPH = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")
LABELS = {"true": True, "1": True, "false": False, "0": False, "+1": True, "-1": False}
"""Labels in tables, in lower case."""
LABEL_NAMES = ("label", "kto_tag")
CHOSEN_NAMES, REJECTED_NAMES = ("chosen", "chosen_response"), ("rejected", "rejected_response")


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt, which ends before an assistant turn, and two answers to it, which begin with one."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    source: str = ""
    file: str = ""
    line: int = 0
    tools: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """A prompt, which ends before an assistant turn, an answer to it, and whether the answer is desirable."""

    prompt: Messages
    completion: Messages
    desirable: bool
    source: str = ""
    file: str = ""
    line: int = 0
    tools: Sequence[Any] = ()


Item = TypeVar("Item", Preference, LabelledAnswer)


def read_preferences(inputs: Iterable[FinetuneSourceConfig], machine: Machine) -> tuple[list[Preference], ReadStats]:
    """All preferences of all sources without duplicates, in the order of the recipe and the files.

    Raises UserError if a source cannot be read, or no preference is left.
    """
    fields = "`chosen` and `rejected`, with a `prompt` or alike at first"
    return read_records(inputs, machine, preferences_of, located=_located, what="preferences", fields=fields)


def read_labelled_answers(
    inputs: Iterable[FinetuneSourceConfig], machine: Machine
) -> tuple[list[LabelledAnswer], ReadStats]:
    """All labelled answers of all sources without duplicates, in the order of the recipe and the files.

    Raises UserError if a source cannot be read, or no answer is left.
    """
    fields = "`prompt`, `completion` and `label` (true or false), or `chosen` and `rejected`"
    return read_records(inputs, machine, labelled_answers_of, located=_located, what="labelled answers", fields=fields)


def preferences_of(record: Mapping[str, Any]) -> Iterator[Preference]:
    """The preference of a record with fields in lower case. Raises RecordDropped if there is none."""
    chosen = next((record[name] for name in CHOSEN_NAMES if name in record), None)
    rejected = next((record[name] for name in REJECTED_NAMES if name in record), None)
    if chosen is None or rejected is None:
        raise RecordDropped("malformed")
    prompt = _prompt(record)
    answers = [_answer(value, prompt) for value in (chosen, rejected)]
    if not prompt:
        shared = 0
        for one, other in zip(*answers, strict=False):
            if one != other:
                break
            shared += 1
        last = next((i for i in range(shared, 0, -1) if answers[0][i - 1]["role"] != "assistant"), 0)
        prompt, answers = answers[0][:last], [answer[last:] for answer in answers]
    if answers[0] == answers[1]:
        raise RecordDropped("same_answers")
    yield Preference(
        _checked(prompt, False), _checked(answers[0], True), _checked(answers[1], True), tools=tools_of(record)
    )


def labelled_answers_of(record: Mapping[str, Any]) -> Iterator[LabelledAnswer]:
    """The labelled answer of a record with fields in lower case, or the two of a preference.

    Raises RecordDropped if there is none.
    """
    label = next((record[name] for name in LABEL_NAMES if name in record), None)
    desirable = LABELS.get(str(label).strip().lower())
    if label is None:
        for pair in preferences_of(record):
            yield LabelledAnswer(pair.prompt, pair.chosen, True, tools=pair.tools)
            yield LabelledAnswer(pair.prompt, pair.rejected, False, tools=pair.tools)
        return
    if desirable is None:
        raise RecordDropped("malformed")
    prompt = _prompt(record)
    names = ("completion", *(name for names in PROMPTS.values() for name in names))
    answer = next((record[name] for name in names if name in record), None)
    completion = [] if answer is None else _answer(answer, prompt)
    if not completion:  # one list: all but its last turns of the assistant is the prompt
        last = next((i for i in range(len(prompt), 0, -1) if prompt[i - 1]["role"] != "assistant"), 0)
        prompt, completion = prompt[:last], prompt[last:]
    yield LabelledAnswer(_checked(prompt, False), _checked(completion, True), desirable, tools=tools_of(record))


def _located(item: Item, source: str, record: FileRecord) -> Item:
    return replace(item, source=source, file=record.file, line=record.line)


def _prompt(record: Mapping[str, Any]) -> Messages:
    """The messages of the question, of any name, or of a list of turns; none without one."""
    for name in PROMPTS:
        if record.get(name):
            return system_message(record) + question_messages(record, name)
    found = next((found for name in TURN_LISTS if (found := turns(record.get(name)))), [])
    return system_message(record) + found


def _answer(value: Any, prompt: Messages) -> Messages:
    """An answer, without the prompt if it begins with that."""
    if isinstance(value, str) and not prompt and PARAGRAPH.match(value):
        parts = PARAGRAPH.split(value)[1:]
        return [
            {"role": "user" if name == "Human" else "assistant", "content": text.strip()}
            for name, text in zip(parts[::2], parts[1::2], strict=True)
        ]
    messages = as_messages("assistant", value)
    bare = [message for message in prompt if message["role"] != "system"]
    for beginning in (prompt, bare):
        if beginning and messages[: len(beginning)] == beginning:
            return messages[len(beginning) :]
    return messages


def _checked(messages: Messages, is_answer: bool) -> Messages:
    check_messages(messages)
    if not messages or (is_answer and messages[0]["role"] != "assistant"):
        raise RecordDropped("no_answer" if is_answer else "malformed")
    return [{key: value for key, value in message.items() if key != "weight"} for message in messages]


def read_items(config: PreferenceConfig, machine: Machine) -> tuple[Sequence[Preference | LabelledAnswer], ReadStats]:
    """Preferences, or labelled answers for the loss kto. Raises UserError if there are none."""
    if config.loss != "kto":
        return read_preferences(config.sources, machine)
    answers, stats = read_labelled_answers(config.sources, machine)
    if len({answer.desirable for answer in answers}) == 1:
        label = "good" if answers[0].desirable else "bad"
        raise UserError(
            f"all {len(answers):,} answers are labelled {label}, expected good and bad ones for loss = kto",
            hint="[finetune] learns from good answers alone" if answers[0].desirable else "add good answers",
        )
    return answers, stats
