"""Fine-tuning from Python without a recipe."""

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.finetune import finetune

CHAT = [
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
    [{"role": "user", "content": "x" * 200}, {"role": "assistant", "content": "y"}],
]


def test_finetune_on_lists_of_messages(make_decoder, byte_tokenizer):
    model = make_decoder()
    names = set(model.state_dict())
    result = finetune(
        model, byte_tokenizer, CHAT, CHAT[:1], epochs=8, learning_rate=1e-2, machine=Machine(device="cpu", threads=1)
    )  # fmt: skip
    assert set(model.state_dict()) == names, "merged"
    assert len(result.train) == len(result.validation) == result.stats.dropped["too_long"] == 1
    assert result.training.evaluations[-1]["loss"] < result.validation_start
    assert result.trained_parameters < sum(weight.numel() for weight in model.parameters())
    assert not torch.equal(model.embedding.tokens.weight, make_decoder().embedding.tokens.weight)


def test_little_data_is_read_in_many_small_batches(make_decoder, byte_tokenizer):
    """40 short conversations were one batch of 4,096 tokens; now 16 steps or more read them once."""
    chat = [[{"role": "user", "content": f"Number {n}?"}, {"role": "assistant", "content": f"{n}"}] for n in range(40)]
    result = finetune(make_decoder(), byte_tokenizer, chat, epochs=1, machine=Machine(device="cpu", threads=1))
    assert 16 <= (result.config.steps or 0) <= 40
    assert result.knobs["batch_tokens"] < 200
    assert result.knobs["lora_rank"] == 32


def test_doubled_turns_are_merged(make_decoder, byte_tokenizer):
    chat = [[CHAT[0][0], CHAT[0][0], CHAT[0][1]]]
    result = finetune(make_decoder(), byte_tokenizer, chat, epochs=1, machine=Machine(device="cpu", threads=1))
    assert result.train.conversations[0].opening == "Hello\n\nHello"


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ({"messages": CHAT[0]}, "is a dict, expected a list"),
        ([("user", "x")], "not in a known shape"),
        (CHAT[0][:1], "no assistant turn"),
    ],
)
def test_items_that_are_no_conversation_are_refused(make_decoder, byte_tokenizer, conversation, message):
    with pytest.raises(UserError, match=rf"conversations\[0\].*{message}"):
        finetune(make_decoder(), byte_tokenizer, [conversation])


def test_an_unknown_method_is_refused(make_decoder, byte_tokenizer):
    with pytest.raises(ValueError, match="method 'dora': expected lora or qlora or full"):
        finetune(make_decoder(), byte_tokenizer, CHAT, method="dora")
