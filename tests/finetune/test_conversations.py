"""Conversation files: formats, malformed input, validation split, augmentation."""

import io
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.stable_hash import hash_fraction
from groundup.finetune.chat_batches import augmented_turns, strip_final_punctuation
from groundup.finetune.conversations import (
    DROP_REASONS,
    PARSERS,
    TURN_PARSERS,
    TrainingConversation,
    identity,
    read_conversations,
    split_conversations,
)
from groundup.recipe.finetune_config import ConversationSourceConfig, FinetuneConfig

GREETINGS = """
categories: [greetings]
conversations:
- - Hello
  - Hi
- - Good morning,   how
    are you?
  - I am doing well, how about you?
  - I'm also good.
- - Is it true?
  - no
- - 1 + 1
  - 2
- - Hello
  - Hi
- - alone
- In a game, there are 88 letters
- - - nested
  - lines
- - Say nothing
  - ''
"""
ANSWERS = """
conversations:
- - What makes you sad
  - Lag.
  - Segmentation faults.
  - Lag.
"""


def read(tmp_path, text, kind="chatterbot", name="greetings.yml", **knobs):
    (tmp_path / name).write_text(text)
    return read_conversations(
        [ConversationSourceConfig(name="d", kind=kind, path=str(tmp_path / "*"), **knobs)], Machine()
    )


def test_recipe_kinds_equal_parsers():
    kinds = set(ConversationSourceConfig.model_fields["kind"].annotation.__args__)
    assert kinds == set(PARSERS) == set(TURN_PARSERS)


def test_chatterbot_lines_are_turns(tmp_path):
    found, stats = read(tmp_path, GREETINGS, repeats=2.5)
    assert [c.turns for c in found] == [
        (("user", "Hello"), ("assistant", "Hi")),
        (("user", "Good morning, how are you?"), ("assistant", "I am doing well, how about you?")),  # no answer to its last line
        (("user", "Is it true?"), ("assistant", "no")),  # a word, not false
        (("user", "1 + 1"), ("assistant", "2")),
    ]  # fmt: skip
    assert found[0].topic == "greetings"
    assert found[0].weight == 2.5
    assert stats.summary() == {"read": 9, "kept": 4, "dropped": {"duplicate": 1, "malformed": 3, "no_answer": 1}}
    assert {sample["reason"] for sample in stats.samples} <= set(DROP_REASONS)


def test_chatterbot_answers(tmp_path):
    found, _ = read(tmp_path, ANSWERS, kind="chatterbot_answers")
    assert [c.turns[1][1] for c in found] == ["Lag.", "Segmentation faults."]
    assert {c.opening for c in found} == {"What makes you sad"}


def test_topics_choose_files(tmp_path):
    (tmp_path / "coding.yml").write_text(ANSWERS)
    found, _ = read(tmp_path, GREETINGS, topics=("greetings",))
    assert {c.topic for c in found} == {"greetings"}
    with pytest.raises(UserError, match="no file named poetry"):
        read(tmp_path, GREETINGS, topics=("poetry",))


def messages(*turns):
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})


def test_messages(tmp_path):
    lines = [
        messages(("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi"), ("user", "left hanging")),
        messages(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
        messages(("user", "a"), ("user", "b"), ("assistant", "c")),
        messages(("user", "a")),
        messages(("user", "a"), ("tool", "b")),
        '{"messages": "none"}',
        '{"messages": [1]}',
        '{"messages": [{"role": "user", "content": null}, {"role": "assistant", "content": "x"}]}',
        "{broken",
        "[]",
        "",
    ]
    found, stats = read(tmp_path, "\n".join(lines), kind="messages", name="a.jsonl")
    assert found[0].messages == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
    ]
    assert len(found) == 2
    assert stats.summary()["dropped"] == {"malformed": 6, "no_answer": 1, "wrong_order": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a\n- b", "no list `conversations`"),
        ("conversations: 3", "no list `conversations`"),
        ("conversations: []", "no conversations in d"),
        ("conversations:\n- - !!python/object/apply:os.system [ls]\n  - b\n- - c", "no conversations in d"),
    ],
)
def test_malformed_files_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "a.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        read_conversations(
            [ConversationSourceConfig(name="d", kind="chatterbot", path=str(tmp_path / "a.yml"))], Machine()
        )


def test_package_members(tmp_path):
    folder = tmp_path / "cache" / "packages" / "talk-1.0-sdist"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "talk-1.0.tar.gz", "w:gz") as archive:
        for name, text in (("talk-1.0/data/b.yml", GREETINGS), ("talk-1.0/data/a.yml", ANSWERS)):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    source = ConversationSourceConfig(
        name="d",
        kind="chatterbot_answers",
        path="data/*.yml",
        topics=("a",),
        package={"name": "talk", "version": "1.0"},
    )
    found, _ = read_conversations([source], Machine(cache_dir=tmp_path / "cache", offline=True))
    assert [c.topic for c in found] == ["a", "a"]


