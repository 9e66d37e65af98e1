"""A synthetic language, a tokenizer for it, token shards, and a small model trained on them."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer, TokenShard
from groundup.tokenizer.token_shards import ShardWriter
from groundup.tokenizer.tokenizer_training import train_bpe

WORDS = ["river", "stone", "lantern", "winter", "garden", "silver", "morning", "thunder", "candle", "harbour"]


def make_text(seed: int, sentences: int = 12) -> str:
    """Sentences with one subject and one destination per text."""
    generator = random.Random(seed)
    subject, destination = generator.choice(WORDS), generator.choice(WORDS)
    return " ".join(
        f"The {subject} went to the {destination} and saw the {generator.choice(WORDS)}." for _ in range(sentences)
    )


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe([make_text(seed) for seed in range(100)] + ["Größe, Ωμέγα, 東京 " * 3], 320)


@pytest.fixture(scope="session")
def shards(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train and validation shards of two sources."""
    folder = tmp_path_factory.mktemp("tokens")
    for split, seeds in (("train", range(100)), ("validation", range(1000, 1024))):
        texts = [make_text(seed) for seed in seeds]
        documents = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
        names = [("tales", "legends")[seed % 2] for seed in seeds]
        identity = {"vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.fingerprint, "end_of_text": 0}
        with ShardWriter(folder, split, **identity) as writer:
            lengths, sizes = [len(ids) for ids in documents], [len(text.encode()) for text in texts]
            writer.append(np.concatenate(documents), lengths, names, sizes)
            writer.commit(1)
            writer.finish()
    return folder


@pytest.fixture(scope="session")
def untrained(tokenizer: Tokenizer) -> Decoder:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=2, context_length=48, init_std=0.1
    )
    return Decoder(config).eval()


@pytest.fixture(scope="session")
def trained(untrained: Decoder, shards: Path) -> Decoder:
    model = Decoder(untrained.config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    row = torch.tensor(TokenShard(shards / "train").tokens.astype("int64"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        begins = torch.randint(len(row) - 48, (16,), generator=generator)
        batch = torch.stack([row[begin : begin + 48] for begin in begins])
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
