"""Advantages of answers to one prompt, each compared with the other answers of its group.

No model estimates what a prompt is worth: the other answers to it do. With rewards r_1 ... r_G of one group:

    grpo     (r_i - mean r) / (std r + 1e-4)    DeepSeekMath (Shao et al. 2024), section 4.1.2
    dr_grpo  r_i - mean r                       Liu et al. 2025, "Understanding R1-Zero-Like Training", section 3.2
    rloo     r_i - mean of the others           Ahmadian et al. 2024, "Back to Basics", section 3.2; Kool et al. 2019

Division by the standard deviation gives groups with little difference the weight of all others: also the prompts that are
nearly always or nearly never solved.
"""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

PolicyLossName = Literal["grpo", "dr_grpo", "rloo"]

EPSILON = 1e-4
"""Added to the standard deviation: a group of equal rewards has advantages of 0."""


def group_advantages(rewards: Float[Tensor, "P G"], loss: PolicyLossName = "grpo") -> Float[Tensor, "P G"]:
    """The advantage of each answer: P prompts with G answers each.

    >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), "rloo")
    tensor([[ 1.0000, -0.3333, -0.3333, -0.3333]])
    """
    if loss not in get_args(PolicyLossName):
        raise ValueError(f"loss {loss!r}: expected {', '.join(get_args(PolicyLossName))}")
    size = rewards.shape[1]
    if size < 2:
        raise ValueError(f"groups of {size}, expected at least 2: an answer is compared with the others")
    difference = rewards - rewards.mean(dim=1, keepdim=True)
    if loss == "grpo":
        return difference / (rewards.std(dim=1, keepdim=True) + EPSILON)
    if loss == "rloo":  # r_i - (sum r - r_i) / (G - 1) = (r_i - mean r) G / (G - 1)
        return difference * (size / (size - 1))
    return difference
