"""Problems from files: prompts with what their answers are verified by.

{"prompt": "What is 2 + 3?", "answer": "5"}         {"question": "...", "answer": "... #### 18"}     exact answer
{"messages": [...], "tests": "assert f(2) == 4"}    unit tests, also as MBPP and HumanEval have them

A prompt is a text or a list of messages; an assistant turn at its end is the known answer, if no field is.
"""

import ast
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import PROMPTS, TURN_LISTS, question_messages, system_message, turns
from groundup.finetune.reinforcement.rewards import Problem
from groundup.finetune.training_data.read_stats import ReadStats, RecordDropped
from groundup.finetune.training_data.record_reader import read_records
from groundup.finetune.training_data.turn_checks import check_messages
from groundup.recipe.finetune_config import FinetuneSourceConfig

ANSWERS = ("answer", "solution", "ground_truth", "target", "completion", "response", "output")


def problem_of(record: Mapping[str, Any], system_prompt: str | None = None) -> Problem:
    """The problem of a record with fields in lower case. Raises RecordDropped if it has no prompt.

    >>> problem_of({"question": "2 + 3?", "answer": 5}).answer
    '5'
    """
    prompt = next((name for name in PROMPTS if record.get(name)), None)
    if prompt is None and record.get("text") and "test_list" in record:  # MBPP
        prompt = "text"
    if prompt is not None:
        found = question_messages(record, prompt)
    else:
        found = next((found for name in TURN_LISTS if (found := turns(record.get(name)))), [])
    messages = [dict(message) for message in system_message(record) + found]
    last = None
    while messages and messages[-1]["role"] == "assistant":
        last = messages.pop().get("content")
    if not any(message["role"] == "user" for message in messages):
        raise RecordDropped("malformed")
    check_messages(messages)
    if system_prompt and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    name = next((name for name in ANSWERS if name != prompt and record.get(name) not in (None, "")), None)
    value = record.get(name) if name else last
    answer = str(value).strip() if isinstance(value, str | int | float) else None
    fields = {key: value for key, value in record.items() if key not in (prompt, name, *TURN_LISTS)}
    if "tests" not in fields and (tests := _tests(record)):
        fields["tests"] = tests
    return Problem(tuple(messages), answer, fields)


def _tests(record: Mapping[str, Any]) -> str:
    """The tests of MBPP (`test_list`, after `test_setup_code` or `test_imports`) and of HumanEval (`test`, `entry_point`)."""
    setup, tests = (
        [line for name in names for line in _lines(record.get(name))]
        for names in (("test_setup_code", "test_imports"), ("test_list", "test"))
    )
    if tests and (name := record.get("entry_point")):
        tests.append(f"check({name})")
    return "\n".join([*setup, *tests]) if tests else ""


def _lines(value: Any) -> list[str]:
    """The lines of a text, of a list, or of a list in JSON or Python, as tables have it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(value.strip())
    return [str(each) for each in value if each] if isinstance(value, list | tuple) else [str(value)] if value else []


def read_problems(
    inputs: Iterable[FinetuneSourceConfig], machine: Machine, system_prompt: str | None = None
) -> tuple[list[Problem], ReadStats]:
    """All problems of all sources, in the order of the recipe and the files; of equal prompts, the first.

    Raises UserError if a source cannot be read, or no problem is left.
    """
    return read_records(
        inputs, machine, lambda record: [problem_of(record, system_prompt)], key=lambda problem: repr(problem.messages),
        what="problems", fields="`prompt`, `question` or `messages`, and `answer`",
    )  # fmt: skip
