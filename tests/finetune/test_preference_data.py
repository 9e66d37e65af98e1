"""Preferences and labelled answers: each published shape once, from bytes as they are, to its normal form."""

import json

import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.finetune.preference.preference_sets import encode_preferences, parse_preference
from groundup.finetune.training_data.preference_data import read_labelled_answers, read_preferences
from groundup.recipe.finetune_config import FinetuneSourceConfig

HELLO = [{"role": "user", "content": "Hello"}]
HI = [{"role": "assistant", "content": "Hi"}]
NO = [{"role": "assistant", "content": "No"}]
SYSTEM = [{"role": "system", "content": "Be kind."}]


def read(tmp_path, text: str, reader=read_preferences, name="a.jsonl", **knobs):
    (tmp_path / name).write_text(text)
    return reader([FinetuneSourceConfig(name="d", path=str(tmp_path / name), **knobs)], Machine())


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ('{"prompt": "Hello", "chosen": "Hi", "rejected": "No"}', HELLO),
        ('{"system": "Be kind.", "question": "Hello", "chosen": "Hi", "rejected": "No"}', SYSTEM + HELLO),  # Orca pairs
        ('{"prompt": [{"role": "user", "content": "Hello"}], "chosen": [{"role": "assistant", "content": "Hi"}], '
         '"rejected": [{"role": "assistant", "content": "No"}]}', HELLO),  # TRL
        ('{"chosen": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}], '
         '"rejected": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "No"}]}', HELLO),
        ('{"prompt": "Hello", "prompt_id": "7", "chosen": [{"content": "Hello", "role": "user"}, '
         '{"content": "Hi", "role": "assistant"}], "rejected": [{"content": "Hello", "role": "user"}, '
         '{"content": "No", "role": "assistant"}], "score_chosen": 8.5}', HELLO),  # UltraFeedback
        ('{"chosen": "\\n\\nHuman: Hello\\n\\nAssistant: Hi", "rejected": "\\n\\nHuman: Hello\\n\\nAssistant: No"}', HELLO),  # HH
        ('{"conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hello"}], '
         '"chosen": {"from": "gpt", "value": "Hi"}, "rejected": {"from": "gpt", "value": "No"}}', SYSTEM + HELLO),  # ShareGPT
        ('{"instruction": "Hello", "input": "", "output": "x", "chosen": "Hi", "rejected": "No"}', HELLO),
    ],
)  # fmt: skip
def test_preferences(tmp_path, text, prompt):
    (pair,), stats = read(tmp_path, text + "\n")
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, HI, NO)
    assert (pair.source, pair.file, pair.line) == ("d", "a.jsonl", 1)
    assert stats.summary() == {"read": 1, "kept": 1, "dropped": {}}


def test_a_shared_beginning_of_several_turns_is_the_prompt(tmp_path):
    beginning = "\\n\\nHuman: Hello\\n\\nAssistant: Hi\\n\\nHuman: Hello\\n\\nAssistant:"
    (pair,), _ = read(tmp_path, f'{{"chosen": "{beginning} Hi", "rejected": "{beginning} No"}}')
    assert (pair.prompt, pair.chosen, pair.rejected) == (HELLO + HI + HELLO, HI, NO)


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "Hello", "completion": "Hi", "label": true}',
        '{"prompt": [{"role": "user", "content": "Hello"}], "completion": [{"role": "assistant", "content": "Hi"}], "label": 1}',
        '{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}], "kto_tag": true}',
    ],
)
def test_labelled_answers(tmp_path, text):
    (answer,), _ = read(tmp_path, text, read_labelled_answers)
    assert (answer.prompt, answer.completion, answer.desirable) == (HELLO, HI, True)
    (answer,), _ = read(tmp_path, text.replace("true", "false").replace(": 1", ": 0"), read_labelled_answers)
    assert not answer.desirable


def test_labels_of_a_table(tmp_path):
    answers, _ = read(tmp_path, "prompt,completion,label\nHello,Hi,True\nHello,No,0\n", read_labelled_answers, "a.csv")
    assert [(answer.completion, answer.desirable) for answer in answers] == [(HI, True), (NO, False)]


def test_a_preference_holds_two_labelled_answers(tmp_path):
    text = '{"prompt": "Hello", "chosen": "Hi", "rejected": "No"}'
    answers, _ = read(tmp_path, text, read_labelled_answers)
    assert [(answer.prompt, answer.completion, answer.desirable) for answer in answers] == [
        (HELLO, HI, True),
        (HELLO, NO, False),
    ]


def test_drops_have_a_reason_a_file_and_a_line(tmp_path):
    good = '{"prompt": "Hello", "chosen": "Hi", "rejected": "No"}'
    lines = [good, good, good.replace("Hi", "No"), "{", good.replace("Hi", "\\ud800"), '{"prompt": "Hello"}', "3"]
    _, stats = read(tmp_path, "\n".join(lines))
    assert [(each["reason"], each["line"]) for each in stats.positions] == [
        ("duplicate", 2), ("same_answers", 3), ("broken_line", 4), ("lone_surrogate", 5), ("malformed", 6), ("malformed", 7)
    ]  # fmt: skip
    assert "1 half of a surrogate pair (\\ud800 to \\udfff), which is no text (a.jsonl:5)" in stats.describe()


def test_columns_name_other_fields(tmp_path):
    text = '{"q": "Hello", "good": {"text": "Hi"}, "bad": "No"}'
    with pytest.raises(UserError, match="no preferences in d") as raised:
        read(tmp_path, text)
    assert "fields: q, good, bad; expected the fields `chosen` and `rejected`" in str(raised.value)
    columns = {"prompt": "Q", "chosen": "good.text", "rejected": "bad"}
    assert read(tmp_path, text, columns=columns)[0][0].chosen == HI
    with pytest.raises(UserError, match=r"chose is none of .*; did you mean chosen"):
        read(tmp_path, text, columns={"chose": "good"})


def test_tools_are_rendered_with_the_prompt(byte_tokenizer):
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    template = "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}" + (
        byte_tokenizer.chat_template or ""
    )
    byte_tokenizer.chat_template = template
    record = {"prompt": "Hi", "chosen": "Yes", "rejected": "No", "tools": json.dumps(tools)}
    for labelled in (False, True):
        items = parse_preference(record, labelled, "x")
        assert items[0].tools == tools
        [(_, encoded), *_], dropped = encode_preferences(items, byte_tokenizer, 96)
        assert not dropped
        response = encoded if labelled else encoded.chosen
        assert byte_tokenizer.decode(response.ids).startswith("look_up ")
