"""What the fewer bits cost: the small model beside the large one, on text that neither has learned from."""

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
        divergence: Kullback-Leibler divergence from the large model's next-token distribution, in nats.
        agreement: share of tokens where both hold the same token for the likeliest.
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
    """Every model of `small` beside `large` on the windows (N T), in one pass; `large` itself under the name
    "float".
    """
    models = {"float": float_model, **models}
    device = next(float_model.parameters()).device
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in models}
    for part in windows.split(max(1, BATCH_TOKENS // windows.shape[1])):
        part = part.to(device)
        targets = part[:, 1:].flatten()
        expected = _log_probabilities(float_model, part)
        for name, model in models.items():
            found = expected if model is float_model else _log_probabilities(model, part)
            nats = -found.gather(1, targets[:, None]).double().sum()
            divergence = (expected.exp() * (expected - found)).double().sum()
            agreement = (found.argmax(1) == expected.argmax(1)).double().sum()
            sums[name] += torch.stack([nats, divergence, agreement]).cpu()
        task.advance(part.numel())
    count = windows.shape[0] * (windows.shape[1] - 1)
    return {name: FloatComparison(*(total / count).tolist()) for name, total in sums.items()}


def _log_probabilities(model: nn.Module, tokens: Tensor) -> Tensor:
    """Of every token after each but the last: float32 (B * (T - 1), V)."""
    assert isinstance(model, Decoder)
    return model.logits(model.hidden_states(tokens)[:, :-1].flatten(0, 1)).float().log_softmax(1)
