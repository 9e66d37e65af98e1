"""Fine-tuning on examples: embeddings from pairs of texts, and classifiers from labelled texts; in the stage and in Python."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import write_jsonl
from groundup.artifacts.machine import Machine
from groundup.data.dedup_estimate import BYTES_PER_TOKEN
from groundup.evaluate.retrieval import half_tokens, score_pairs, split_passages
from groundup.finetune.classification import LABELS, LabelBatches, label_accuracy
from groundup.finetune.contrastive import (
    ContrastiveBatches,
    FixedPairs,
    TextPairs,
    choose_token_weights,
    contrastive_objective,
)
from groundup.finetune.finetune_task import FinetuneBatches
from groundup.finetune.lora import LoRAOptions, lora_options, prepare_lora
from groundup.finetune.sft import train_on_batches
from groundup.finetune.training_data.example_sources import Example, read_examples, split_examples
from groundup.finetune.training_data.passage_pairs import PassagePairs
from groundup.finetune.tuning_options import DEFAULT_LORA
from groundup.generate.text_classification import TextClassifier
from groundup.interop.adapters.lora_layer import merge_lora
from groundup.interop.classifier_files import read_classifier, write_classifier
from groundup.model import load_model, save_model
from groundup.model.classification_head import ClassificationHead
from groundup.plan.checks.stage_support import check_pairs
from groundup.plan.defaults.finetune_defaults import derive_finetuning
from groundup.plan.shape.parameter_count import count_parameters
from groundup.quantize.layers.nf4_linear import pack_nf4
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.tokenizer import Tokenizer, TokenShard
from groundup.train import Objective
from groundup.train.checkpoints import discard_checkpoints
from groundup.train.device import setup_device

MAX_SCORED_PAIRS = 500
UNUSED_PARTS = ("head", "decoder")
"""Parts of a model that an embedding does not need: they are not trained."""


@dataclass(frozen=True)
class TrainingOptions:
    """Options of fine-tuning on examples, as in [finetune] of a recipe."""

    method: str = "full"
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora: LoRAOptions = DEFAULT_LORA
    epochs: float = 3.0
    batch_tokens: int = 8192
    learning_rate: float = 3e-4
    optimizer: str = "adamw"
    temperature: float = 0.05
    precision: str = "float32"
    keep_best_weights: bool | None = True


def finetune_embeddings(
    model: nn.Module,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]] | TextPairs,
    validation: Sequence[tuple[str, str]] = (),
    *,
    folder: Path | None = None,
    machine: Machine | None = None,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Fine-tune `model`, of any architecture, in place, so that the embedding of a query is near that of its text.

        metrics = finetune_embeddings(model, tokenizer, [("how to boil rice", "Rinse the rice, ..."), ...], epochs=3)

    Args:
        pairs: of a query and its text; the other texts of a batch are the negatives.
        validation: pairs to score before and after.
        options: fields of TrainingOptions.

    Returns the metrics: steps, parameters, loss, validation, speed, weighted_tokens (see `choose_token_weights`), and
    retrieval before and after (see `score_pairs`).
    """
    source = FixedPairs(pairs) if isinstance(pairs, Sequence) else pairs
    if len(source) < 2:
        raise UserError(f"{len(source)} pairs to train on, expected at least 2: other texts are the negatives")
    settings, machine = TrainingOptions(**options), machine or Machine()
    model.to(setup_device(machine)).eval()
    scored = validation[:: max(1, math.ceil(len(validation) / MAX_SCORED_PAIRS))]
    before = score_pairs(model, tokenizer, scored) if scored else None
    is_weighted = choose_token_weights(model, tokenizer, source)

    def batches(pairs: TextPairs) -> ContrastiveBatches:
        return ContrastiveBatches(pairs, model, tokenizer, settings.batch_tokens, seed)

    held_out = batches(FixedPairs(validation)).first_epoch() if len(validation) > 1 else []
    objective = contrastive_objective(settings.temperature)
    metrics = _train(model, model, objective, batches(source), held_out, settings, folder, machine, seed)
    after = score_pairs(model, tokenizer, scored) if scored else None
    retrieval = after and {**after, "before": before and before["accuracy"]}
    return metrics | {"weighted_tokens": is_weighted, "retrieval": retrieval}


