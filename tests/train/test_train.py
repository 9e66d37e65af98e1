"""Training from Python without a recipe: `train`, `make_batches`, and token arrays in memory."""

import numpy as np
import pytest
import torch

from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.train import BatchSource, build_optimizers, clip_grad_norm, make_batches, train
from groundup.train.low_memory_adamw import LowMemoryAdamW
from groundup.train.sequence_packing import TokenArray

CONFIG = {"vocab_size": 16, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 16}
TOKENS = list(range(16)) * 20


def model():
    torch.manual_seed(0)
    return build_model(ModelConfig(**CONFIG))


def test_train_learns_from_a_list_of_tokens_and_returns_evaluations(tmp_path):
    decoder = model()
    batches = make_batches(TOKENS, sequence_length=16, batch_size=4)
    assert isinstance(batches, BatchSource)
    result = train(
        decoder, batches, steps=40, learning_rate=1e-2, device="cpu", eval_fn=lambda m: {"training": m.training},
        evaluate_every=20,
    )  # fmt: skip
    assert result.records[-1]["loss"] < 0.3 * result.records[0]["loss"]
    assert [record["step"] for record in result.evaluations] == [20, 40]
    assert not any(record["training"] for record in result.evaluations)
    assert not decoder.training


def test_train_resumes_from_its_folder_and_accepts_a_list_of_batches(tmp_path):
    batches = [make_batches(TOKENS, 16, 2).batch(step) for step in range(3)]
    straight, resumed = model(), model()
    train(straight, batches, steps=6, device="cpu")
    train(resumed, batches, steps=3, device="cpu", folder=tmp_path, lr_schedule="constant")
    result = train(model(), batches, steps=6, device="cpu", folder=tmp_path, lr_schedule="constant")
    assert [record["step"] for record in result.records] == [0, 1, 2, 3, 4, 5]


def test_token_array_splits_documents_at_the_end_of_text():
    array = TokenArray(np.array([5, 6, 9, 7, 9, 8, 8, 9]), end_of_text=9)
    assert array.document_offsets.tolist() == [0, 3, 5, 8]
    documents, counts = array.documents_in_range(2, 7)
    assert (documents, counts.tolist()) == (slice(0, 3), [1, 2, 2])
    batch = make_batches(array.ids, 4, 3, end_of_text=9, packing="best-fit", document_mask=True).batch(0)
    assert sorted(row.tolist() for row in batch["tokens"]) == [[5, 6, 9, 9], [7, 9, 9, 9], [8, 8, 9, 9]]


@pytest.mark.parametrize(("max_norm", "expected"), [(1.0, 1.0), (None, 5.0), (9.0, 5.0)])
def test_clip_grad_norm_without_a_mesh(max_norm, expected):
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert clip_grad_norm([weight], max_norm).item() == 5.0
    assert weight.grad.norm().item() == pytest.approx(expected)


def test_build_optimizers_without_a_recipe():
    (optimizer,) = build_optimizers(model(), learning_rate=1e-3)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert not isinstance(optimizer, LowMemoryAdamW)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
