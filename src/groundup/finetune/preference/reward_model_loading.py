"""Reward models from folders: the model that is open, and the layer beside its files."""

from pathlib import Path

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.generate import RewardModel
from groundup.interop.reward_files import read_reward


def load_reward_model(model: nn.Module, folder: Path | str) -> RewardModel:
    """The reward model of `model`, which was opened from `folder`, such as runs/mine/07-preference, in evaluation mode.

        model, tokenizer = open_model("runs/mine/07-preference")
        reward_model = load_reward_model(model, "runs/mine/07-preference")

    `folder` may also be one of transformers or trl: a decoder ForSequenceClassification with one label. Raises UserError for a
    model without a reward, for another model than the reward was trained with, and for damaged files.
    """
    weight = read_reward(Path(folder), model)
    reward_model = RewardModel(model)
    if weight.shape != reward_model.score.weight.shape:
        expected = list(reward_model.score.weight.shape)
        raise UserError(f"{folder}: damaged: a reward of shape {list(weight.shape)}, expected {expected}")
    reward_model.score.load_state_dict({"weight": weight})
    return reward_model.eval()
