"""Chat batches: loss mask, attention within conversations, packing, reproducibility."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.data.conversation_shapes import in_turn
from groundup.finetune.chat_batches import ChatBatches, encode_conversation, pack_first_fit
from groundup.finetune.encoded_conversations import EncodedConversation
from groundup.finetune.training_data.conversation_store import TrainingConversation
from groundup.train.objectives import IGNORE_INDEX


def encoded(tokenizer, conversations, vary=False):
    return [encode_conversation(c, tokenizer, augment_user_turns=vary) for c in conversations]


def test_loss_covers_the_assistants_tokens_and_end_of_turn_only(byte_tokenizer):
    talk = TrainingConversation(in_turn(["Hi", "Yes", "Ok", "No"]))
    batch = ChatBatches([encode_conversation(talk, byte_tokenizer)], 96, 1, seed=0, pad_id=3).batch(0)
    targets = batch["labels"][0][batch["labels"][0] != IGNORE_INDEX]
    end = byte_tokenizer.token_id("<|im_end|>")
    assert targets.tolist() == [*byte_tokenizer.encode("Yes"), end, *byte_tokenizer.encode("No"), end]
    at = batch["labels"][0] != IGNORE_INDEX
    assert torch.equal(batch["tokens"][0][at], targets)


def test_packed_row_loss_equals_separate_conversations(make_decoder, byte_tokenizer, conversations):
    """Neighbours and padding change nothing: the sum over a row is the sum over single conversations."""
    model, items = make_decoder(), encoded(byte_tokenizer, conversations)
    batch = ChatBatches(items, 96, 4, seed=0, pad_id=3).first_epoch()
    assert sum(len(part["tokens"]) for part in batch) < len(items)
    with torch.no_grad():
        packed = sum(model(**part).loss * (part["labels"] != IGNORE_INDEX).sum() for part in batch)
        separate = 0.0
        for item in items:
            ids, mask = (torch.tensor([row.tolist()]) for row in item.variants[0])
            separate += model(ids, labels=torch.where(mask == 1, ids, IGNORE_INDEX)).loss * mask.sum()
    torch.testing.assert_close(packed, separate, rtol=1e-5, atol=1e-5)


def test_a_batch_is_a_function_of_seed_and_step(byte_tokenizer, conversations):
    items = encoded(byte_tokenizer, conversations * 5, vary=True)
    first, second = (ChatBatches(items, 96, 2, seed=7, pad_id=3) for _ in range(2))
    straight = [first.batch(step) for step in range(12)]
    for step in (11, 3, 0):
        for name, tensor in second.batch(step).items():
            assert torch.equal(tensor, straight[step][name])
    other = ChatBatches(items, 96, 2, seed=8, pad_id=3)
    assert any(not torch.equal(other.batch(step)["tokens"], straight[step]["tokens"]) for step in range(12))


def test_an_epoch_repeats_conversations_by_weight(byte_tokenizer, conversations):
    items = encoded(byte_tokenizer, conversations)
    items[0] = EncodedConversation(items[0].variants, weight=3.0)
    batches = ChatBatches(items, 96, 1, seed=1, pad_id=3)
    for epoch in range(3):
        shown = [
            batches.batch(step)["tokens"] for step in range(epoch * batches.num_rows, (epoch + 1) * batches.num_rows)
        ]
        text = byte_tokenizer.decode(torch.cat(shown).flatten().tolist())
        counts = [text.count(c.opening + "<|im_end|>") for c in conversations]
        assert counts == [3, 1, 1, 1]


def test_epochs_have_different_variants(byte_tokenizer, conversations):
    batches = ChatBatches(encoded(byte_tokenizer, conversations, vary=True), 96, 1, seed=1, pad_id=3)
    text = byte_tokenizer.decode(torch.cat([batches.batch(step)["tokens"] for step in range(60)]).flatten().tolist())
    assert all(
        f"user\n{text_variant}<|im_end|>" in text
        for text_variant in ("How are you?", "how are you?", "How are you", "how are you")
    )


def test_control_tokens_in_text_are_escaped(byte_tokenizer):
    talk = TrainingConversation(in_turn(["<|im_end|>", "<|im_start|>user"]))
    ids, _ = encode_conversation(talk, byte_tokenizer).variants[0]
    assert sum(id in byte_tokenizer.special_ids for id in ids) == 4


@given(st.lists(st.integers(1, 20), min_size=1, max_size=200), st.integers(20, 50))
def test_packing_loses_nothing_and_never_overflows(lengths, capacity):
    rows = pack_first_fit(range(len(lengths)), lambda item: lengths[item], capacity)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= capacity for row in rows)


def test_no_conversations_are_refused():
    with pytest.raises(UserError, match="no conversations"):
        ChatBatches([], 96, 1, seed=0, pad_id=3)
