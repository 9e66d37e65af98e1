import copy
import json
from typing import get_args

import pytest

from groundup.artifacts.errors import UserError
from groundup.data.inputs import hash_task_files
from groundup.data.task_files import READERS
from groundup.evaluate import ScoredDocument, sample_validation_documents, task_of_file
from groundup.evaluate.continuations import score_continuations
from groundup.evaluate.tasks import (
    CHOICE_TOKENS,
    CHOICES,
    CONTEXT_TOKENS,
    TASK_RUNNERS,
    begins_with,
    continuation_items,
    run_task,
    score_choices,
)
from groundup.generate import GREEDY, generate
from groundup.recipe.evaluate_config import EvaluateConfig, TaskConfig, TaskKind
from groundup.tokenizer import TokenShard


def write(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_recipe_task_kinds_equal_the_task_runners():
    assert set(get_args(TaskKind)) == set(TASK_RUNNERS) == set(READERS)


def test_training_improves_continuation_accuracy(trained, untrained, shards, tokenizer):
    """Each text keeps its subject and its destination, so its true continuation names them."""
    documents = sample_validation_documents(TokenShard(shards / "train"), tokenizer, max_tokens=10**6, seed=0)
    items = continuation_items(documents, tokenizer, 40, seed=0)
    assert len(items) == 40
    for item in items:
        assert len(item.choices) == CHOICES
        assert all(
            choice.num_scored_tokens == CHOICE_TOKENS and choice.num_context_tokens == CONTEXT_TOKENS
            for choice in item.choices
        )
        assert len({tuple(choice.ids[:CONTEXT_TOKENS]) for choice in item.choices}) == 1
    assert items == continuation_items(documents, tokenizer, 40, seed=0)
    found, before = (score_choices(model, items) for model in (trained, untrained))
    assert sum(found.correct) > sum(before.correct)
    assert sum(found.correct_norm) > sum(before.correct_norm)


def test_answer_is_the_true_continuation(shards, tokenizer):
    documents = sample_validation_documents(TokenShard(shards / "train"), tokenizer, max_tokens=10**6, seed=0)
    rows = [list(document.ids) for document in documents]
    for item in continuation_items(documents, tokenizer, 10, seed=3):
        assert isinstance(item.cluster, int)
        row = rows[item.cluster]
        found = [list(choice.ids) for choice in item.choices]
        begins = [any(ids == row[i : i + len(ids)] for i in range(len(row))) for ids in found]
        assert begins == [index == item.answer for index in range(CHOICES)]
        texts = [tokenizer.decode(list(choice.ids[CONTEXT_TOKENS:])) for choice in item.choices]
        assert item.lengths == tuple(map(len, texts))


def test_copies_of_a_question_do_not_narrow_the_interval(trained, tokenizer, tmp_path):
    items = [{"question": f"The river {n}", "choices": ["saw the stone", "zzz"], "answer": n % 2} for n in range(4)]
    once = task_of_file(write(tmp_path / "once", items))
    often = task_of_file(write(tmp_path / "often", items * 5))
    found, copied = (run_task(task, trained, tokenizer) for task in (once, often))
    assert (found["items"], copied["items"], found["accuracy"]) == (4, 20, copied["accuracy"])
    for name in ("interval", "interval_norm"):
        assert copied[name][0] <= found[name][0] + 1e-9
        assert copied[name][1] >= found[name][1] - 1e-9


@pytest.mark.parametrize(
    ("text", "expected", "is_right"),
    [
        ("the form of the form", "t", False), ("the form", "the", True), ("The end", "the", False),
        ("42 metres", "42", True), ("42. Then", "42", True), ("42.5", "42", False), ("421", "42", False),
        ("1,000", "1", False), ("x=1", "x", True), ("Zürich", "Z", False), ("東京です", "東京", True), ("", "a", False),
    ],
)  # fmt: skip
def test_a_completion_ends_where_a_word_ends(text, expected, is_right):
    assert begins_with(text, expected) is is_right


def test_too_little_text_gives_no_items(tokenizer):
    documents = [ScoredDocument(list(range(270)), 400, "one"), ScoredDocument(list(range(20)), 40, "two")]
    assert continuation_items(documents, tokenizer, 10, seed=0) == []


def test_multiple_choice_task_from_a_file(trained, tokenizer, tmp_path):
    right, wrong = "The river went to the garden and saw the stone.", "stone the saw and zzz qqq the the."
    items = [{"question": right, "choices": [wrong, right], "answer": 1}] * 2
    found = run_task(
        TaskConfig(name="order", kind="multiple_choice", path=str(write(tmp_path / "a", items))), trained, tokenizer
    )
    assert (found["items"], found["accuracy"], found["accuracy_norm"], found["chance"]) == (2, 1.0, 1.0, 0.5)
    assert 0.1 < found["interval"][0] < 0.5, "two copies are one question"


def test_completion_task_from_a_file(trained, tokenizer, tmp_path):
    items = [
        {"prompt": "The river went to", "completion": "the"},
        {"prompt": "The river went to", "completion": "xylophone"},
    ]
    task = TaskConfig(name="next", kind="completion", path=str(write(tmp_path / "c", items)))
    assert run_task(task, trained, tokenizer)["accuracy"] == 0.5


def test_chat_template_of_a_task(trained, tokenizer, tmp_path):
    """The choice is scored as the answer of a turn, of which the question is the user's."""
    chat = copy.copy(tokenizer)
    chat.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
    items = [{"question": "Hi", "choices": [" the garden", " zzz qqq"], "answer": 0}]
    task = task_of_file(write(tmp_path / "a", items), apply_chat_template=True)
    assert (task.kind, task.name, task.apply_chat_template) == ("multiple_choice", "a", True)
    prompt = tokenizer.encode("[user] Hi\n[assistant]")
    found = score_continuations(trained, [(prompt, tokenizer.encode(choice)) for choice in items[0]["choices"]])
    nats = [-score.logprob for score in found]
    found = run_task(task, trained, chat)
    assert found["accuracy"] == float(nats[0] < nats[1])
    assert found["accuracy_norm"] == float(nats[0] / 11 < nats[1] / 8)
    told = generate(trained, prompt, sampling=GREEDY, max_tokens=4)
    items = [{"prompt": "Hi", "completion": tokenizer.decode(told[:2]).strip()}, {"prompt": "Hi", "completion": "xyl"}]
    task = task_of_file(write(tmp_path / "c", items), apply_chat_template=True)
    assert (task.kind, run_task(task, trained, chat)["accuracy"]) == ("completion", 0.5)


def test_a_line_separator_in_a_text_ends_no_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b", "completion": "c"}, ensure_ascii=False) + "\n")
    assert task_of_file(path).kind == "completion"


def test_a_file_of_neither_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="fields text"):
        task_of_file(write(tmp_path / "t.jsonl", [{"text": "a"}]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no items"),
        ("{", "line 1: not valid JSON"),
        ('{"question": "a"}', "expected an object with question, choices, answer"),
        ('{"question": "", "choices": ["a", "b"], "answer": 0}', "question = ''"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', "at least two"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "expected 0 to 1"),
        ('{"question": "q", "choices": ["a", "b"], "answer": true}', "answer = True"),
    ],
)
def test_invalid_lines_are_refused_by_number(line, message, trained, tokenizer, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        run_task(TaskConfig(name="bad", kind="multiple_choice", path=str(path)), trained, tokenizer)


def test_task_hashes_follow_the_file_content(tmp_path):
    path = write(tmp_path / "c", [{"prompt": "a", "completion": "b"}])
    section = EvaluateConfig(tasks=(TaskConfig(name="mine", kind="completion", path=str(path)),))
    before = hash_task_files(section, None)  # type: ignore[arg-type]
    write(path, [{"prompt": "a", "completion": "c"}])
    assert hash_task_files(section, None) != before  # type: ignore[arg-type]
    path.write_text('{"prompt": "a"}')
    with pytest.raises(UserError, match="line 1: expected an object with prompt, completion"):
        hash_task_files(section, None)  # type: ignore[arg-type]
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        hash_task_files(section, None)  # type: ignore[arg-type]
    assert hash_task_files(EvaluateConfig(), None) == {}  # type: ignore[arg-type]
