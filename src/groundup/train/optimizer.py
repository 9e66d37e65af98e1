"""Which weights move by which rule.

Matrices decay toward zero, vectors (norm scales, biases) do not: decay is a prior on maps, and a norm scale is none.
"""

from collections.abc import Iterable

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.recipe.train_config import TrainConfig
from groundup.train.low_memory_adamw import LowMemoryAdamW


def build_optimizers(
    model: nn.Module, train: TrainConfig, learning_rate: float
) -> list[torch.optim.Optimizer]:
    """One AdamW, or Muon for the blocks' matrices beside an AdamW for the rest.

    Raises UserError for Muon with bfloat16 weights, which its small steps would not move.

    Each parameter group carries `peak`, its learning rate at the top of the schedule; `set_learning_rate` scales it.
    """
    hidden, embeddings, vectors = split_parameters(model)
    if train.optimizer == "muon":
        if train.precision == "bfloat16-pure":
            raise UserError(
                "train.optimizer = muon needs float32 weights, and train.precision = bfloat16-pure has none",
                hint="set train.precision=bfloat16",
            )
        # Muon's update has the same size in every direction (Jordan et al. 2024). With match_rms_adamw its step has
        # the root mean square of AdamW's, but the plain form with its own rate is what small models were tuned with.
        muon = torch.optim.Muon(
            hidden,
            lr=train.muon_learning_rate,
            momentum=0.95,
            nesterov=True,
            weight_decay=train.weight_decay,
        )
        groups = [{"params": embeddings, "weight_decay": 0.0}, {"params": vectors, "weight_decay": 0.0}]
        optimizers: list[torch.optim.Optimizer] = [muon, _adamw(groups, train, learning_rate)]
    else:
        groups = [
            {"params": hidden + embeddings, "weight_decay": train.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizers = [_adamw(groups, train, learning_rate)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], multiplier: float) -> None:
    """Put every group at `share` of its peak learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = multiplier * group["peak_lr"]


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters as (matrices of the blocks, embeddings and head, vectors), each once, in a stable order."""
    table_modules = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    tables = {id(parameter) for module in table_modules for parameter in module.parameters()}
    hidden, embeddings, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif id(parameter) in tables or name.startswith(("head.", "lm_head.")):
            embeddings.append(parameter)
        else:
            hidden.append(parameter)
    return hidden, embeddings, vectors


def _adamw(groups: list[dict], train: TrainConfig, learning_rate: float) -> torch.optim.Optimizer:
    groups = [group for group in groups if group["params"]]
    betas = (train.beta1, train.beta2)
    if train.optimizer_state_dtype == "float8" or train.precision == "bfloat16-pure":
        return LowMemoryAdamW(
            groups, lr=learning_rate, betas=betas,
            float8_state=train.optimizer_state_dtype == "float8", stochastic_rounding=train.stochastic_rounding,
        )  # fmt: skip
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=1e-8, fused=True)
