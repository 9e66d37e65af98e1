"""Examples from files: pairs, labels and folders; what is dropped; the split."""

import json

import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.finetune.training_data.example_sources import Example, read_examples, split_examples
from groundup.recipe.finetune_config import ExampleSourceConfig, FinetuneConfig


def read(path, kind):
    return read_examples([ExampleSourceConfig(name="x", kind=kind, path=str(path))], Machine())


def test_pairs_and_labels(tmp_path):
    lines = [
        {"query": "a?", "text": " A. "}, {"query": "b?", "text": "A."}, {"query": "a?", "text": "A."}, {"query": "a?"},
        {"query": "a?", "text": "B."},
    ]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nno JSON\n")
    examples, stats = read(tmp_path / "pairs.jsonl", "pairs")
    assert examples == [("a?", "A."), ("b?", "A."), ("a?", "B.")]
    assert stats.summary() == {"read": 6, "kept": 3, "dropped": {"broken_line": 1, "duplicate": 1, "malformed": 1}}

    lines = [{"text": "fine", "label": 1}, {"text": "bad", "label": "no"}, {"text": "fine", "label": "no"}]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    examples, stats = read(tmp_path / "labels.jsonl", "labels")
    assert examples == [("fine", "1"), ("bad", "no")]
    assert stats.dropped == {"duplicate": 1}
    with pytest.raises(UserError, match="no examples in x") as raised:
        read(tmp_path / "labels.jsonl", "pairs")
    assert raised.value.hint == (
        "kind = pairs reads JSON or CSV with the fields query and text, or as `columns` names them; fields: text, label"
    )


def test_the_label_of_a_file_is_its_folder(tmp_path):
    for label, text in (("good", "I liked it"), ("bad", "Schön ist anders")):
        (tmp_path / "reviews" / label).mkdir(parents=True)
        (tmp_path / "reviews" / label / "1.txt").write_text(text, encoding="latin-1")
    assert read(tmp_path / "reviews", "folders")[0] == [("Schön ist anders", "bad"), ("I liked it", "good")]
    (tmp_path / "reviews" / "stray.txt").write_text("no folder")
    with pytest.raises(UserError, match=r"stray\.txt lies in no folder"):
        read(tmp_path / "reviews", "folders")


def test_split_keeps_a_text_on_one_side_and_holds_enough_out():
    examples = [Example(f"q{index}", f"t{index % 100}") for index in range(300)]
    train, held_out = split_examples(examples, 0.05, lambda example: example.target)
    assert len(train) + len(held_out) == 300
    assert len({example.target for example in held_out}) == 20, "a fifth, since 5% of 100 texts are too few"
    assert not {example.target for example in train} & {example.target for example in held_out}
    assert split_examples(examples, 0.0, lambda example: example.target) == (examples, [])
    with pytest.raises(UserError, match="1 different texts"):
        split_examples(examples[:1], 0.5, lambda example: example.target)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"task": "classification"},
        {"task": "embedding", "conversations": [{"name": "x", "kind": "messages", "path": "x"}]},
        {"task": "embedding", "examples": [{"name": "x", "kind": "labels", "path": "x"}]},
        {"task": "classification", "examples": [{"name": "x", "kind": "pairs", "path": "x"}]},
    ],
)
def test_sources_that_do_not_fit_the_task_are_refused(knobs):
    with pytest.raises(UserError, match=r"expected|are for task"):
        FinetuneConfig(**knobs)


def test_labels_from_a_table_and_an_array(tmp_path):
    (tmp_path / "reviews.csv").write_text('Text,Label\n"Fine, really",good\n"It says\nnothing",bad\n')
    assert read(tmp_path / "reviews.csv", "labels")[0] == [("Fine, really", "good"), ("It says\nnothing", "bad")]
    (tmp_path / "reviews.json").write_text(json.dumps([{"text": "one\u2028text", "label": "good"}], ensure_ascii=False))
    assert read(tmp_path / "reviews.json", "labels")[0] == [("one\u2028text", "good")]
    (tmp_path / "stars.csv").write_text("review;stars\nfine;5\n")
    with pytest.raises(UserError) as raised:
        read(tmp_path / "stars.csv", "labels")
    assert raised.value.hint.endswith("fields: review, stars")
