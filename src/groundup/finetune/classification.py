"""Fine-tuning of a text classifier: cross-entropy of the label (Devlin et al. 2018, BERT); classifiers opened from folders."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.finetune.chat_batches import MIN_SEQUENCE_LENGTH, batches_by_length, grouped_steps, shuffled_rows
from groundup.generate.text_classification import TextClassifier, classify_texts
from groundup.generate.text_embedding import encode_for_embedding, pad_ids
from groundup.interop.classifier_files import class_name, read_classifier
from groundup.tokenizer import Tokenizer
from groundup.train.objectives import Batch, Objective


class LabelBatches:
    """Batches of labelled texts of similar length; a pure function of (seed, step).

    Attributes:
        num_rows: texts in one epoch.
        batch_rows: texts in one batch: as many as have `batch_tokens` tokens on average.
        sequence_length: mean tokens of a text.
    """

    def __init__(
        self,
        examples: Sequence[tuple[str, str]],
        classifier: TextClassifier,
        tokenizer: Tokenizer,
        batch_tokens: int,
        seed: int,
    ):
        self.ids, _ = encode_for_embedding(classifier.model, tokenizer, [text for text, _ in examples])
        self.labels = [classifier.labels.index(label) for _, label in examples]
        self.num_rows, self.seed = len(self.ids), seed
        self.sequence_length = max(MIN_SEQUENCE_LENGTH, round(sum(map(len, self.ids)) / self.num_rows))
        self.batch_rows = min(max(1, batch_tokens // self.sequence_length), self.num_rows)
        self._group: tuple[int, list[list[int]]] = (-1, [])

    def batch(self, step: int) -> Batch:
        """`tokens` (B T), `lengths` (B) and `labels` (B)."""
        size = grouped_steps(self.num_rows, self.batch_rows)
        group, position = divmod(step, size)
        if self._group[0] != group:
            rows = [row for _, row in shuffled_rows(group, size * self.batch_rows, self.num_rows, self.seed)]
            order = batches_by_length([len(self.ids[row]) for row in rows], size, self.seed, group)
            self._group = (group, [[rows[index] for index in batch] for batch in order])
        return self._tensors(self._group[1][position])

    def first_epoch(self) -> list[Batch]:
        """Every text once, in order: for validation."""
        rows = range(self.num_rows)
        return [self._tensors(rows[begin : begin + self.batch_rows]) for begin in rows[:: self.batch_rows]]

    def _tensors(self, rows: Sequence[int]) -> Batch:
        tokens, lengths = pad_ids([self.ids[row] for row in rows])
        return {"tokens": tokens, "lengths": lengths, "labels": torch.tensor([self.labels[row] for row in rows])}


def label_loss(classifier: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the labels, in nats."""
    return nn.functional.cross_entropy(classifier(batch["tokens"], batch["lengths"]), batch["labels"])


LABELS = Objective(label_loss, lambda batch: len(batch["labels"]))


def label_accuracy(classifier: TextClassifier, tokenizer: Tokenizer, examples: Sequence[tuple[str, str]]) -> float:
    """The fraction of the texts whose most probable label is theirs."""
    rows = classify_texts(classifier, tokenizer, [text for text, _ in examples]).argmax(dim=1).tolist()
    found = [classifier.labels[row] == label for row, (_, label) in zip(rows, examples, strict=True)]
    return sum(found) / len(found)


def load_classifier(model: nn.Module, folder: Path) -> TextClassifier:
    """The classifier of `model`, which was opened from `folder`, in evaluation mode.

    Raises UserError for a model without labels, and for damaged files.
    """
    head = read_classifier(folder) if folder.is_dir() else None
    if head is None:
        file = folder / "config.json"
        name = class_name(read_json_object(file)) if file.is_file() else ""
        name += ": its head tells replaced tokens from original ones" if name == "ElectraForPreTraining" else ""
        raise UserError(
            f"{folder}: a model without labels{f' ({name})' if name else ''}, expected one fine-tuned with "
            "finetune.task = classification, or a classifier of transformers",
            hint="groundup init --goal classify",
        )
    if head.in_features != (width := model.config.hidden_size):  # type: ignore[union-attr]
        raise UserError(f"{folder}: damaged: a head for hidden states of {head.in_features}, expected {width}")
    return TextClassifier(model, head.settings.labels, head).eval()
