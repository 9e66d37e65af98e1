"""Problems from files: prompts with the known answer, in JSON, CSV, Parquet or Arrow.

    {"prompt": "What is 2 + 3?", "answer": "5"}          {"question": "...", "answer": "... #### 18"}

A prompt is a text or a list of messages; other fields of a record, such as `tests`, are kept for the reward.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import find_messages
from groundup.data.inputs import resolve_files
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.table import is_arrow, read_records
from groundup.finetune.conversations import ConversationStats, parse_records
from groundup.finetune.rewards import Problem

PROMPT_FIELDS = ("prompt", "question", "problem", "messages", "conversations", "instruction")
ANSWER_FIELDS = ("answer", "solution", "ground_truth", "target", "completion", "response", "output")


def problem_from_record(
    record: Any, prompt_column: str | None = None, answer_column: str | None = None, system: str | None = None
) -> Problem | None:
    """The problem of a record; None if it has no prompt. Without columns, the first known field counts.

    >>> problem_from_record({"question": "2 + 3?", "answer": 5}).answer
    '5'
    """
    if not isinstance(record, Mapping):
        return None
    name = prompt_column or next((name for name in PROMPT_FIELDS if record.get(name)), "")
    prompt = record.get(name)
    messages: list[dict[str, str]] = []
    if isinstance(prompt, str) and prompt.strip():
        messages = [{"role": "user", "content": prompt.strip()}]
    elif isinstance(prompt, Sequence) and not isinstance(prompt, str):
        found = find_messages(list(prompt)) or []
        if all(isinstance(each.get("role"), str) and isinstance(each.get("content"), str) for each in found):
            messages = [{"role": each["role"], "content": each["content"]} for each in found]
    last = None
    while messages and messages[-1]["role"] == "assistant":
        last = messages.pop()["content"]
    if not any(each["role"] == "user" for each in messages):
        return None
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    answer_name = answer_column or next((name for name in ANSWER_FIELDS if record.get(name) is not None), "")
    value = record.get(answer_name)
    answer = str(value) if isinstance(value, str | int | float) and str(value).strip() else last
    fields = {key: value for key, value in record.items() if key not in (name, answer_name)}
    return Problem(tuple(messages), answer, fields)


def read_problems(inputs: Iterable[Any], machine: Machine) -> tuple[list[Problem], ConversationStats]:
    """All problems of all sources, in the order of the recipe and the files; of equal prompts, the first.

    Raises UserError if a source cannot be read, or no problem is left.
    """
    stats = ConversationStats()
    problems: dict[str, Problem] = {}
    for source in inputs:
        for record in _read_records(source, machine):
            stats.read += 1
            problem = problem_from_record(record, source.prompt_column, source.answer_column, source.system)
            if problem is None:
                stats.drop("malformed", record, source.name)
            elif (key := repr(problem.messages)) in problems:
                stats.drop("duplicate", record, source.name)
            else:
                problems[key] = problem
    stats.kept = len(problems)
    if not problems:
        entry = next((sample["item"] for sample in stats.samples if isinstance(sample["item"], dict)), {})
        shown = f"; these have {', '.join(map(str, entry))}" if entry else ""
        raise UserError(
            f"no problems in {', '.join(source.name for source in inputs)} ({stats.read} entries read)",
            hint=f"expected records with a prompt ({', '.join(PROMPT_FIELDS)}) and an answer{shown}",
        )
    return list(problems.values()), stats


def _read_records(source: Any, machine: Machine) -> Iterator[Any]:
    for file in resolve_files(source, machine):
        members = [(member.name, member.stream.read()) for member in file.iter_members()]
        for name, data in sorted(members):
            if is_arrow(name):
                yield from read_records(name, io.BytesIO(data))
            else:
                yield from parse_records(decode_bytes(data).text, name)
