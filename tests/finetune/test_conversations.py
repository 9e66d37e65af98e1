"""Conversation files: formats, malformed input, validation split, augmentation."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import in_turn
from groundup.data.held_out_conversations import opening_turn
from groundup.data.stable_hash import hash_fraction
from groundup.finetune.chat_batches import augmented_turns, strip_final_punctuation
from groundup.finetune.training_data.conversation_store import ConversationStore, TrainingConversation
from groundup.finetune.training_data.conversations import identity, read_conversations, split_conversations
from groundup.finetune.training_data.dialogue_files import ENTRY_PARSERS, MESSAGES_OF_ENTRIES
from groundup.finetune.training_data.read_stats import DROP_REASONS
from groundup.finetune.training_data.turn_checks import merge_doubled
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
    assert kinds - {"messages"} == set(ENTRY_PARSERS) == set(MESSAGES_OF_ENTRIES)


def test_chatterbot_lines_are_turns(tmp_path):
    found, stats = read(tmp_path, GREETINGS, repeats=2.5)
    assert [c.messages for c in found] == [
        in_turn(["Hello", "Hi"]),
        in_turn(["Good morning, how are you?", "I am doing well, how about you?"]),  # no answer to its last line
        in_turn(["Is it true?", "no"]),  # a word, not false
        in_turn(["1 + 1", "2"]),
    ]
    assert found[0].topic == "greetings"
    assert found[0].weight == 2.5
    assert stats.summary() == {
        "read": 9,
        "kept": 4,
        "dropped": {"duplicate": 1, "empty_turn": 1, "malformed": 2, "no_answer": 1},
        "changed": {"ends_with_user": 1},
    }
    assert set(stats.dropped) <= set(DROP_REASONS)


def test_chatterbot_answers(tmp_path):
    found, _ = read(tmp_path, ANSWERS, kind="chatterbot_answers")
    assert [c.answer for c in found] == ["Lag.", "Segmentation faults."]
    assert {c.opening for c in found} == {"What makes you sad"}


def test_topics_choose_files(tmp_path):
    (tmp_path / "coding.yml").write_text(ANSWERS)
    found, _ = read(tmp_path, GREETINGS, topics=("greetings",))
    assert {c.topic for c in found} == {"greetings"}
    with pytest.raises(UserError, match="no file named poetry"):
        read(tmp_path, GREETINGS, topics=("poetry",))


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
    return TrainingConversation(in_turn([opening, "yes"]), "s", "t")


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=20), st.floats(0, 0.9))
def test_split_loses_nothing(openings, fraction):
    everything = ConversationStore(conversation(text) for text in openings)
    train, held_out = split_conversations(everything, fraction)
    assert sorted(c.opening for c in (*train, *held_out)) == sorted(openings)
    assert not {c.opening for c in train} & {c.opening for c in held_out}


def test_split_keeps_equal_openings_together():
    everything = ConversationStore(
        conversation(text) for i in range(200) for text in (f"Question {i}?", f"question {i}", f"QUESTION, {i}!")
    )
    train, held_out = split_conversations(everything, 0.25)
    assert 90 < len(held_out) < 220
    assert len(held_out) % 3 == len(train) % 3 == 0
    assert len(split_conversations(everything, 0.0)[1]) == 0


def test_doubled_turns_are_held_out_alike_by_both_stages():
    """Pretraining reads the turns as they are, and fine-tuning may merge them."""
    doubled = [*in_turn(["Hello"]), *in_turn(["Weather?", "Cold.", "Thanks"])]
    merged, _ = merge_doubled(doubled, "merge")
    assert opening_turn(doubled) == opening_turn(merged) == "Hello\n\nWeather?"


def test_hash_fraction_is_uniform():
    values = [hash_fraction(str(i)) for i in range(2000)]
    assert 0.48 < sum(values) / 2000 < 0.52
    assert 0 <= min(values) < 0.01
    assert 0.99 < max(values) < 1


def test_augmentation_changes_user_turns_only():
    found = augmented_turns(in_turn(["How are You?", "Fine. And You?"]))
    assert [turns[0]["content"] for turns in found] == ["How are You?", "how are you?", "How are You", "how are you"]
    assert {turns[1]["content"] for turns in found} == {"Fine. And You?"}
    assert len(augmented_turns(in_turn(["hi", "Hi"]))) == 1
    assert strip_final_punctuation("?!") == "?!"


def test_yaml_aliases_are_refused():
    lines = [f"- &b{i + 1} [*b{i}, *b{i}]" for i in range(40)]
    with pytest.raises(UserError, match="line 3: aliases are not supported"):
        ENTRY_PARSERS["chatterbot"]("\n".join(["conversations:", "- &b0 [x, y]", *lines]), "a.yml")
