"""Tasks of lm-evaluation-harness in a recipe: [evaluate.harness] of the finished model, [train.harness] during training."""

from pathlib import Path
from typing import Any

from torch import nn

from groundup.artifacts.machine import Machine
from groundup.evaluate.comparison.item_scores import ItemScore
from groundup.recipe.evaluate_config import HarnessConfig
from groundup.tokenizer import Tokenizer


def harness_scores(
    config: HarnessConfig,
    model: nn.Module,
    tokenizer: Tokenizer,
    machine: Machine,
    seed: int,
    items: list[ItemScore] | None = None,
) -> dict[str, dict[str, Any]]:
    """The scores of the tasks, by task and group; see `run_harness`."""
    from groundup.evaluate.lm_eval_adapter import run_harness

    folder = Path(machine.harness_datasets) if machine.harness_datasets else None
    return run_harness(
        model, tokenizer, config.tasks, machine.progress, datasets_folder=folder, num_fewshot=config.num_fewshot,
        limit=config.limit, seed=seed, items=items,
    )  # fmt: skip
