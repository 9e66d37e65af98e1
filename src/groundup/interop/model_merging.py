"""One model from several: weighted means, task arithmetic and TIES.

All models have one configuration and one vocabulary. linear: the weighted mean of the weights (Wortsman et al. 2022, model
soups). The others add to a base what fine-tuning changed, the task vectors: task-arithmetic their weighted sum (Ilharco et al.
2023), ties the weighted mean of the largest changes of each tensor that agree in sign (Yadav et al. 2023).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from groundup.artifacts.arguments import check_choice
from groundup.artifacts.directory import new_folder
from groundup.artifacts.errors import UserError
from groundup.interop.adapters import split_adapter
from groundup.interop.adapters.adapter_config import ADAPTER_CONFIG
from groundup.interop.families.select_family import config_differences
from groundup.interop.model_card import write_card_files
from groundup.interop.model_loading import open_model, resolve_model_path
from groundup.model import save_model

CHUNK_VALUES = 1 << 20
"""Values of a tensor that are merged at a time, in float32."""
TIES_DENSITY = 0.2
"""Part of the changes that TIES keeps (Yadav et al., section 4)."""


def merge_models(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    method: str = "linear",
    weights: Sequence[float] | None = None,
    base: Path | str | None = None,
    density: float = TIES_DENSITY,
    verify: bool = True,
) -> None:
    """Write the merged model of `paths` to the new folder `out`, which every command opens.

    Args:
        paths: models in floating point; also adapter folders, each on `base` or on the base that it names.
        method: linear, task-arithmetic or ties.
        weights: one for each path; default: equal ones with the sum 1 for linear, else 1.
        base: what the models were trained from, for task-arithmetic and ties.
        density: ties: part of the changes that is kept.

    In memory: the merged model, and of the others what is not mapped from files of safetensors.
    Raises UserError for models that differ in configuration or vocabulary.
    """
    check_choice("method", method, MERGES)
    if (base is None) != (method == "linear"):
        needs = (
            "is for task-arithmetic and ties" if base is not None else "is missing: what the models were trained from"
        )
        raise UserError(f"method {method}: base {needs}", hint="--base MODEL with --method task-arithmetic or ties")
    factors = _checked_weights(weights, len(paths), method)
    if not 0 < density <= 1:
        raise UserError(f"density = {density}, expected more than 0 and at most 1")
    with new_folder(Path(out)) as partial:
        merged, tokenizer = open_model(paths[0] if base is None else base, "cpu", verify=verify)
        states: list[dict[str, Tensor]] = []
        for path in paths:
            on_base = base is not None and (Path(path) / ADAPTER_CONFIG).is_file()
            source, adapter = (base, path) if on_base else (path, None)
            model, words = open_model(source, "cpu", adapter=adapter, verify=verify)  # type: ignore[arg-type]
            if differences := config_differences(merged.config, model.config):  # type: ignore[arg-type]
                raise UserError(f"{path}: another configuration than the first model: {differences[0]}")
            if words.vocabulary != tokenizer.vocabulary:
                raise UserError(f"{path}: another vocabulary than the first model, so its embeddings mean other tokens")
            states.append(dict(model.state_dict()))
            del model
        with torch.no_grad():
            for name, tensor in merged.state_dict().items():
                sources = [state.pop(name) for state in states]  # so that the pages of their files are given back
                if tensor.is_floating_point():
                    _merge(tensor, sources, factors, method, density)
        save_model(merged, partial)
        tokenizer.save(partial)
        write_card_files(resolve_model_path(split_adapter(paths[0], None)[0]), partial)


def _merge(tensor: Tensor, sources: Sequence[Tensor], factors: list[float], method: str, density: float) -> None:
    """Write the merged tensor into that of the base, some rows at a time unless the method looks at all of it."""
    rows = len(tensor) if method == "ties" or not tensor.ndim else max(1, CHUNK_VALUES // max(1, tensor[0].numel()))
    parts = (
        [(tensor, *sources)]
        if not tensor.ndim
        else zip(*(each.split(rows) for each in (tensor, *sources)), strict=True)
    )
    for base, *changed in parts:
        base.copy_(MERGES[method](base.float(), [each.float() for each in changed], factors, density))


def _checked_weights(weights: Sequence[float] | None, count: int, method: str) -> list[float]:
    if weights is None:
        return [1 / count if method == "linear" else 1.0] * count
    if len(weights) != count:
        raise UserError(f"{len(weights)} weights for {count} models, expected one for each")
    if method == "linear" and abs(sum(weights) - 1) > 1e-6:
        raise UserError(f"weights with the sum {sum(weights):g}, expected 1 for a mean", hint="0.7,0.3")
    return list(weights)


def _linear(base: Tensor, parts: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    return sum((weight * part for weight, part in zip(weights, parts, strict=True)), torch.zeros_like(base))


def _task_arithmetic(base: Tensor, parts: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    return base + _linear(base, [part - base for part in parts], weights, density)


def _ties(base: Tensor, parts: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """Trim each change to its largest values, elect the sign of each weight, and take the mean of those that agree."""
    changes = torch.stack(
        [weight * _trimmed(part - base, density) for weight, part in zip(weights, parts, strict=True)]
    )
    agree = (changes.sign() == changes.sum(0).sign()) & (changes != 0)
    factors = torch.tensor(weights, dtype=base.dtype).abs().view(-1, *[1] * base.ndim) * agree
    return base + (changes * agree).sum(0) / factors.sum(0).clamp(min=torch.finfo(base.dtype).tiny)


def _trimmed(change: Tensor, density: float) -> Tensor:
    kept = max(1, round(density * change.numel()))
    smallest = change.abs().flatten().kthvalue(change.numel() - kept + 1).values
    return torch.where(change.abs() >= smallest, change, 0.0)


MERGES: dict[str, Callable[[Tensor, Sequence[Tensor], Sequence[float], float], Tensor]] = {
    "linear": _linear,
    "task-arithmetic": _task_arithmetic,
    "ties": _ties,
}
