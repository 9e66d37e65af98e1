"""Tokens added to a model: the others are as before, new rows are the mean, and merging and export keep both."""

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.finetune import LoRAOptions, finetune
from groundup.interop import export_huggingface, load_huggingface
from groundup.interop.added_tokens import add_tokens, extend_vocabulary
from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 96}


@pytest.fixture
def tokenizer() -> Tokenizer:
    return train_bpe(["the quick brown fox"] * 9, 264)


def decoder(tokenizer: Tokenizer, tied: bool, spare: int = 0) -> Decoder:
    torch.manual_seed(0)
    return Decoder(ModelConfig(vocab_size=tokenizer.vocab_size + spare, tie_embeddings=tied, **SHAPE)).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [0, 8])
def test_new_rows_are_the_mean_and_the_others_stay(tokenizer, tied, spare):
    model, known = decoder(tokenizer, tied, spare), tokenizer.vocab_size
    ids = add_tokens(tokenizer, ["<city>", "<date>"])
    extended = extend_vocabulary(model, ids, known)
    assert extended.config.vocab_size == max(known + spare, known + 2)
    tokens = torch.arange(10)[None]
    before, after = model(tokens).logits, extended(tokens).logits
    assert torch.equal(after[..., :known], before[..., :known])
    assert torch.allclose(after[..., ids[0]], before[..., :known].mean(-1), atol=1e-5)
    assert tokenizer.encode("to <city> on <date>").count(ids[0]) == 1


@pytest.mark.parametrize("tokens", [["<a>", "<a>"], [""], ["e"]])
def test_tokens_that_are_not_new_are_refused(tokenizer, tokens):
    with pytest.raises(UserError, match="expected new tokens"):
        add_tokens(tokenizer, tokens)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_trained_and_survive_merging_and_export(tokenizer, tied, tmp_path):
    known = tokenizer.vocab_size
    model = decoder(tokenizer, tied)
    ids = add_tokens(tokenizer, ["<city>"])
    model = extend_vocabulary(model, ids, known)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ '<|endoftext|>' }}{% endfor %}"
    first = model.embedding.tokens.weight[ids[0]].clone()
    other = model.embedding.tokens.weight[5].clone()
    chat = [[{"role": "user", "content": "the fox"}, {"role": "assistant", "content": "<city>"}]] * 4
    finetune(model, tokenizer, chat, lora=LoRAOptions(new_tokens=tuple(ids)), epochs=10, learning_rate=1e-2)
    assert not torch.allclose(model.embedding.tokens.weight[ids[0]], first)
    assert torch.equal(model.embedding.tokens.weight[5], other)
    assert (model.head.weight is model.embedding.tokens.weight) == tied
    export_huggingface(model, tokenizer, tmp_path)
    tokens = torch.tensor([[1, ids[0], 3]])
    with torch.no_grad():
        assert torch.allclose(load_huggingface(tmp_path)(tokens).logits, model(tokens).logits, atol=1e-5)
