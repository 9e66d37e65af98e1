"""Planned memory of tuning against the tensors that live in a step, with the kernels of an accelerator and of a CPU."""

import contextlib
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groundup.finetune.lora import LoRAOptions, prepare_lora
from groundup.finetune.response_log_probs import masked_log_probs
from groundup.finetune.tuning_memory import tuning_memory
from groundup.model import build_model
from groundup.plan.memory.memory_estimate import DeviceKind
from groundup.quantize.layers.nf4_linear import pack_nf4
from groundup.recipe import ModelConfig
from groundup.recipe.tuning_config import TuningConfig
from groundup.train.mixed_precision import autocast
from groundup.train.objectives import NEXT_TOKEN, next_token_batch
from groundup.train.simulation import accelerator_kernels

ROWS, LENGTH, RANK = 2, 128, 8
SMALL = {"vocab_size": 4096, "hidden_size": 128, "num_layers": 3, "num_heads": 4, "context_length": LENGTH}
LATER = SMALL | {"num_kv_heads": 2, "qk_norm": True, "tie_embeddings": True}


class LivingTensors(TorchDispatchMode):
    """Bytes of the tensors that live at once, at most."""

    def __init__(self, tensors: list[torch.Tensor]):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0
        for tensor in tensors:
            self._add(tensor)

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, address: int) -> None:
        self.now -= self.sizes.pop(address)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor)
        return result


def peak_of_a_step(config: ModelConfig, tuning: TuningConfig, kind: DeviceKind, *, answers: bool) -> int:
    model = build_model(config)
    if tuning.method == "qlora":
        pack_nf4(model)
    prepare_lora(model, RANK, 16.0, LoRAOptions(token_rows=False))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    moments = [torch.zeros_like(weight) for weight in trained * 2]
    tokens = torch.randint(config.vocab_size, (ROWS, LENGTH))
    kernels = accelerator_kernels() if kind == "cuda" else contextlib.nullcontext()
    with kernels, LivingTensors([*model.parameters(), *model.buffers(), *moments]) as living:
        with autocast(torch.device("cpu"), tuning.precision):
            if answers:
                loss = -masked_log_probs(model, tokens, torch.ones_like(tokens)).sum()
            else:
                loss = NEXT_TOKEN.loss(model, next_token_batch(tokens))
        loss.backward()
    return living.peak


@pytest.mark.parametrize(
    ("knobs", "method", "precision", "kind", "answers"),
    [
        (SMALL, "lora", "bfloat16", "cuda", False),
        (LATER, "lora", "float32", "cpu", False),
        (LATER, "qlora", "bfloat16", "cpu", False),
        (SMALL, "qlora", "bfloat16", "cuda", True),
    ],
)
def test_planned_memory_is_that_of_a_step(knobs, method, precision, kind, answers):
    config = ModelConfig(**knobs)
    tuning = TuningConfig(method=method, lora_rank=RANK, precision=precision)
    planned = tuning_memory(config, tuning, LENGTH, ROWS, None, kind=kind, whole_answers=answers)
    peak = peak_of_a_step(config, tuning, kind, answers=answers)
    assert planned.total - planned.process - planned.slack == pytest.approx(peak, rel=0.03)


def test_a_teacher_adds_its_files_and_its_logits(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    tuning, config = TuningConfig(method="lora", lora_rank=RANK), ModelConfig(**SMALL)
    alone, taught = (
        tuning_memory(config, tuning, LENGTH, ROWS, None, kind="cuda", whole_answers=True, teacher=teacher)
        for teacher in (None, tmp_path)
    )
    assert taught.weights == alone.weights + 1000
    assert taught.logits > 1.8 * alone.logits
