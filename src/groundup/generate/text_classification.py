"""Text classification: a linear layer on the embedding of a text (Devlin et al. 2018, BERT, section 4.1; mean pooling)."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.generate.text_embedding import batches_by_length, encode_for_embedding, pad_ids, pool_tokens
from groundup.model.serialization import CLASSIFIER_FILE, LABELS_FILE, save_tensors
from groundup.tokenizer import Tokenizer


class TextClassifier(nn.Module):
    """A model of any architecture, and a linear layer from its embedding of a text to one logit a label.

    Attributes:
        model: the transformer.
        labels: the names of the logits.
    """

    def __init__(self, model: nn.Module, labels: Sequence[str]):
        super().__init__()
        self.model, self.labels, self.config = model, tuple(labels), model.config
        width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.head = nn.Linear(width, len(self.labels), device=next(model.parameters()).device)

    def forward(self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B L"]:
        """Logits of the first `lengths` tokens of each row."""
        return self.head(pool_tokens(self.model, tokens, lengths).to(self.head.weight.dtype))


def classify_texts(classifier: TextClassifier, tokenizer: Tokenizer, texts: Sequence[str]) -> Float[Tensor, "N L"]:
    """The probability of each label of `classifier.labels` for each text, or the beginning of one longer than the context.

    >>> labels = [classifier.labels[row] for row in classify_texts(classifier, tokenizer, ["a text"]).argmax(dim=1)]
    """
    ids, _ = encode_for_embedding(classifier.model, tokenizer, texts)
    device = next(classifier.parameters()).device
    probabilities = torch.zeros(len(ids), len(classifier.labels))
    with torch.inference_mode():
        for rows in batches_by_length(ids):
            logits = classifier(*(tensor.to(device) for tensor in pad_ids([ids[row] for row in rows])))
            probabilities[rows] = logits.float().softmax(dim=-1).cpu()
    return probabilities


def save_classifier(classifier: TextClassifier, folder: Path) -> None:
    """Write labels and linear layer into `folder`, beside the files of `save_model`."""
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.head.state_dict().items()}
    save_tensors(head, folder / CLASSIFIER_FILE)
    (folder / LABELS_FILE).write_text(json.dumps({"labels": classifier.labels}, ensure_ascii=False) + "\n", "utf-8")


def load_classifier(model: nn.Module, folder: Path) -> TextClassifier:
    """The classifier of `model`, which was opened from `folder`, in evaluation mode.

    Raises UserError for a model without labels, and for damaged files.
    """
    path = folder / LABELS_FILE
    if not path.is_file():
        raise UserError(
            f"{folder}: a model without labels, expected one fine-tuned with finetune.task = classification",
            hint="groundup init --goal classify",
        )
    labels = read_json_object(path).get("labels")
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{path}: damaged: expected a list of labels")
    classifier = TextClassifier(model, labels)
    try:
        head = load_file(folder / CLASSIFIER_FILE)
        classifier.head.load_state_dict(head)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{folder / CLASSIFIER_FILE}: damaged: {str(error).splitlines()[0]}") from None
    return classifier.eval()
