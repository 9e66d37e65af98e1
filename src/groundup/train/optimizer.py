"""Optimizers: AdamW for all parameters, or Muon for the matrices of blocks.

Weight decay applies to matrices only, not to vectors (norm scales, biases).
"""

from collections.abc import Iterable

import torch
from torch import nn

from groundup.plan.checks.engine_support import check_optimizer
from groundup.recipe.train_config import TrainConfig
from groundup.train.low_memory_adamw import LowMemoryAdamW

DEFAULT_LEARNING_RATE = 3e-4
LEARNING_RATE_RATIO = "learning_rate_ratio"
"""Attribute of a parameter whose learning rate is that of the others times this number; AdamW alone."""


def build_optimizers(
    model: nn.Module, config: TrainConfig | None = None, learning_rate: float | None = None
) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon for the blocks' matrices and AdamW for the rest, if `config.optimizer` is "muon".

        optimizers = build_optimizers(model, learning_rate=3e-4)

    Each parameter group stores its peak learning rate as `peak_lr`; `set_learning_rate` scales it.
    Raises UserError for Muon with bfloat16 weights, whose rounding would lose its small updates.
    """
    train = config or TrainConfig()
    learning_rate = learning_rate or train.learning_rate or DEFAULT_LEARNING_RATE
    matrices, embeddings, vectors = split_parameters(model)
    if train.optimizer == "muon":
        check_optimizer(train)
        # Muon's update has the same size in every direction (Jordan et al. 2024). Its own learning rate instead of
        # match_rms_adamw, which scales the step to AdamW's RMS: the recipes' rates were tuned without it.
        muon = torch.optim.Muon(
            matrices, lr=train.muon_learning_rate, momentum=0.95, nesterov=True, weight_decay=train.weight_decay
        )
        groups = [{"params": embeddings, "weight_decay": 0.0}, {"params": vectors, "weight_decay": 0.0}]
        optimizers: list[torch.optim.Optimizer] = [muon, _adamw(groups, train, learning_rate)]
    else:
        groups = [
            {"params": matrices + embeddings, "weight_decay": train.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizers = [_adamw(groups, train, learning_rate)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def get_learning_rate_ratio(parameter: nn.Parameter) -> float:
    """The learning rate of a parameter over that of the others."""
    return getattr(parameter, LEARNING_RATE_RATIO, 1.0)


def set_learning_rate_ratio(parameter: nn.Parameter, ratio: float) -> None:
    """Give a parameter `ratio` times the learning rate of the others."""
    if ratio != 1.0:
        setattr(parameter, LEARNING_RATE_RATIO, ratio)


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], multiplier: float) -> None:
    """Set the learning rate of every group to `multiplier` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = multiplier * group["peak_lr"]


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters as (matrices of the blocks, embeddings and head, vectors), each once, in a stable order."""
    table_modules = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    tables = {id(parameter) for module in table_modules for parameter in module.parameters()}
    matrices, embeddings, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif id(parameter) in tables or name.startswith(("head.", "lm_head.")):
            embeddings.append(parameter)
        else:
            matrices.append(parameter)
    return matrices, embeddings, vectors


def _adamw(groups: list[dict], train: TrainConfig, learning_rate: float) -> torch.optim.Optimizer:
    groups = [part for group in groups for part in _by_learning_rate(group, learning_rate)]
    betas = (train.beta1, train.beta2)
    if train.optimizer_state_dtype == "float8" or train.precision == "bfloat16-pure":
        return LowMemoryAdamW(
            groups, lr=learning_rate, betas=betas,
            float8_state=train.optimizer_state_dtype == "float8", stochastic_rounding=train.stochastic_rounding,
        )  # fmt: skip
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=1e-8, fused=True)


def _by_learning_rate(group: dict, learning_rate: float) -> list[dict]:
    """`group`, with a part of its own for each LEARNING_RATE_RATIO of its parameters; none if it is empty."""
    parts: dict[float, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        parts.setdefault(get_learning_rate_ratio(parameter), []).append(parameter)
    return [group | {"params": params, "lr": ratio * learning_rate} for ratio, params in parts.items()]
