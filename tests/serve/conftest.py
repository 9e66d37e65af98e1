"""A client of a tiny server with random weights and a byte tokenizer."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from groundup.evaluate.trace import RunTracer, SuffixArray
from groundup.evaluate.trace.training_documents import TrainingDocuments
from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.serve import create_app
from groundup.tokenizer import ShardWriter, Tokenizer, TokenShard
from groundup.tokenizer.tokenizer_training import train_bpe

sys.path.insert(0, str(Path(__file__).parent))  # for scripted_model


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe([], 260)


@pytest.fixture(scope="session")
def base_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer without a chat template."""
    return Tokenizer(tokenizer.backend, eos=tokenizer.eos)


@pytest.fixture(scope="session")
def model() -> Decoder:
    torch.manual_seed(3)  # one whose answers are long
    config = ModelConfig(vocab_size=260, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, context_length=256)
    model = Decoder(config).eval()
    with torch.no_grad():  # bigger weights, so that the likeliest token depends on all of the text
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def client(model: Decoder, tokenizer: Tokenizer):
    with TestClient(create_app(model, tokenizer, name="tiny")) as client:
        yield client


TRAINING_TEXT = "So it was the best of times and the worst of <b onclick='alert(1)'>all</b> times, said the old man."


@pytest.fixture(scope="session")
def tracer(tokenizer: Tokenizer, tmp_path_factory) -> RunTracer:
    """Of two copies of TRAINING_TEXT, from a source whose name is markup."""
    folder = tmp_path_factory.mktemp("shard")
    ids = [*tokenizer.encode(TRAINING_TEXT), tokenizer.eos_id]
    identity = {"vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.fingerprint, "end_of_text": tokenizer.eos_id}
    with ShardWriter(folder, "train", **identity) as writer:
        writer.append(np.array(ids * 2), [len(ids)] * 2, ["<i>books</i>"] * 2, [len(TRAINING_TEXT)] * 2)
        writer.commit(1)
        writer.finish()
    shard = TokenShard(folder / "train")
    return RunTracer(SuffixArray.open(shard, folder / "index"), tokenizer, TrainingDocuments(shard, tokenizer, None))
