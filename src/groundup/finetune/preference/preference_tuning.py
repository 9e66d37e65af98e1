"""Preference tuning of a model: from pairs of a better and a worse answer, or answers that are labelled good or bad."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.finetune.lora import LoRAOptions
from groundup.finetune.preference.preference_batches import EncodedResponse, LabelledBatches, PairBatches
from groundup.finetune.preference.preference_losses import PreferenceLossName
from groundup.finetune.preference.preference_objective import PreferenceLoss
from groundup.finetune.preference.preference_scores import PreferenceScores, opponent_rows, score_preferences
from groundup.finetune.preference.preference_sets import (
    EncodedItem,
    encode_preferences,
    make_labelled_batches,
    make_pair_batches,
    parse_preference,
    responses_of,
)
from groundup.finetune.preference.reference_log_probs import reference_log_probs
from groundup.finetune.sft import train_on_batches
from groundup.finetune.training_data.preference_data import LabelledAnswer, Preference
from groundup.finetune.training_data.read_stats import DROP_REASONS
from groundup.finetune.tuning_options import TuningOptions
from groundup.generate.reward_model import RewardModel
from groundup.interop.adapters.lora_layer import merge_lora
from groundup.interop.adapters.trainable_tokens import merge_trainable_tokens
from groundup.plan.checks.stage_support import check_row_length
from groundup.plan.defaults.preference_defaults import number_of_evals, preference_defaults
from groundup.plan.shape.parameter_count import count_parameters
from groundup.recipe.train_config import TrainConfig
from groundup.tokenizer import Tokenizer
from groundup.train import TrainResult
from groundup.train.device import setup_device

LEARNT_TOKENS = LoRAOptions(token_rows=False)


@dataclass(frozen=True)
class PreferenceResult:
    """Result of `finetune_preferences`.

    Attributes:
        training: records, evaluations and speed.
        options: of the loss, such as beta.
        knobs: lora_rank, epochs, batch_tokens, learning_rate and optimizer, as given or derived.
        train, validation: the preferences or labelled answers that were used, with their tokens.
        dropped: those that were not, with the reason, one of DROP_REASONS.
        before, after: scores on the validation preferences; None without any.
        trained_parameters: number of trained parameters.
        model: the model that was given; with several ranks a new one on the main rank, and undefined on the others.
        reward_model: of loss="reward": the model with the layer that was trained with it.
    """

    training: TrainResult
    config: TrainConfig
    options: dict[str, float]
    knobs: dict[str, Any]
    train: list[tuple[Any, EncodedItem]]
    validation: list[tuple[Any, EncodedItem]]
    dropped: list[tuple[Any, str]]
    before: PreferenceScores | None
    after: PreferenceScores | None
    trained_parameters: int
    model: nn.Module
    reward_model: RewardModel | None = None


def finetune_preferences(
    model: Any,
    tokenizer: Tokenizer,
    preferences: Sequence[Preference | LabelledAnswer | Mapping[str, Any]],
    validation: Sequence[Preference | LabelledAnswer | Mapping[str, Any]] = (),
    *,
    loss: PreferenceLossName = "dpo",
    beta: float | None = None,
    label_smoothing: float = 0.0,
    simpo_gamma: float = 1.0,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    keep_best_weights: bool = True,
    merge: bool = True,
    folder: Path | str | None = None,
    machine: Machine | None = None,
    seed: int = 0,
    **options: Any,
) -> PreferenceResult:
    """Train `model`, a decoder, in place on preferences; afterwards it is on the CPU and in evaluation mode.

        pairs = [{"prompt": "Say hello.", "chosen": "Hello!", "rejected": "No."}, ...]
        result = finetune_preferences(open_model("runs/small")[0], tokenizer, pairs, loss="dpo")
        result.after.means()["accuracy"]

    Args:
        preferences: dicts with prompt, chosen and rejected, texts or lists of messages; for loss="kto" also dicts with prompt,
            completion and label. Or `Preference`s and `LabelledAnswer`s.
        validation: preferences to score before, during and after.
        loss: dpo, ipo, kto, orpo, simpo, or reward for a reward model, in the result. dpo, ipo and kto compare with the
            model as it is now: its log-probabilities are computed once, first.
        beta: default: derived from the loss, as in a recipe.
        label_smoothing: dpo and simpo: the part of the pairs whose answers are taken to be swapped.
        keep_best_weights: end with the weights of the best evaluation, and stop when several in a row are no better.
        merge: with LoRA, merge the adapter into the weights at the end.
        folder: for metrics and checkpoints, from which a second call resumes; None: nothing is kept.
        options: fields of TuningOptions: method, lora_rank, epochs, learning_rate ...; lora: control tokens are taken to be
            known; sequence_length: of a prompt with an answer, longer ones are left out, default: the context length.
    """
    options.setdefault("lora", LEARNT_TOKENS)
    tuning = TuningOptions(**options)
    machine = machine or Machine()
    items, held_out = (
        [each for index, item in enumerate(part) for each in parse_preference(item, loss == "kto", f"{name}[{index}]")]
        for name, part in (("preferences", preferences), ("validation", validation))
    )
    check_row_length(tuning.sequence_length, model.config.context_length)
    limit = min(tuning.sequence_length or model.config.context_length, model.config.context_length)
    train_set, dropped = encode_preferences(items, tokenizer, limit)
    validation_set, dropped_validation = encode_preferences(held_out, tokenizer, limit)
    if not train_set:
        raise UserError(
            f"none of {len(items)} preferences can be used: {DROP_REASONS[dropped[0][1]] if dropped else 'none given'}",
            hint=f"sequence_length = {limit}: shorter prompts and answers fit",
        )
    tokens = sum(len(response.ids) for _, encoded in train_set for response in responses_of(encoded))
    knobs = tuning.with_defaults(preference_defaults(loss, tuning.method, count_parameters(model.config).total, tokens))
    default_beta = knobs.pop("beta")
    settings = PreferenceLoss(
        loss, default_beta if beta is None else beta, label_smoothing, simpo_gamma, desirable_weight, undesirable_weight
    )
    out = None if folder is None else Path(folder)

    torch.manual_seed(seed)
    model.to(setup_device(machine))
    tuning.prepare(model, tokenizer.special_ids, knobs["lora_rank"])  # the reference still: adapters start as zero

    def log_probs(responses: Sequence[EncodedResponse], name: str) -> Tensor:
        return reference_log_probs(model, responses, tuning.precision, machine, out, name)

    def make_batches(items: Sequence[Any], name: str) -> PairBatches | LabelledBatches:
        sizes: dict[str, Any] = {"batch_tokens": knobs["batch_tokens"], "seed": seed, "pad_id": tokenizer.pad_id or 0}
        if loss == "kto":
            return make_labelled_batches(items, log_probs, name, tokenizer=tokenizer, max_tokens=limit, **sizes)
        return make_pair_batches(items, log_probs if settings.uses_reference else None, name, **sizes)

    if loss == "kto" and len({answer.desirable for answer, _ in validation_set}) == 1:
        machine.progress.log(
            "the held-out answers are all of one label: none is compared with another, and none is scored"
        )
        validation_set = []
    batches = make_batches(train_set, "train")
    validation_batches = make_batches(validation_set, "validation").first_epoch() if validation_set else []
    opponents = None
    if loss == "kto" and validation_set:
        answers = [answer for answer, _ in validation_set]
        opponents = opponent_rows([repr(answer.prompt) for answer in answers], [answer.desirable for answer in answers])

    network = RewardModel(model) if loss == "reward" else model

    def score(network: nn.Module) -> PreferenceScores:
        return score_preferences(network.eval(), validation_batches, settings, tuning.precision, opponents)

    before = score(network) if validation_batches else None
    if before is not None and settings.uses_reference:  # zero but for rounding: it is the reference
        zeros = torch.zeros_like(before.chosen_reward)
        before = replace(before, chosen_reward=zeros, rejected_reward=zeros)
    trained_parameters = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    training, config, _, network = train_on_batches(
        network, settings.objective(), batches, validation_batches, epochs=knobs["epochs"],
        learning_rate=knobs["learning_rate"], optimizer=knobs["optimizer"], precision=tuning.precision,
        keep_best_weights=keep_best_weights, folder=out, machine=machine,
        eval_fn=lambda network: score(network).means(),
        num_evals=number_of_evals(knobs["epochs"] * len(train_set), len(validation_set)),
    )  # fmt: skip
    is_undefined = next(network.parameters()).is_meta  # on ranks other than the main one
    after = score(network) if validation_batches and not is_undefined else None
    model = network.model if isinstance(network, RewardModel) else network
    if merge and tuning.method != "full":
        merge_trainable_tokens(merge_lora(model))
    return PreferenceResult(
        training, config, settings.options, knobs, train_set, validation_set, dropped + dropped_validation, before, after,
        trained_parameters, model, network if isinstance(network, RewardModel) else None,
    )  # fmt: skip
