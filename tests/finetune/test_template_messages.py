"""Messages for chat templates of all kinds: calls in their form, or dropped; answers without an end are refused."""

import json

import pytest

from groundup.artifacts.errors import UserError
from groundup.finetune.chat_batches import encode_conversation
from groundup.finetune.template_messages import check_template, template_messages, template_notice
from groundup.finetune.training_data.conversation_store import TrainingConversation
from groundup.finetune.training_data.read_stats import ReadStats, RecordDropped
from groundup.finetune.training_set import encode_training_set
from groundup.tokenizer import Tokenizer

LOOP = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}BODY{{ '<|im_end|>\n' }}{% endfor %}"
WITH_OBJECT = LOOP.replace(
    "BODY", "{{ m.content or '' }}{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}"
)
WITH_TEXT = LOOP.replace(
    "BODY",
    "{{ m.content or '' }}{% for c in m.tool_calls %}{{ c.function.name + '(' + c.function.arguments + ')' }}{% endfor %}",
)
WITHOUT_CALLS = LOOP.replace("BODY", "{{ m.content or '' }}")
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no turns') }}{% endif %}"
    "{{ m.content + '<|im_end|>' }}{% endfor %}"
)


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    return Tokenizer(tokenizer.backend, eos=tokenizer.eos, pad=tokenizer.pad, chat_template=template)


def calling(arguments: object) -> list[dict[str, object]]:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": arguments}}
    return [{"role": "user", "content": "1+2?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'])
def test_arguments_have_the_form_that_the_template_takes(byte_tokenizer: Tokenizer, arguments: object):
    for template, expected in ((WITH_OBJECT, {"a": 1}), (WITH_TEXT, '{"a": 1}')):
        tokenizer = with_template(byte_tokenizer, template)
        messages = template_messages(tokenizer, calling(arguments))
        assert messages[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": expected}
        ((ids, mask),) = encode_conversation(TrainingConversation(messages), tokenizer).variants
        learnt = tokenizer.decode([id for id, inside in zip(ids, mask, strict=True) if inside])
        shown = json.dumps({"name": "add", "arguments": {"a": 1}}) if template == WITH_OBJECT else 'add({"a": 1})'
        assert learnt == f"{shown}<|im_end|>"


def test_arguments_that_are_no_json_stay(byte_tokenizer: Tokenizer):
    tokenizer = with_template(byte_tokenizer, WITH_OBJECT)
    assert template_messages(tokenizer, calling("{a"))[1]["tool_calls"][0]["function"]["arguments"] == "{a"


def test_calls_that_the_template_leaves_out_drop_the_conversation(byte_tokenizer: Tokenizer):
    tokenizer = with_template(byte_tokenizer, WITHOUT_CALLS)
    with pytest.raises(RecordDropped, match="calls_left_out"):
        template_messages(tokenizer, calling({"a": 1}))
    assert template_notice(with_template(byte_tokenizer, WITH_OBJECT)) is None


def test_answers_without_an_end_are_refused(byte_tokenizer: Tokenizer):
    tokenizer = with_template(byte_tokenizer, "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}")
    with pytest.raises(
        UserError, match=r"the chat template .* ends an answer without a special token.*<\|endoftext\|>"
    ):
        check_template(tokenizer)


def test_a_refused_conversation_is_dropped_and_counted(byte_tokenizer: Tokenizer):
    tokenizer = with_template(byte_tokenizer, ALTERNATING)
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    refused = [turns[1], *turns]
    stats = ReadStats()
    found = encode_training_set(
        [TrainingConversation(each) for each in (turns, refused)],
        lambda each: encode_conversation(each, tokenizer),
        tokenizer.vocab_size, 1000, "drop", stats,
    )  # fmt: skip
    assert len(found.encoded) == 1
    assert stats.dropped == {"refused": 1}