def test_identity_follows_the_content(tmp_path):
    path = tmp_path / "a.jsonl"
    section = FinetuneConfig(conversations=(ConversationSourceConfig(name="d", kind="messages", path=str(path)),))
    machine = Machine(cache_dir=tmp_path / "cache")
    found = []
    for text in ("one", "two"):
        path.write_text(text)
        found.append(identity(section, machine))
    assert found[0].keys() == {"d"}
    assert found[0] != found[1]


def conversation(opening: str) -> TrainingConversation:
    return TrainingConversation((("user", opening), ("assistant", "yes")), "s", "t")


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=20), st.floats(0, 0.9))
def test_split_loses_nothing(openings, fraction):
    everything = [conversation(text) for text in openings]
    train, held_out = split_conversations(everything, fraction)
    assert sorted(c.opening for c in train + held_out) == sorted(openings)
    assert not {c.opening for c in train} & {c.opening for c in held_out}


def test_split_keeps_equal_openings_together():
    everything = [
        conversation(text) for i in range(200) for text in (f"Question {i}?", f"question {i}", f"QUESTION, {i}!")
    ]
    train, held_out = split_conversations(everything, 0.25)
    assert 90 < len(held_out) < 220
    assert len(held_out) % 3 == len(train) % 3 == 0
    assert split_conversations(everything, 0.0)[1] == []


def test_hash_fraction_is_uniform():
    values = [hash_fraction(str(i)) for i in range(2000)]
    assert 0.48 < sum(values) / 2000 < 0.52
    assert 0 <= min(values) < 0.01
    assert 0.99 < max(values) < 1


def test_augmentation_changes_user_turns_only():
    found = augmented_turns(TrainingConversation((("user", "How are You?"), ("assistant", "Fine. And You?")), "s", "t"))
    assert [turns[0][1] for turns in found] == ["How are You?", "how are you?", "How are You", "how are you"]
    assert {turns[1][1] for turns in found} == {"Fine. And You?"}
    assert len(augmented_turns(TrainingConversation((("user", "hi"), ("assistant", "Hi")), "s", "t"))) == 1
    assert strip_final_punctuation("?!") == "?!"


def test_yaml_aliases_are_refused():
    lines = [f"- &b{i + 1} [*b{i}, *b{i}]" for i in range(40)]
    with pytest.raises(UserError, match="line 3: aliases are not supported"):
        PARSERS["chatterbot"]("\n".join(["conversations:", "- &b0 [x, y]", *lines]), "a.yml")


def as_csv(rows):
    return "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\r\n" for row in rows)


HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sharegpt.json", [{"id": "1", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]}]),
        ("alpaca.json", [{"instruction": "Hello", "input": "", "output": "Hi"}]),
        ("dolly.jsonl", {"instruction": "Hello", "context": "", "response": "Hi", "category": "open_qa"}),
        ("prompts.jsonl", {"prompt": "Hello", "completion": "Hi"}),
        ("trl.jsonl", {"prompt": HELLO[:1], "completion": HELLO[1:]}),
        ("parts.jsonl", {"messages": [HELLO[0] | {"content": [{"type": "text", "text": "Hello"}]}, HELLO[1]]}),
        ("bare.json", [HELLO]),
        ("faq.csv", as_csv([("Question", "Answer"), ("Hello", "Hi")])),
        ("faq.tsv", "prompt\tresponse\nHello\tHi\n"),
    ],
)  # fmt: skip
def test_shapes_in_which_conversations_are_published(tmp_path, name, text):
    found, _ = read(tmp_path, text if isinstance(text, str) else json.dumps(text), "messages", name)
    assert [c.turns for c in found] == [(("user", "Hello"), ("assistant", "Hi"))]


def test_an_instruction_with_its_input_and_a_system_message(tmp_path):
    record = {"system": "Be brief.", "instruction": "Translate", "input": "Hello", "output": "Hallo"}
    found, _ = read(tmp_path, json.dumps(record), "messages", "alpaca.jsonl")
    assert found[0].turns == (("system", "Be brief."), ("user", "Translate\n\nHello"), ("assistant", "Hallo"))


def test_unknown_shapes_are_said_with_their_fields(tmp_path):
    with pytest.raises(UserError, match="no conversations") as raised:
        read(tmp_path, as_csv([("Frage", "Antwort"), ("Hallo", "Hi")]), "messages", "faq.csv")
    assert raised.value.hint is not None
    assert "fields: frage, antwort" in raised.value.hint
    assert "prompt and completion" in raised.value.hint
