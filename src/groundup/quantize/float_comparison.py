"""Quantized models compared with their float model on held-out text: loss, KL divergence, top-1 agreement, embeddings."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.artifacts.progress import ProgressTask
from groundup.evaluate.intervals import paired_difference, ratio_interval
from groundup.model import IGNORE_INDEX
from groundup.quantize.comparison_inputs import InputsFunction, Predictions, next_token_inputs, predict

BATCH_TOKENS = 2_048
HEAD_TOKENS = 512
"""Tokens whose logits exist at a time."""


@dataclass(frozen=True)
class FloatComparison:
    """Means over the predicted tokens; None of an encoder that predicts none.

    Attributes:
        loss: nats per token.
        loss_difference: less the float model's.
        loss_difference_interval: 95% over windows, paired by window; None for a single window.
        kl_divergence: from the float model's distribution of each token, in nats.
        kl_interval: 95% over windows; None for a single window.
        top1_agreement: fraction of tokens for which both models rank the same token first.
        cosine: mean cosine similarity of the embeddings of a text by both models; encoders only.
    """

    loss: float | None
    kl_divergence: float | None
    kl_interval: list[float] | None
    top1_agreement: float | None
    cosine: float | None = None
    loss_difference: float | None = None
    loss_difference_interval: list[float] | None = None

    @property
    def perplexity(self) -> float | None:
        return None if self.loss is None else math.exp(self.loss)

    def bits_per_byte(self, bytes_per_token: float) -> float | None:
        return None if self.loss is None else self.loss / math.log(2) / bytes_per_token


@torch.no_grad()
def compare_with_float(
    float_model: nn.Module,
    models: dict[str, nn.Module],
    windows: Tensor,
    task: ProgressTask,
    inputs_of: InputsFunction = next_token_inputs,
) -> dict[str, FloatComparison]:
    """Compare each of `models` with `float_model`, which is listed as "float", on windows of tokens (N T).

    `inputs_of`: what the models predict, see `comparison_inputs`.
    """
    models = {"float": float_model, **models}
    device = next(float_model.parameters()).device
    sums: dict[str, list[Tensor]] = {name: [] for name in models}
    counts: list[Tensor] = []
    for batch in windows.split(max(1, BATCH_TOKENS // windows.shape[1])):
        inputs = {name: tensor.to(device) for name, tensor in inputs_of(batch).items()}
        counts.append((inputs["labels"] != IGNORE_INDEX).sum(1).cpu())
        expected = predict(float_model, inputs)
        for name, model in models.items():
            found = expected if model is float_model else predict(model, inputs)
            sums[name].append(_window_sums(expected, found, inputs["labels"]).cpu())
        task.advance(batch.numel())
    tokens = torch.cat(counts)
    windows_of = {name: torch.cat(rows) for name, rows in sums.items()}
    return {name: _means(rows, windows_of["float"], tokens) for name, rows in windows_of.items()}


def _window_sums(expected: Predictions, found: Predictions, labels: Tensor) -> Tensor:
    """Of each window, nats, KL divergence, agreeing tokens, and the cosine of the embeddings: (B 4) float64."""
    rows, columns = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
    targets = labels[rows, columns]
    sums = torch.zeros(len(labels), 4, dtype=torch.float64, device=labels.device)
    for begin in range(0, len(rows), HEAD_TOKENS):
        part = slice(begin, begin + HEAD_TOKENS)
        float_logprobs = expected.head(expected.hidden[part]).float().log_softmax(1)
        logprobs = float_logprobs
        if found is not expected:
            logprobs = found.head(found.hidden[part]).float().log_softmax(1)
        nats = -logprobs.gather(1, targets[part, None])[:, 0]
        probable = float_logprobs > -torch.inf  # tokens that a head excludes add nothing
        divergence = torch.where(probable, float_logprobs.exp() * (float_logprobs - logprobs), 0.0).sum(1)
        agrees = logprobs.argmax(1) == float_logprobs.argmax(1)
        sums[:, :3].index_add_(0, rows[part], torch.stack([nats, divergence, agrees.float()], 1).double())
    if expected.embeddings is not None and found.embeddings is not None:
        sums[:, 3] = F.cosine_similarity(expected.embeddings.double(), found.embeddings.double())
    else:
        sums[:, 3] = torch.nan
    return sums


def _means(sums: Tensor, float_sums: Tensor, tokens: Tensor) -> FloatComparison:
    """From sums of each window, by a model and the float model, and its predicted tokens: (N 4), (N 4) and (N)."""
    cosine = sums[:, 3].mean().item()
    similarity = None if math.isnan(cosine) else cosine
    total = int(tokens.sum())
    if total == 0:
        return FloatComparison(None, None, None, None, similarity)
    loss, divergence, agreement, _ = (sums.sum(0) / total).tolist()
    interval = ratio_interval(sums[:, 1].tolist(), tokens.tolist())
    paired = paired_difference([float_sums[:, 0].tolist()], [sums[:, 0].tolist()], tokens.tolist())
    return FloatComparison(
        loss, divergence, interval, agreement, similarity, loss_difference=paired.difference,
        loss_difference_interval=paired.interval,
    )  # fmt: skip
