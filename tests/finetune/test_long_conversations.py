"""Conversations beyond the sequence length, weights of turns, tools, and tokens in arrays."""

import numpy as np
import pytest

from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import in_turn
from groundup.finetune import finetune
from groundup.finetune.chat_batches import encode_conversation
from groundup.finetune.encoded_conversations import EncodedConversation, EncodedStore
from groundup.finetune.training_data.conversation_store import ConversationStore, TrainingConversation
from groundup.finetune.training_data.read_stats import ReadStats
from groundup.finetune.training_set import encode_training_set
from groundup.tokenizer.chat_template import CHATML

SYSTEM = {"role": "system", "content": "s"}
SIXTY = [SYSTEM, *in_turn([f"{n:02d}" for n in range(60)])]


def fit(tokenizer, choice, messages=SIXTY, limit=96):
    stats = ReadStats()
    conversation = TrainingConversation(list(messages), "d", "t", 1.0, [], "a.jsonl", 7)
    found = encode_training_set(
        [conversation], lambda each: encode_conversation(each, tokenizer), 264, limit, choice, stats
    )
    assert all(each.max_tokens <= limit for each in found.encoded)
    return [each.messages for each in found.conversations], stats


def learnt(tokenizer, messages, **options) -> str:
    ((ids, mask),) = encode_conversation(TrainingConversation(messages, **options), tokenizer).variants
    return tokenizer.decode(ids[mask == 1].tolist())


def test_a_long_conversation_is_recorded_as_it_is_learnt(byte_tokenizer):
    (kept,), stats = fit(byte_tokenizer, "cut")
    assert kept == SIXTY[: len(kept)]
    assert kept[-1]["role"] == "assistant"
    longer = TrainingConversation(SIXTY[: len(kept) + 2])
    assert encode_conversation(longer, byte_tokenizer).max_tokens > 96, "as much as fits"
    assert stats.changed == {"cut": 1}
    assert (stats.positions[0]["file"], stats.positions[0]["line"]) == ("a.jsonl", 7)


def test_split_keeps_all_turns(byte_tokenizer):
    pieces, stats = fit(byte_tokenizer, "split")
    assert all(piece[0] == SYSTEM and piece[1]["role"] == "user" for piece in pieces)
    assert [message for piece in pieces for message in piece[1:]] == SIXTY[1:]
    assert stats.changed == {"split": 1}
    long = [*in_turn(["a", "b", "c" * 99, "d", "e", "f"])]
    assert fit(byte_tokenizer, "split", long)[0] == [in_turn(["a", "b"]), in_turn(["e", "f"])]


def test_drop_and_answers_that_do_not_fit(byte_tokenizer):
    kept, stats = fit(byte_tokenizer, "drop")
    assert (kept, stats.dropped) == ([], {"too_long": 1})
    for choice in ("cut", "split"):
        assert fit(byte_tokenizer, choice, in_turn(["a" * 99, "b"]))[1].dropped == {"too_long": 1}


def test_a_cut_never_ends_with_a_call(byte_tokenizer):
    byte_tokenizer.chat_template = CHATML.replace(
        "message['content']", "(message.content or message.tool_calls | tojson)"
    )
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f"}}]}
    messages = [
        *in_turn(["a", "b", "c"]),
        call,
        {"role": "tool", "content": "4" * 99},
        {"role": "assistant", "content": "d"},
    ]
    assert fit(byte_tokenizer, "cut", messages)[0] == [in_turn(["a", "b"])]


def test_answers_without_weight_have_no_loss(byte_tokenizer):
    messages = in_turn(["a", "b", "c", "d", "e", "f"])
    messages[1]["weight"] = messages[5]["weight"] = 0
    assert learnt(byte_tokenizer, messages) == "d<|im_end|>"
    short = in_turn(["a", "b"])
    short[1]["weight"] = 0
    assert fit(byte_tokenizer, "cut", short)[1].dropped == {"nothing_learnt": 1}
    assert fit(byte_tokenizer, "cut", [short[0], short[1], *in_turn(["c" * 99, "d"])])[1].dropped == {"too_long": 1}


def test_tools_and_developers_reach_the_template(byte_tokenizer):
    byte_tokenizer.chat_template = (
        "{% if tools %}{{ tools[0].name }}{% endif %}{% for m in messages %}{{ m.role[0] }}"
        "{% generation %}{{ m.content + '<|im_end|>' if m.role == 'assistant' }}{% endgeneration %}{% endfor %}"
    )
    messages = [{"role": "developer", "content": "x"}, *in_turn(["a", "b"])]
    ((ids, _),) = encode_conversation(TrainingConversation(messages, tools=[{"name": "T"}]), byte_tokenizer).variants
    assert byte_tokenizer.decode(ids.tolist()) == "Tsuab<|im_end|>"


def test_a_conversation_that_the_template_refuses_is_dropped_and_counted(byte_tokenizer, make_decoder):
    byte_tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + (byte_tokenizer.chat_template or "")
    )
    chats = [in_turn(["a", "b"]), [SYSTEM, *in_turn(["c", "d"])]]
    machine = Machine(device="cpu", threads=1)
    result = finetune(make_decoder(), byte_tokenizer, chats, epochs=1, machine=machine)
    assert [each.messages for each in result.train.conversations] == chats[:1]
    assert result.stats.dropped == {"refused": 1}


@pytest.mark.parametrize("vocab_size", [1 << 16, (1 << 16) + 1])
def test_stores_give_back_what_they_got(vocab_size):
    generator = np.random.default_rng(0)
    items = [
        EncodedConversation(
            tuple(
                (generator.integers(0, vocab_size, size), generator.integers(0, 2, size).astype(np.uint8))
                for size in sizes
            ),
            weight,
        )
        for sizes, weight in (((3,), 1.0), ((17, 8), 2.5), ((1,), 0.5))
    ]
    store = EncodedStore(vocab_size, items)
    assert len(store) == 3
    for found, item in zip(store, items, strict=True):
        assert found.weight == item.weight
        assert found.max_tokens == item.max_tokens
        for one, other in zip(found.variants, item.variants, strict=True):
            assert one[0].tolist() == other[0].tolist()
            assert one[1].tolist() == other[1].tolist()
    with pytest.raises(IndexError):
        store[3]
    talks = [TrainingConversation(in_turn([f"{n}é", "x"]), "s", "t", 0.5, [{"a": 1}], "f", n) for n in range(4)]
    conversations = ConversationStore(talks)
    assert list(conversations) == talks
    assert list(conversations[1::2]) == talks[1::2]
    assert list(conversations.select([3, 0])) == [talks[3], talks[0]]
    assert conversations[-1] == talks[3]
