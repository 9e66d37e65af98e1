"""Reward models: one number for an answer, from the hidden state of its last token (Ouyang et al. 2022, section 3.5)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.generate.text_embedding import batches_by_length, pad_ids
from groundup.tokenizer import Tokenizer


class RewardModel(nn.Module):
    """A decoder, and a linear layer from the last hidden state of a conversation to its reward.

    Attributes:
        model: the decoder.
        score: the layer, small random values at first.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.config = model, model.config
        width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.score = nn.Linear(width, 1, bias=False, device=next(model.parameters()).device)
        nn.init.normal_(self.score.weight, std=(width + 1) ** -0.5)  # Stiennon et al. 2020, appendix C

    def forward(self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The reward of each row, whose first `lengths` tokens are its conversation."""
        hidden: Tensor = self.model.hidden_states(tokens)  # type: ignore[operator]
        last = hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
        return self.score(last.to(self.score.weight.dtype)).sum(dim=1).float()  # of one number: FSDP wants no view


def score_answers(
    reward_model: RewardModel, tokenizer: Tokenizer, conversations: Sequence[Sequence[Mapping[str, Any]]]
) -> Float[Tensor, " N"]:
    """The reward of the last answer of each conversation, a list of messages. Raises UserError for one that is too long.

    >>> score_answers(model, tokenizer, [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]])
    """
    ids = [tokenizer.render_chat(list(messages)) for messages in conversations]
    limit = int(reward_model.config.context_length)  # type: ignore[union-attr, arg-type]
    if too_long := [index for index, row in enumerate(ids) if len(row) > limit]:
        raise UserError(f"conversation {too_long[0]} has {len(ids[too_long[0]])} tokens, expected at most {limit}")
    device = next(reward_model.parameters()).device
    rewards = torch.zeros(len(ids))
    reward_model.eval()
    with torch.inference_mode():
        for rows in batches_by_length(ids):
            tokens, lengths = pad_ids([ids[row] for row in rows])
            rewards[rows] = reward_model(tokens.to(device), lengths.to(device)).cpu()
    return rewards
