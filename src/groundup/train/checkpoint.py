"""What a killed run continues from: weights, optimizer state and the step, in safetensors and JSON, never pickled.

A checkpoint is a folder that gets its name when it is complete: `checkpoints/step-00000120/`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from groundup.artifacts.errors import UserError

KEPT = 2
"""The newest and the one before it: a fault in the newest still leaves a run to continue."""


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    records: dict[str, Any],
) -> Path:
    """Write the state after `step` finished steps; older checkpoints beyond the kept ones are removed afterwards."""
    final = folder / f"step-{step:08d}"
    work = folder / f".{final.name}.partial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    save_file(_trainable(model), work / "model.safetensors")
    for index, optimizer in enumerate(optimizers):
        save_file(_optimizer_tensors(optimizer), work / f"optimizer-{index}.safetensors")
    (work / "state.json").write_text(json.dumps({"step": step, "records": records}), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    work.rename(final)
    for old in complete(folder)[:-KEPT]:
        shutil.rmtree(old)
    return final


def complete(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def load_latest(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, dict[str, Any]]:
    """Restore the newest readable checkpoint in place; returns (finished steps, records), or (0, {}) where there is none.

    Raises UserError when a checkpoint belongs to a model of another shape.
    """
    for path in reversed(complete(folder)):
        try:
            weights = load_file(path / "model.safetensors")
            states = [load_file(path / f"optimizer-{index}.safetensors") for index in range(len(optimizers))]
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        except (SafetensorError, ValueError, OSError):
            continue  # damaged: the one before it is whole
        _restore_weights(path, model, weights)
        for optimizer, tensors in zip(optimizers, states, strict=True):
            _restore_optimizer(optimizer, tensors)
        return state["step"], state["records"]
    return 0, {}


def _trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    """Trainable weights by name, each once: a tied head is the embedding."""
    return {
        name: weight.detach().contiguous()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


def _restore_weights(path: Path, model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    own = _trainable(model)
    if own.keys() != weights.keys() or any(own[name].shape != weights[name].shape for name in own):
        raise UserError(f"{path}: a checkpoint of another model", hint=f"remove {path.parent} to start anew")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in weights:
                weight.copy_(weights[name])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{key}": value.detach().contiguous()
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
