"""Trained rows of token matrices: the same loss and gradients as those of the whole matrix, without it."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from groundup.model import Decoder
from groundup.model.loss import IGNORE_INDEX
from groundup.model.token_rows import embed_tokens, split_token_rows
from groundup.recipe import ModelConfig


class AddedRows(nn.Module):
    """weight + delta at some rows."""

    enabled = True

    def __init__(self, indices, width):
        super().__init__()
        self.token_indices = torch.tensor(indices)
        self.delta = nn.Parameter(0.1 * torch.randn(len(indices), width))

    def forward(self, weight):
        return weight.index_add(0, self.token_indices, self.delta)


def split_decoder(tied):
    """A decoder, frozen, with trained rows: not in order."""
    torch.manual_seed(0)
    shape = {"vocab_size": 264, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 32}
    model = Decoder(ModelConfig(**shape, tie_embeddings=tied)).requires_grad_(False)
    for table in [model.embedding.tokens] if tied else [model.embedding.tokens, model.head]:
        parametrize.register_parametrization(table, "weight", AddedRows([7, 1, 3], 32))
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("masked", [0, 14])
def test_loss_and_gradients_equal_those_of_the_whole_matrix(tied, masked):
    model = split_decoder(tied)
    tokens = torch.randint(0, 12, (2, 20))
    labels = tokens.clone()
    labels[:, :masked] = IGNORE_INDEX
    deltas = [weight for weight in model.parameters() if weight.requires_grad]
    loss = model(tokens, labels=labels).loss
    found = torch.autograd.grad(loss, deltas)
    logits = model(tokens).logits[:, :-1].flatten(0, 1)  # the head reads the whole matrix
    slow = nn.functional.cross_entropy(logits, labels[:, 1:].flatten())
    assert torch.allclose(loss, slow, atol=1e-6)
    whole = torch.autograd.grad(slow, deltas)
    assert all(torch.allclose(ours, theirs, atol=1e-6) for ours, theirs in zip(found, whole, strict=True))


def test_embedding_equals_that_of_the_whole_matrix():
    table = split_decoder(tied=True).embedding.tokens
    delta = next(weight for weight in table.parameters() if weight.requires_grad)
    tokens, upstream = torch.randint(0, 12, (2, 20)), torch.randn(2, 20, 32)
    ours, whole = embed_tokens(table, tokens), table(tokens)
    assert torch.equal(ours, whole)
    assert torch.allclose(*(torch.autograd.grad(x, delta, upstream)[0] for x in (ours, whole)), atol=1e-6)


def test_nothing_of_the_size_of_the_matrix_is_kept_or_returned():
    model = split_decoder(tied=True)
    frozen, _ = split_token_rows(model.embedding.tokens)
    kept: list[torch.Tensor] = []
    tokens = torch.randint(0, 12, (1, 4))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model(tokens, labels=tokens).loss.backward()
    assert all(t.numel() < frozen.numel() or t.data_ptr() == frozen.data_ptr() for t in kept)


def test_a_row_without_targets_has_no_loss_and_no_gradient():
    model = split_decoder(tied=True)
    tokens = torch.randint(0, 12, (1, 6))
    model(tokens, labels=torch.full_like(tokens, IGNORE_INDEX)).loss.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert not any(gradient is None or gradient.any() for gradient in gradients)
