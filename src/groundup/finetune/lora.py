"""LoRA for training: which layers get it (layers and merging: interop/adapters)."""

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.interop.adapters.lora_layer import LoRALinear, lora_layers


def apply_lora(model: nn.Module, rank: int, alpha: float) -> list[str]:
    """Freeze the model and add LoRA to the linear layers of its blocks, in place. Returns their names.

        apply_lora(model, rank=16, alpha=32.0)

    Initial values come from torch's global generator, in the order of the names. Raises UserError for a model with LoRA.
    """
    if rank < 1:
        raise UserError(f"rank = {rank}, expected at least 1")
    if lora_layers(model):
        raise UserError("the model already has LoRA layers", hint="merge_lora(model) first")
    model.requires_grad_(False)
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear and ".blocks." in f".{name}"]
    for name in names:
        model.set_submodule(name, LoRALinear(model.get_submodule(name), rank, alpha))  # type: ignore[arg-type]
    return names
