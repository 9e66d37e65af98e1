"""[evaluate]: evaluation of the base model."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob

TaskKind = Literal["multiple_choice", "completion"]


class TaskConfig(BaseConfig):
    """A benchmark in a file of JSON lines."""

    name: str = knob(meaning="name in tables and reports")
    kind: TaskKind = knob(
        meaning="multiple_choice: {question, choices, answer: index}; completion: {prompt, completion}"
    )
    path: str = knob(meaning="JSON lines file")
    delimiter: str = knob(" ", "text between a question and its choice")
    apply_chat_template: bool = knob(
        False,
        "question or prompt as a user's turn, choice or completion as the answer, in the chat template: for chat models",
    )


class HarnessConfig(BaseConfig):
    """Tasks of lm-evaluation-harness; their datasets come from machine.harness_datasets, or the Hugging Face hub."""

    tasks: tuple[str, ...] = knob(
        meaning="names of tasks, such as hellaswag; their scores are those of the harness", min_length=1
    )
    num_fewshot: int | None = knob(None, "solved examples before each question", unset="the task's own number", ge=0)
    limit: int | None = knob(None, "first questions of each task only", unset="all", ge=1)


class EvaluateConfig(BaseConfig):
    """[evaluate]: text to score, tasks and sample continuations."""

    text: str | None = knob(
        None,
        "UTF-8 text to score instead of validation documents: a file, a folder or a glob",
        unset="validation documents",
    )
    max_tokens: int = knob(200_000, "maximum validation tokens to score", ge=1_000)
    num_continuations: int = knob(
        200, "validation passages, each with four continuations to choose the true one from; 0: off", ge=0
    )
    tasks: tuple[TaskConfig, ...] = knob((), "your own benchmarks")
    harness: HarnessConfig | None = knob(None, "tasks of lm-evaluation-harness", unset="none")
    language_measures: bool = knob(
        False,
        "also measure a decoder's calibration, repetition, memorization, needle in context, and bits per byte by language",
    )
    prompts: tuple[str, ...] = knob(("The",), "prompts of the samples in the report")
    max_new_tokens: int = knob(80, "maximum tokens per sample", ge=1)
    temperature: float = knob(0.7, "sampling temperature; 0: greedy", ge=0)
