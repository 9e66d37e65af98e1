"""[evaluate]: what is measured on the base model."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob

TaskKind = Literal["choices", "completions"]


class TaskConfig(BaseConfig):
    """Questions with known answers, in a file of JSON lines."""

    name: str = knob(meaning="how the task is called in tables and reports")
    kind: TaskKind = knob(
        meaning="choices: {question, choices, answer: its index}; completions: {prompt, completion}"
    )
    path: str = knob(meaning="the JSON lines file")


class EvaluateConfig(BaseConfig):
    max_tokens: int = knob(200_000, "held-out tokens to score", ge=1_000)
    num_continuations: int = knob(
        200, "held-out passages whose true continuation the model picks out of four; 0: none", ge=0
    )
    tasks: tuple[TaskConfig, ...] = knob((), "questions of your own")
    prompts: tuple[str, ...] = knob(("The",), "beginnings that the model continues in the report")
    max_new_tokens: int = knob(80, "tokens of each continuation", ge=1)
    temperature: float = knob(0.7, "of the samples; 0 takes the likeliest token", ge=0)
