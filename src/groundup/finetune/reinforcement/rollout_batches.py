"""Batches that the model itself makes: at each step, answers that it samples with the weights of that step, and their rewards.

Of several ranks each answers its part of the prompts, with all weights, and all then have the whole batch.
A batch is a function of (weights, step, seed), so a resumed run makes the same one. Only where one rollout serves several
updates it is kept in a file: the weights that sampled it are gone after the first.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.finetune.chat_batches import shuffled_rows
from groundup.finetune.reinforcement.answer_advantages import PolicyLossName, group_advantages
from groundup.finetune.reinforcement.policy_gradient import policy_loss
from groundup.finetune.reinforcement.rewards import Problem, WeightedReward
from groundup.finetune.reinforcement.rollouts import SampledAnswer, padded_rows, sample_groups
from groundup.finetune.response_log_probs import masked_log_probs, masked_log_probs_and_entropy
from groundup.generate import decode_output
from groundup.model.serialization import save_tensors
from groundup.tokenizer import Tokenizer
from groundup.train import Batch, Objective
from groundup.train.checkpoints import list_checkpoints
from groundup.train.engines.base_engine import TorchEngine
from groundup.train.jsonl_log import JsonlLog, Record
from groundup.train.micro_batch import DEFAULT_TOKENS

LOGGED_ANSWERS = 4
"""Answers of one prompt of each rollout in samples.jsonl."""
MAX_BATCH_ANSWERS = 64


@dataclass(frozen=True)
class RolloutSettings:
    """Knobs of sampling and of the loss, as in [reinforcement]."""

    loss: PolicyLossName = "grpo"
    group_size: int = 8
    prompts_per_step: int = 8
    updates_per_rollout: int = 1
    max_answer_tokens: int = 256
    temperature: float = 1.0
    kl_coefficient: float = 0.0
    clip_range: float = 0.2

    @property
    def needs_old_log_probs(self) -> bool:
        """Otherwise the policy that is trained is the one that sampled, and the KL is no part of the reward."""
        return self.updates_per_rollout > 1 or (self.loss == "rloo" and self.kl_coefficient > 0)


class ReferenceWeights:
    """The trained weights (this rank's shards of them) as they are now: the reference policy while `applied`."""

    def __init__(self, weights: Sequence[Tensor]):
        self._weights = weights  # the adapter, where there is one; else all
        self._kept = [weight.detach().clone() for weight in weights]

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Context in which the model has them."""
        current = [weight.detach().clone() for weight in self._weights]
        self._set(self._kept)
        try:
            yield
        finally:
            self._set(current)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)


class PolicyObjective:
    """The loss of rollout batches, and what it measures on the way, by row of the batch."""

    def __init__(self, settings: RolloutSettings):
        self.settings = settings
        self.rows: dict[int, tuple[float, float, float]] = {}
        """Of each row of the last batch: kl, share of clipped tokens, entropy; means over its tokens."""

    def objective(self) -> Objective:
        return Objective(self.loss, lambda batch: len(batch["tokens"]))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        settings, mask = self.settings, batch["mask"]
        log_probs, entropy = masked_log_probs_and_entropy(
            model, batch["tokens"], mask, temperature=settings.temperature
        )
        result = policy_loss(
            log_probs, batch.get("old_log_probs", log_probs.detach()), batch["advantages"], mask, loss=settings.loss,
            clip_range=settings.clip_range, kl_coefficient=settings.kl_coefficient,
            reference_log_probs=batch.get("reference_log_probs"), max_answer_tokens=settings.max_answer_tokens,
        )  # fmt: skip
        lengths = mask.sum(dim=1)
        measured = result.kl / lengths, result.clipped, entropy.detach().sum(dim=1) / lengths
        values = torch.stack(measured, dim=1).tolist()
        self.rows |= {row: tuple(each) for row, each in zip(batch["rows"].tolist(), values, strict=True)}
        return result.loss

    def means(self) -> Record:
        """Over the rows of the last batch."""
        count = max(1, len(self.rows))
        return {
            name: sum(values[index] for values in self.rows.values()) / count
            for index, name in enumerate(("kl", "clip_fraction", "entropy"))
        }


class RolloutBatches:
    """`batch(step)` samples answers with the model as it is at that step, and rates them.

    Args:
        engine: trains the model; its answers are sampled from it.
        prompts: token ids of the prompt of each problem.
        objective: its measurements go into `step_stats`.
        folder: for samples.jsonl, and for rollouts that serve several updates.
    """

    def __init__(
        self,
        engine: TorchEngine,
        tokenizer: Tokenizer,
        problems: Sequence[Problem],
        prompts: Sequence[Sequence[int]],
        reward: WeightedReward,
        objective: PolicyObjective,
        folder: Path,
        seed: int,
    ):
        self.engine = engine
        self.rank, self.ranks = engine.communicator.rank, engine.communicator.size
        self.tokenizer, self.problems, self.prompts = tokenizer, problems, prompts
        self.reward, self.objective = reward, objective
        self.reference = ReferenceWeights(engine.parameters) if objective.settings.kl_coefficient else None
        self.settings, self.folder, self.seed = objective.settings, folder, seed
        self.samples = JsonlLog(folder / "samples.jsonl" if engine.is_main else None)
        self._rollout: tuple[int, Batch, Record] | None = None

    def batch(self, step: int) -> Batch:
        """tokens and mask (B T), advantages and rows (B), and log-probabilities (B T) where the loss needs them."""
        self.objective.rows = {}
        first = step - step % self.settings.updates_per_rollout
        if first == step:
            self._rollout = (step, *self._sample(step))
            if self.settings.updates_per_rollout > 1 and self.engine.is_main:
                self._write()
        elif self._rollout is None or self._rollout[0] != first:
            self._rollout = self._read(first)
        return self._rollout[1]

    def step_stats(self, step: int) -> Record:
        """Fields for the record of a step: of its rollout, and what the loss measured."""
        assert self._rollout is not None
        self.objective.rows = {
            row: each for rows in self.engine.gather(self.objective.rows) for row, each in rows.items()
        }
        return self._rollout[2] | self.objective.means()

    # ---- one rollout

    def _sample(self, step: int) -> tuple[Batch, Record]:
        settings, stop_ids = self.settings, self.tokenizer.stop_ids
        number = step // settings.updates_per_rollout
        rows = shuffled_rows(number, settings.prompts_per_step, len(self.problems), self.seed)
        indices = [index for _, index in rows]
        prompts = [self.prompts[index] for index in indices]
        own = range(self.rank, len(prompts), self.ranks)
        with self.engine.eval_replica() as model:
            own_groups = sample_groups(
                model, [prompts[place] for place in own], settings.group_size, max_tokens=settings.max_answer_tokens,
                stop_ids=stop_ids, temperature=settings.temperature, seed=_rollout_seed(self.seed, number),
                max_batch=MAX_BATCH_ANSWERS, places=own,
            )  # fmt: skip
        own_parts = [
            [self.reward.score(self._text(answer), self.problems[indices[place]]) for answer in group]
            for place, group in zip(own, own_groups, strict=True)
        ]
        gathered = self.engine.gather((own_groups, own_parts))
        groups, parts = (
            [gathered[place % self.ranks][kind][place // self.ranks] for place in range(len(prompts))]
            for kind in (0, 1)
        )
        rewards = torch.tensor([[self.reward.total(values) for values in group] for group in parts])
        answers = [answer for group in groups for answer in group]
        batch = self._tensors(prompts, answers, rewards)
        self._log(step, indices[0], [self._text(answer) for answer in groups[0]], rewards[0])
        return batch, self._statistics(rewards, parts, answers)

    def _text(self, answer: SampledAnswer) -> str:
        return decode_output(self.tokenizer, answer.tokens).strip()

    def _tensors(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[SampledAnswer], rewards: Float[Tensor, "P G"]
    ) -> Batch:
        settings = self.settings
        repeated = [prompt for prompt in prompts for _ in range(settings.group_size)]
        pad_id = self.tokenizer.pad_id if self.tokenizer.pad_id is not None else 0
        tokens, mask = padded_rows(repeated, [answer.tokens for answer in answers], pad_id)
        batch = {"tokens": tokens, "mask": mask, "rows": torch.arange(len(tokens))}
        if settings.needs_old_log_probs:
            batch["old_log_probs"] = self._log_probs(tokens, mask)
        if self.reference is not None:
            with self.reference.applied():
                batch["reference_log_probs"] = self._log_probs(tokens, mask)
        if settings.loss == "rloo" and "reference_log_probs" in batch:
            kl = (batch["old_log_probs"] - batch["reference_log_probs"]).sum(dim=1)
            rewards = rewards - settings.kl_coefficient * kl.view_as(rewards)
        batch["advantages"] = group_advantages(rewards, settings.loss).flatten()
        return batch if settings.kl_coefficient and settings.loss != "rloo" else without_idle_rows(batch)

    @torch.no_grad()
    def _log_probs(self, tokens: Int[Tensor, "B T"], mask: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """By forward passes, as in training: those of the sampling engine differ by rounding and are before temperature.

        As many on each rank, since they gather sharded weights; the last one may be there for its number.
        """
        device = self.engine.device
        size = max(1, DEFAULT_TOKENS[device.type] // tokens.shape[1])
        parts = list(zip(tokens.split(size), mask.split(size), strict=True))
        own = []
        with self.engine.eval_model() as model:
            for first in range(0, len(parts), self.ranks):
                rows, chosen = (part.to(device) for part in parts[min(first + self.rank, len(parts) - 1)])
                own.append(masked_log_probs(model, rows, chosen, temperature=self.settings.temperature).cpu())
        gathered = self.engine.gather(own)
        return torch.cat([gathered[index % self.ranks][index // self.ranks] for index in range(len(parts))])

    def _statistics(
        self, rewards: Float[Tensor, "P G"], parts: list[list[tuple[float, ...]]], answers: Sequence[SampledAnswer]
    ) -> Record:
        count = len(answers)
        record: Record = {
            "reward": rewards.mean().item(),
            "reward_deviation": rewards.std(dim=1).mean().item(),
            "mixed_groups": (rewards.std(dim=1) > 0).float().mean().item(),
            "answer_tokens": sum(len(answer.tokens) for answer in answers) / count,
            "cut_answers": sum(not answer.finished for answer in answers) / count,
        }
        if len(self.reward.parts) > 1:
            for index, (name, _, _) in enumerate(self.reward.parts):
                record[f"reward_{name}"] = sum(values[index] for group in parts for values in group) / count
        return record

    def _log(self, step: int, index: int, texts: Sequence[str], rewards: Float[Tensor, " G"]) -> None:
        self.samples.truncate(step)
        problem = self.problems[index]
        answers = [
            {"text": text, "reward": round(reward, 4)} for text, reward in zip(texts, rewards.tolist(), strict=True)
        ][:LOGGED_ANSWERS]
        self.samples.append({"step": step, "prompt": problem.prompt, "answer": problem.answer, "answers": answers})

    # ---- rollouts that serve several updates

    def _path(self, step: int) -> Path:
        return self.folder / "rollouts" / f"step-{step:08d}.safetensors"

    def _write(self) -> None:
        assert self._rollout is not None
        step, batch, record = self._rollout
        path = self._path(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_tensors({name: rows.contiguous() for name, rows in batch.items()}, partial, {"record": json.dumps(record)})
        write_atomically(path, partial.read_bytes())
        partial.unlink()
        kept = [int(each.name.removeprefix("step-")) for each in list_checkpoints(self.folder / "checkpoints")]
        for old in path.parent.glob("step-*.safetensors"):
            number = int(old.stem.removeprefix("step-"))
            if kept and number + self.settings.updates_per_rollout <= min(kept):
                old.unlink()

    def _read(self, step: int) -> tuple[int, Batch, Record]:
        path = self._path(step)
        if not path.is_file():
            raise UserError(
                f"{path} is missing: the weights that sampled this rollout are gone", hint=f"remove {self.folder}"
            )
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            metadata: Any = file.metadata()
            return step, {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["record"])  # noqa: SIM118


def without_idle_rows(batch: Batch) -> Batch:
    """The batch without answers of advantage 0, which have no gradient; the loss keeps its value and gradient.

    The loss is a mean over answers and proportional to their advantages, which grow by as much as the mean loses rows.
    """
    useful = batch["advantages"] != 0
    if not useful.any():
        useful[0] = True
    scale = useful.float().mean()
    kept = {name: rows[useful] for name, rows in batch.items()}
    longest = int(kept["mask"].nonzero()[:, 1].max()) + 1
    kept = {name: rows[:, :longest] if rows.ndim == 2 else rows for name, rows in kept.items()}
    return kept | {"advantages": kept["advantages"] * scale}


def _rollout_seed(seed: int, number: int) -> int:
    return (seed << 32) + number
