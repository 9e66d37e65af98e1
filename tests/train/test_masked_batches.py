"""Masked batches: independent of the number of ranks; scores; refused settings."""

import numpy as np
import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.evaluate.masked_lm import make_mask_function, score_masked
from groundup.model import IGNORE_INDEX, build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import TokenShard
from groundup.tokenizer.special_tokens import SPECIAL_TOKENS, mask_token_names
from groundup.tokenizer.token_shards import ShardWriter
from groundup.tokenizer.tokenizer_training import train_bpe
from groundup.train.masked_batches import MaskedBatches
from groundup.train.token_batches import TokenBatches

SHAPE = {"vocab_size": 320, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "context_length": 48}


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(
        ["the cat sat on the mat, the hat"] * 3, 271, special_tokens=(*SPECIAL_TOKENS, *mask_token_names(8))
    )


@pytest.fixture(scope="module")
def shard(tokenizer, tmp_path_factory) -> TokenShard:
    folder = tmp_path_factory.mktemp("shard")
    with ShardWriter(
        folder, "train", vocab_size=tokenizer.vocab_size, tokenizer=tokenizer.fingerprint, end_of_text=tokenizer.eos_id
    ) as writer:
        lengths = np.array([700, 301])
        ids = np.random.default_rng(0).integers(20, 268, lengths.sum())
        writer.append(ids, lengths, ["a", "a"], [700, 301])
        writer.commit(1)
        writer.finish()
    return TokenShard(folder / "train")


def config(kind: str) -> ModelConfig:
    return ModelConfig(architecture=kind, **SHAPE)


@pytest.mark.parametrize("kind", ["encoder", "encoder_decoder"])
def test_masks_do_not_depend_on_the_number_of_ranks_and_change_with_the_step(shard, tokenizer, kind):
    mask_tokens = make_mask_function(config(kind), tokenizer)
    full = MaskedBatches(TokenBatches(shard, 48, 4, seed=3), mask_tokens, 3, 0)
    halves = [
        MaskedBatches(TokenBatches(shard, 48, 4, seed=3, rank=rank, num_ranks=2), mask_tokens, 3, rank)
        for rank in range(2)
    ]
    for step in (0, 5):
        found = full.batch(step)
        for name, rows in found.items():
            assert torch.equal(rows, torch.cat([half.batch(step)[name] for half in halves]))
            assert torch.equal(rows, full.batch(step)[name])
    label_sets = [
        rows.ne(IGNORE_INDEX) if kind == "encoder" else rows
        for rows in (full.batch(0)["labels"], full.batch(1)["labels"])
    ]
    assert not torch.equal(*label_sets)


def test_tokenizers_without_enough_mask_tokens_are_refused(shard, tokenizer):
    plain = train_bpe(["the cat sat on the mat, the hat"] * 3, 262)
    with pytest.raises(UserError, match="needs mask tokens"):
        make_mask_function(config("encoder"), plain)
    mask_tokens = make_mask_function(config("encoder_decoder"), tokenizer, mask_rate=0.5, mean_span_length=1.0)
    with pytest.raises(UserError, match="24 masked spans, and the tokenizer has 8"):
        mask_tokens(torch.zeros(1, 48, dtype=torch.long), torch.Generator())


@pytest.mark.parametrize("kind", ["encoder", "encoder_decoder"])
def test_masked_score_equals_the_model_loss(shard, tokenizer, kind):
    torch.manual_seed(0)
    model = build_model(config(kind)).eval()
    mask_tokens = make_mask_function(config(kind), tokenizer)
    found = score_masked(model, mask_tokens, shard, 48, max_tokens=400, seed=1)
    begins = [(shard.num_tokens - 48) * row // 7 for row in range(8)]
    rows = torch.stack([torch.from_numpy(shard.tokens[begin : begin + 48].astype(np.int64)) for begin in begins])
    with torch.no_grad():
        loss = model(**mask_tokens(rows, torch.Generator().manual_seed(1))).loss.item()
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["accuracy"] < 0.1
    with pytest.raises(UserError, match="sequence_length = 5000"):
        score_masked(model, mask_tokens, shard, 5000, max_tokens=400, seed=1)
