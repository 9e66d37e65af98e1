"""Quantized models compared with their float model on held-out text: loss, KL divergence, top-1 agreement."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groundup.artifacts.progress import ProgressTask
from groundup.model import Decoder

BATCH_TOKENS = 2_048


@dataclass(frozen=True)
class FloatComparison:
    """Means over the predicted tokens.

    Attributes:
        loss: nats per token.
        kl_divergence: from the float model's next-token distribution, in nats.
        top1_agreement: fraction of tokens for which both models rank the same token first.
    """

    loss: float
    kl_divergence: float
    top1_agreement: float

    def bits_per_byte(self, bytes_per_token: float) -> float:
        return self.loss / math.log(2) / bytes_per_token


@torch.no_grad()
def compare_with_float(
    float_model: nn.Module, models: dict[str, nn.Module], windows: Tensor, task: ProgressTask
) -> dict[str, FloatComparison]:
    """Compare each of `models` with `float_model`, which is listed as "float", on windows of tokens (N T)."""
    models = {"float": float_model, **models}
    device = next(float_model.parameters()).device
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in models}
    for batch in windows.split(max(1, BATCH_TOKENS // windows.shape[1])):
        batch = batch.to(device)
        targets = batch[:, 1:].flatten()
        expected = _log_probabilities(float_model, batch)
        for name, model in models.items():
            logprobs = expected if model is float_model else _log_probabilities(model, batch)
            nats = -logprobs.gather(1, targets[:, None]).double().sum()
            divergence = (expected.exp() * (expected - logprobs)).double().sum()
            agreement = (logprobs.argmax(1) == expected.argmax(1)).double().sum()
            sums[name] += torch.stack([nats, divergence, agreement]).cpu()
        task.advance(batch.numel())
    count = windows.shape[0] * (windows.shape[1] - 1)
    return {name: FloatComparison(*(total / count).tolist()) for name, total in sums.items()}


def _log_probabilities(model: nn.Module, tokens: Tensor) -> Tensor:
    """Log-probabilities of the next token at all positions but the last: float32 (B * (T - 1), V)."""
    assert isinstance(model, Decoder)
    return model.logits(model.hidden_states(tokens)[:, :-1].flatten(0, 1)).float().log_softmax(1)
