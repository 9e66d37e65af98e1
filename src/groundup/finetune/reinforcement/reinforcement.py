"""Learning from rewards: GRPO (Shao et al. 2024), Dr. GRPO (Liu et al. 2025) and RLOO (Ahmadian et al. 2024).

At each step the model answers some prompts several times, a program rates the answers, and answers that are better than the
others of their group become more likely.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.finetune.reinforcement.rewards import Problem, RewardFunction, WeightedReward, exact_answer
from groundup.finetune.reinforcement.rollout_batches import PolicyObjective, RolloutBatches, RolloutSettings
from groundup.finetune.sft import NUM_EVALS, PATIENCE, WARMUP_FRACTION
from groundup.finetune.template_messages import prompt_ids
from groundup.finetune.training_data.problems import problem_of
from groundup.finetune.training_data.read_stats import DROP_REASONS, RecordDropped
from groundup.finetune.training_data.turn_checks import tools_of
from groundup.finetune.tuning_options import TuningOptions
from groundup.generate import GREEDY, decode_output, generate_many
from groundup.interop.adapters.lora_layer import merge_lora
from groundup.interop.adapters.trainable_tokens import merge_trainable_tokens
from groundup.model import Decoder
from groundup.plan.defaults.finetune_defaults import finetuning_defaults
from groundup.plan.shape.parameter_count import count_parameters
from groundup.recipe.train_config import TrainConfig
from groundup.tokenizer import Tokenizer
from groundup.train import TrainResult, build_engine, run_training_loop
from groundup.train.device import setup_device
from groundup.train.engines.base_engine import TorchEngine

MAX_HELD_OUT = 200
"""Held-out problems that are answered in an evaluation."""
LEARNING_RATE_FACTOR = 0.1
"""Of that of supervised fine-tuning: a reward says less about a token than a text does."""
SOLVED = 1.0
"""The least value of the first reward of an answer that solves its problem."""


@dataclass(frozen=True)
class HeldOutScore:
    """Greedy answers to held-out problems.

    Attributes:
        solved: whether the first reward is at least 1, by problem.
        reward: mean of the weighted sum of all rewards.
        answers: the texts.
    """

    solved: list[bool]
    reward: float
    answers: list[str]

    @property
    def accuracy(self) -> float:
        return sum(self.solved) / max(1, len(self.solved))


@dataclass(frozen=True)
class ReinforcementResult:
    """Result of `finetune_reinforcement`.

    Attributes:
        training: a record for each step with reward, kl, clip_fraction, entropy, answer_tokens; evaluations; speed.
        knobs: lora_rank, learning_rate and optimizer, as given or derived.
        problems, validation: those that were used.
        dropped: problems that were not, with the reason, one of DROP_REASONS.
        before, after: of the held-out problems; None without any.
        trained_parameters: number of trained parameters.
        model: the model that was given; with several ranks a new one on the main rank, and undefined on the others.
    """

    training: TrainResult
    config: TrainConfig
    knobs: dict[str, Any]
    problems: list[Problem]
    validation: list[Problem]
    dropped: list[tuple[Problem, str]]
    before: HeldOutScore | None
    after: HeldOutScore | None
    trained_parameters: int
    model: nn.Module


def finetune_reinforcement(
    model: Any,
    tokenizer: Tokenizer,
    problems: Sequence[Problem | Mapping[str, Any]],
    reward: RewardFunction | WeightedReward = exact_answer,
    validation: Sequence[Problem | Mapping[str, Any]] = (),
    *,
    keep_best_weights: bool = False,
    merge: bool = True,
    folder: Path | str | None = None,
    machine: Machine | None = None,
    seed: int = 0,
    **options: Any,
) -> ReinforcementResult:
    """Train `model` in place on what it answers itself; afterwards it is on the CPU and in evaluation mode.

    In a process group every rank calls it with the same arguments and answers its part of the prompts.

        problems = [{"prompt": f"{a} + {b} =", "answer": str(a + b)} for a in range(20) for b in range(20)]
        result = finetune_reinforcement(load_model("runs/small/06-chat"), tokenizer, problems, loss="grpo", group_size=8)

    Args:
        model: a decoder, whose tokenizer has a chat template.
        problems: dicts with `prompt` (text or messages), `answer`, and fields that the reward reads.
        reward: (text, problem) -> number; default: 1 if the final answer is right.
        validation: held-out problems, answered greedily before, after, and ten times during training.
        keep_best_weights: end with the weights of the best evaluation, and stop when several in a row are no better.
        folder: for metrics, samples.jsonl and checkpoints, from which a second call resumes; None: nothing is kept.
        options: fields of RolloutSettings (loss, group_size, prompts_per_step, updates_per_rollout, max_answer_tokens,
            temperature, kl_coefficient, clip_range) and of TuningOptions (method, lora_rank, learning_rate ...); epochs:
            default 1; sequence_length: of prompt and answer, default: the model's context; batch_tokens has no effect.
    """
    names = {field.name for field in fields(RolloutSettings)}
    settings = RolloutSettings(**{name: value for name, value in options.items() if name in names})
    tuning = TuningOptions(**{name: value for name, value in options.items() if name not in names})
    machine = machine or Machine()
    rated = reward if isinstance(reward, WeightedReward) else WeightedReward((("reward", 1.0, reward),))
    if not isinstance(model, Decoder):
        raise UserError(f"a {type(model).__name__} cannot learn from rewards, expected a decoder")
    limit = (tuning.sequence_length or model.config.cached_context_length) - settings.max_answer_tokens
    used, prompts, dropped = encode_problems(problems, tokenizer, limit)
    held_out, held_out_prompts, dropped_held_out = encode_problems(validation, tokenizer, limit)
    if not used:
        raise UserError(
            f"none of {len(problems)} prompts can be used: {DROP_REASONS[dropped[0][1]] if dropped else 'none given'}",
            hint=f"max_answer_tokens ({settings.max_answer_tokens}) and the prompt share the model's context, which leaves "
            f"{max(limit, 0)} tokens",
        )
    held_out, held_out_prompts = held_out[:MAX_HELD_OUT], held_out_prompts[:MAX_HELD_OUT]
    defaults = finetuning_defaults("generation", tuning.method, count_parameters(model.config).total, 0)
    rate = float(f"{LEARNING_RATE_FACTOR * defaults['learning_rate']:.2g}")
    knobs = tuning.with_defaults(
        {"lora_rank": defaults["lora_rank"], "learning_rate": rate, "optimizer": "adamw", "epochs": 1.0}
    )

    def score(model: nn.Module) -> HeldOutScore:
        return score_problems(model, tokenizer, held_out, held_out_prompts, rated, settings.max_answer_tokens)

    def evaluate(_: nn.Module) -> dict[str, float]:
        with engine.eval_replica() as replica:
            result = score(replica)
        return {"error_rate": 1 - result.accuracy, "accuracy": result.accuracy, "reward": result.reward}

    torch.manual_seed(seed)
    model.to(setup_device(machine))
    before = score(model.eval()) if held_out else None
    tuning.prepare(model, tokenizer.special_ids, knobs["lora_rank"])
    trained_parameters = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    objective = PolicyObjective(settings)
    config = _train_config(settings, len(used), max(map(len, prompts)), knobs, tuning.precision)
    if held_out and keep_best_weights:
        config = config.model_copy(update={"keep_best_weights": True, "early_stopping_patience": PATIENCE})
    built = build_engine(model, objective.objective(), config, machine, whole_batches=True)
    assert isinstance(built, TorchEngine)
    engine: TorchEngine = built
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(engine.broadcast(folder or temporary))
        out.mkdir(parents=True, exist_ok=True)
        batches = RolloutBatches(engine, tokenizer, used, prompts, rated, objective, out, seed)
        training = run_training_loop(
            engine, batches, config, out, machine, eval_fn=evaluate if held_out else None, step_stats=batches.step_stats,
            seed=seed, name="reinforcement",
        )  # fmt: skip
    model = engine.finalize()
    is_undefined = next(model.parameters()).is_meta  # on ranks other than the main one
    after = score(model.to(engine.device)) if held_out and not is_undefined else None
    model.cpu()
    if merge and tuning.method != "full":
        merge_trainable_tokens(merge_lora(model))
    return ReinforcementResult(
        training, config, knobs, used, held_out, dropped + dropped_held_out, before, after, trained_parameters,
        model,
    )  # fmt: skip


def encode_problems(
    problems: Sequence[Problem | Mapping[str, Any]], tokenizer: Tokenizer, max_tokens: int
) -> tuple[list[Problem], list[list[int]], list[tuple[Problem, str]]]:
    """(problems, their prompts as tokens, dropped problems with the reason). Raises UserError without a chat template."""
    fitting, prompts, dropped = [], [], []
    for item in problems:
        try:
            problem = item if isinstance(item, Problem) else problem_of(item)
        except RecordDropped as reason:
            raise UserError(
                f"problem {str(item)[:100]}: {DROP_REASONS[str(reason)]}",
                hint='expected {"prompt": text or messages, "answer": text}',
            ) from None
        try:
            if (ids := prompt_ids(tokenizer, problem.messages, tools_of(problem.fields))) is None:
                raise RecordDropped("refused")
            if len(ids) > max_tokens:
                raise RecordDropped("too_long")
        except RecordDropped as reason:
            dropped.append((problem, str(reason)))
            continue
        fitting.append(problem)
        prompts.append(ids)
    return fitting, prompts, dropped


def score_problems(
    model: nn.Module,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    reward: WeightedReward,
    max_answer_tokens: int,
) -> HeldOutScore:
    """Greedy answers to `problems`, and their rewards."""
    tokens = generate_many(
        model, prompts, max_tokens=max_answer_tokens, sampling=GREEDY, stop_ids=tokenizer.stop_ids, max_batch=32  # type: ignore[arg-type]
    )  # fmt: skip
    answers = [decode_output(tokenizer, ids).strip() for ids in tokens]
    values = [reward.score(text, problem) for text, problem in zip(answers, problems, strict=True)]
    mean = math.fsum(reward.total(each) for each in values) / max(1, len(values))
    return HeldOutScore([each[0] >= SOLVED for each in values], mean, answers)


def _train_config(
    options: RolloutSettings, problems: int, longest: int, knobs: dict[str, Any], precision: Any
) -> TrainConfig:
    """`knobs["epochs"]` over the problems: short warm-up, then cosine decay to zero; no weight decay."""
    rollouts = max(1, math.ceil(knobs["epochs"] * problems / options.prompts_per_step))
    steps = rollouts * options.updates_per_rollout
    length = longest + options.max_answer_tokens
    tokens = options.prompts_per_step * options.group_size * length
    return TrainConfig(
        steps=steps,
        batch_tokens=tokens,
        tokens=steps * tokens,
        sequence_length=length,
        learning_rate=knobs["learning_rate"],
        optimizer=knobs["optimizer"],
        warmup_steps=math.ceil(WARMUP_FRACTION * steps),
        weight_decay=0.0,
        lr_schedule="cosine",
        min_lr_ratio=0.0,
        precision=precision,
        evaluate_every=max(1, math.ceil(steps / NUM_EVALS)),
    )
