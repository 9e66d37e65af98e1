"""10-export: the model of the last training stage, in an export format."""

import shutil
from pathlib import Path
from typing import Any

import torch

from groundup.artifacts.directory import FINGERPRINT_FILE
from groundup.artifacts.machine import Machine
from groundup.interop.families.select_family import select_family
from groundup.interop.fold_scales import fold_scales
from groundup.interop.model_export import export
from groundup.interop.model_loading import open_model
from groundup.recipe import ModelConfig, RecipeView
from groundup.stages import last_model_stage

SAMPLE_TOKENS = 32


def run(recipe: RecipeView, inputs: dict[str, Path], out: Path, machine: Machine) -> dict[str, Any]:
    """Export the model, read the export again, and compare the logits of both.

    Returns the metrics format, dtype, family, from (stage of the model), files, bytes, max_logit_difference.
    """
    for entry in out.iterdir():  # leftovers of an interrupted attempt
        if entry.name != FINGERPRINT_FILE:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    source = last_model_stage(inputs) or "base"
    with machine.progress.task("export", total=2, unit="steps") as task:
        model, tokenizer = open_model(inputs[source], device="cpu", verify=False)
        files = export(
            model, tokenizer, out, format=recipe.export.format, dtype=recipe.export.dtype, source=inputs[source]
        )
        task.advance()
        reopened, _ = open_model(out, device="cpu", dtype=torch.float32)
        difference = logit_difference(model.float(), reopened)
        task.advance()
    return {
        "format": recipe.export.format,
        "dtype": recipe.export.dtype,
        "family": select_family(fold_scales(model)[0]).name,
        "from": source,
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "max_logit_difference": difference,
    }


@torch.no_grad()
def logit_difference(model: torch.nn.Module, other: torch.nn.Module) -> float:
    """The largest absolute difference of a logit, over tokens spread over the vocabulary."""
    config: ModelConfig = model.config  # type: ignore[assignment]
    tokens = torch.arange(min(SAMPLE_TOKENS, config.context_length))[None] * 7919 % config.vocab_size
    if not other.config.masked_lm_head:  # type: ignore[union-attr]
        config = other.config  # type: ignore[assignment]  # a GGUF file has an encoder without its head
    return (_output(model, config, tokens) - _output(other, config, tokens)).abs().max().item()


def _output(model: Any, config: ModelConfig, tokens: torch.Tensor) -> torch.Tensor:
    if config.architecture == "encoder_decoder":
        return model(tokens, decoder_tokens=tokens).logits
    if config.architecture == "encoder" and not config.masked_lm_head:
        return model.hidden_states(tokens)
    return model(tokens).logits
