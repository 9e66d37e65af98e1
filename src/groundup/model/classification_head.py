"""The head of a classifier: logits of labels from the hidden states of a text or of its tokens (Devlin et al. 2019, BERT)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundup.model.feed_forward import ACTIVATIONS

HEAD_ACTIVATIONS = {"tanh": torch.tanh} | ACTIVATIONS


@dataclass(frozen=True)
class HeadSettings:
    """The form of a head.

    Attributes:
        labels: the names of the logits.
        per_token: a label for each token (named entities) and not for the text.
        multi_label: any number of labels may be right: probabilities are sigmoids.
        pooling: of the text, mean or cls; None: that of the model.
        activation: of a square layer before the last one; None: there is none.
        dense_bias: whether that layer has a bias.
        norm_eps: of a LayerNorm after it; None: there is none.
        norm_bias: whether that norm has a bias.
    """

    labels: tuple[str, ...]
    per_token: bool = False
    multi_label: bool = False
    pooling: str | None = None
    activation: str | None = None
    dense_bias: bool = True
    norm_eps: float | None = None
    norm_bias: bool = False


class ClassificationHead(nn.Linear):
    """W norm(f(V x)) + b: one logit a label. V, f and the norm are there if the settings have them."""

    def __init__(self, width: int, settings: HeadSettings):
        super().__init__(width, len(settings.labels))
        self.settings = settings
        self.dense = None if settings.activation is None else nn.Linear(width, width, bias=settings.dense_bias)
        self.activation = HEAD_ACTIVATIONS[settings.activation or "tanh"]
        eps = settings.norm_eps
        self.norm = None if eps is None else nn.LayerNorm(width, eps=eps, bias=settings.norm_bias)

    def forward(self, input: Float[Tensor, "... D"]) -> Float[Tensor, "... L"]:
        hidden = input.to(self.weight.dtype)
        if self.dense is not None:
            hidden = self.activation(self.dense(hidden))
        if self.norm is not None:
            hidden = self.norm(hidden)
        return super().forward(hidden)

    def with_labels(self, labels: Sequence[str]) -> "ClassificationHead":
        """This head if it has these labels, else one of the same form whose last layer is new."""
        if set(labels) == set(self.settings.labels):
            return self
        head = ClassificationHead(self.in_features, replace(self.settings, labels=tuple(labels)))
        for new, old in ((head.dense, self.dense), (head.norm, self.norm)):
            if new is not None and old is not None:
                new.load_state_dict(old.state_dict())
        return head

    def probabilities(self, logits: Float[Tensor, "... L"]) -> Float[Tensor, "... L"]:
        """Of each label, in float32; of a single one its logit, a score."""
        if len(self.settings.labels) == 1:
            return logits.float()
        return logits.float().sigmoid() if self.settings.multi_label else logits.float().softmax(dim=-1)