def finetune_classifier(
    model: nn.Module,
    tokenizer: Tokenizer,
    examples: Sequence[tuple[str, str]],
    validation: Sequence[tuple[str, str]] = (),
    *,
    head: ClassificationHead | None = None,
    folder: Path | None = None,
    machine: Machine | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[TextClassifier, dict[str, Any]]:
    """Fine-tune `model`, of any architecture, in place, with a linear layer that gives a text one of the labels.

        classifier, metrics = finetune_classifier(model, tokenizer, [("I liked it", "good"), ("Never again", "bad"), ...])

    Args:
        examples: texts and their labels.
        validation: held-out texts and their labels.
        head: of a classifier of texts that `model` was part of; its last layer is a new one where the labels are others.
        options: fields of TrainingOptions.

    Returns the classifier (see `classify_texts`), and the metrics: steps, parameters, loss, validation, speed, and
    classification: accuracy on the validation texts and of their most frequent training label.
    """
    counts = Counter(label for _, label in examples)
    if len(counts) < 2:
        raise UserError(f"labels of the training texts: {', '.join(counts) or 'none'}; expected two or more")
    known = [example for example in validation if example[1] in counts]
    settings, machine = TrainingOptions(**options), machine or Machine()
    model.to(setup_device(machine))
    torch.manual_seed(seed)
    if head is not None:
        one_label = not head.settings.per_token and not head.settings.multi_label and head.out_features > 1
        head = head.with_labels(sorted(counts)) if one_label else None
    classifier = TextClassifier(model, sorted(counts), head)

    def batches(examples: Sequence[tuple[str, str]]) -> LabelBatches:
        return LabelBatches(examples, classifier, tokenizer, settings.batch_tokens, seed)

    held_out = batches(known).first_epoch() if known else []
    metrics = _train(classifier, model, LABELS, batches(examples), held_out, settings, folder, machine, seed)
    scores: dict[str, Any] = {"labels": dict(counts.most_common()), "examples": len(validation)}
    if validation:
        most_frequent = counts.most_common(1)[0][0]
        right = label_accuracy(classifier, tokenizer, known) * len(known) if known else 0.0
        scores["accuracy"] = right / len(validation)
        scores["majority"] = sum(label == most_frequent for _, label in validation) / len(validation)
    return classifier, metrics | {"classification": scores}


def _train(
    module: nn.Module,
    model: nn.Module,
    objective: Objective,
    batches: FinetuneBatches,
    validation_batches: Sequence[Any],
    settings: TrainingOptions,
    folder: Path | None,
    machine: Machine,
    seed: int,
) -> dict[str, Any]:
    """Train `module`, which is or contains `model`; afterwards it is in evaluation mode, with plain weights."""
    parameters = sum(weight.numel() for weight in module.parameters())
    torch.manual_seed(seed)
    if settings.method == "qlora":
        pack_nf4(model)
    if settings.method != "full":
        prepare_lora(model, settings.lora_rank, settings.lora_alpha, settings.lora)
    else:
        model.requires_grad_(True)
    unused = [getattr(model, name) for name in UNUSED_PARTS if hasattr(model, name)]
    for part in unused:
        part.requires_grad_(False)
    trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
    training, config, start, _ = train_on_batches(
        module, objective, batches, validation_batches, epochs=settings.epochs, learning_rate=settings.learning_rate,
        optimizer=settings.optimizer, precision=settings.precision,
        keep_best_weights=settings.keep_best_weights is not False, folder=folder, machine=machine,
    )  # fmt: skip
    if settings.method != "full":
        merge_lora(model)
    module.requires_grad_(True).eval()
    records, evaluations = training.records, training.evaluations
    kept = training.kept_step
    window = max(1, len(records) // 20)
    return {
        "epochs": round(settings.epochs * len(records) / (config.steps or 1), 2),
        "steps": len(records),
        "kept_step": kept,
        "stopped_early": training.stopped_early,
        "batch_examples": batches.batch_rows,
        "tokens": sum(record["tokens"] for record in records),
        "parameters": {"all": parameters, "trained": trained},
        "loss": {
            "train_start": mean_loss(records[:window]),
            "train_end": mean_loss(records[:kept][-window:]),
            "validation_start": start,
            "validation_end": next((row["loss"] for row in evaluations if row["step"] == kept), None),
        },
        "validation": evaluations,
        "speed": training.speed,
    }


def finetune_on_examples(
    config: FinetuneConfig, seed: int, inputs: dict[str, Path], out: Path, machine: Machine
) -> dict[str, Any]:
    """The stage's tasks embedding and classification, resuming from a checkpoint in `out`.

    Writes the model folder, in which are a classifier's labels and linear layer, and dropped.jsonl. Returns the metrics of
    `finetune_embeddings` or `finetune_classifier`, with task, method, and examples (read, kept, dropped, train, validation).
    """
    tokenizer = Tokenizer.load(inputs["base"])
    model = load_model(inputs["base"], setup_device(machine), "float32", verify=False)
    fields = (
        "method", "lora_rank", "lora_alpha", "epochs", "batch_tokens", "learning_rate", "optimizer", "temperature", "precision",
        "keep_best_weights",
    )  # fmt: skip
    counts: dict[str, Any] = {}
    train: Sequence[Example] | PassagePairs
    if config.examples:
        examples, stats = read_examples(config.examples, machine)
        machine.progress.log(f"examples: {stats.describe()}")
        write_jsonl(out / "dropped.jsonl", stats.positions)
        split_by = (lambda example: example.target) if config.task == "embedding" else (lambda example: example.text)
        train, validation = split_examples(examples, config.validation_fraction, split_by)
        counts = stats.summary()
        tokens = sum(len(part.encode()) for example in train for part in example) / BYTES_PER_TOKEN
    else:
        check_pairs(config.task, False, "tokens" in inputs)
        half = half_tokens(model)
        train = PassagePairs(TokenShard(inputs["tokens"] / "train"), tokenizer, half, seed)
        validation = split_passages(TokenShard(inputs["tokens"] / "validation"), tokenizer, half)
        tokens = train.shard.num_tokens
    parameters = count_parameters(model.config).total  # type: ignore[arg-type]
    derived = derive_finetuning(config, parameters, tokens)
    options: dict[str, Any] = {name: getattr(derived, name) for name in fields}
    options |= {"folder": out, "machine": machine, "lora": lora_options(config)}
    if config.task == "embedding":
        metrics = finetune_embeddings(model, tokenizer, train, validation, seed=seed, **options)
    else:
        assert not isinstance(train, PassagePairs)
        classifier, metrics = finetune_classifier(
            model, tokenizer, train, validation, head=read_classifier(inputs["base"]), seed=seed, **options
        )
        write_classifier(classifier.head, out)
    save_model(model, out)
    tokenizer.save(out)
    discard_checkpoints(out, machine.keep_checkpoint_every)
    counts |= {"train": len(train), "validation": len(validation)}
    return {"task": config.task, "method": config.method, "examples": counts} | metrics


def mean_loss(records: Sequence[dict[str, Any]]) -> float:
    return math.fsum(record["loss"] for record in records) / max(1, len(records))
