"""[reinforcement]: the model learns from rewards for its own answers, which a program verifies."""

from typing import Literal

from pydantic import model_validator

from groundup.recipe.base_config import BaseConfig, knob, refuse_unused
from groundup.recipe.finetune_config import FinetuneSourceConfig
from groundup.recipe.tuning_config import TuningConfig

RewardKind = Literal["answer", "regex", "format", "length", "tests", "function"]

REWARD_FIELDS: dict[str, tuple[str, ...]] = {
    "answer": (),
    "regex": ("pattern",),
    "format": ("pattern",),
    "length": ("max_characters",),
    "tests": (),
    "function": ("function",),
}
"""Knobs that each kind of reward needs."""


class RewardConfig(BaseConfig):
    """One reward; the sum of all, by weight, is what the model learns from."""

    kind: RewardKind = knob(
        meaning="answer: 1 if the final answer (after ####, in \\boxed{}, else the last number, else the whole text) is that of "
        "the problem; regex: 1 if `pattern` is found; format: 1 if `pattern` is the whole answer; length: 1 up to "
        "`max_characters`, 0 from twice as many; tests: 1 if the code in the answer passes the problem's `tests`, in a "
        "sandbox; function: what `function` returns"
    )
    weight: float = knob(1.0, "factor of this reward in the sum; below 0: a penalty")
    pattern: str | None = knob(None, "regex and format: regular expression of Python", unset="for these kinds only")
    max_characters: int | None = knob(None, "length: characters", unset="for this kind only", ge=1)
    timeout_seconds: float = knob(
        5.0, "tests, regex and format: time limit of a program or a match, which then counts as 0", gt=0
    )
    function: str | None = knob(
        None,
        "function: path/to/file.py:name of a function (text, problem) -> number; the file must also be named on the command "
        "line, by --set machine.reward_code=path/to/file.py",
        unset="for this kind only",
    )

    @model_validator(mode="after")
    def _check_fields(self) -> "RewardConfig":
        for name in REWARD_FIELDS[self.kind]:
            if getattr(self, name) is None:
                raise ValueError(f"{name}: needed for kind = {self.kind}")
        for name in ("pattern", "max_characters", "function"):
            if getattr(self, name) is not None and name not in REWARD_FIELDS[self.kind]:
                raise ValueError(f"{name}: not for kind = {self.kind}")
        refuse_unused(self, {"kind = tests": (self.kind == "tests", ("timeout_seconds",))})
        return self


class ReinforcementConfig(TuningConfig):
    """[reinforcement]: problems, rewards, and how the model learns from them."""

    sources: tuple[FinetuneSourceConfig, ...] = knob(
        meaning="problems: records with `prompt` (or `question`, or `messages`), `answer`, and for tests `tests`",
        min_length=1,
    )
    system_prompt: str | None = knob(None, "system message before every prompt that has none", unset="none")
    rewards: tuple[RewardConfig, ...] = knob(
        (), "rewards; the first says whether a problem is solved; none: one of kind answer"
    )
    loss: Literal["grpo", "dr_grpo", "rloo"] = knob(
        "grpo",
        "grpo: advantages in units of the group's deviation (Shao et al. 2024); dr_grpo: without that, and no mean over the "
        "length of an answer (Liu et al. 2025); rloo: the other answers are the baseline, one ratio of the whole answer "
        "(Ahmadian et al. 2024)",
    )
    group_size: int = knob(8, "answers sampled to each prompt", ge=2)
    prompts_per_step: int = knob(8, "prompts of a rollout", ge=1)
    updates_per_rollout: int = knob(
        1, "optimizer steps on each rollout; more use it better, and further from the policy that sampled it", ge=1
    )
    max_answer_tokens: int = knob(256, "tokens of an answer at most", ge=1)
    temperature: float = knob(1.0, "of sampling; the loss is that of the distribution at this temperature", gt=0)
    kl_coefficient: float = knob(
        0.0, "weight of the KL divergence from the model before the stage; 0: none is computed", ge=0
    )
    clip_range: float = knob(
        0.2, "ratios of probabilities beyond 1 - clip_range and 1 + clip_range have no gradient (PPO)", gt=0, lt=1
    )
    epochs: float | None = knob(None, "passes over the problems", unset="derived: 1", gt=0)
    learning_rate: float | None = knob(
        None, "peak learning rate", unset="derived: a tenth of finetune.learning_rate", gt=0, le=1
    )
    optimizer: Literal["adamw", "muon"] | None = knob(
        None, "adamw, or muon for the matrices of blocks and adamw for the rest", unset="derived: adamw"
    )
    validation_fraction: float = knob(
        0.05, "fraction of problems that are held out, chosen by a hash of their prompt; 200 are answered", ge=0, lt=1
    )
    keep_best_weights: bool | None = knob(
        None,
        "result: the weights that solve most held-out problems, not the last ones; training stops when 3 evaluations in a "
        "row are no better",
        unset="derived: off, so that the score of the held-out problems chooses nothing",
    )
    sequence_length: int | None = knob(
        None,
        "tokens of prompt and answer at most; longer prompts are left out",
        unset="derived: model.context_length",
        ge=1,
    )
    batch_tokens: int | None = knob(
        None, "not used here: a batch is prompts_per_step x group_size answers", unset="derived: by these two", ge=1
    )

    @property
    def all_rewards(self) -> tuple[RewardConfig, ...]:
        """The rewards, or the one that stands for none."""
        return self.rewards or (RewardConfig(kind="answer"),)

    @model_validator(mode="after")
    def _check_batch(self) -> "ReinforcementConfig":
        if self.batch_tokens is not None:
            raise ValueError("batch_tokens: a batch is prompts_per_step x group_size answers, expected none")
        refuse_unused(self, {"updates_per_rollout above 1": (self.updates_per_rollout > 1, ("clip_range",))})
        return self
