import copy
import json
from typing import get_args

import pytest

from groundup.artifacts.errors import UserError
from groundup.data.inputs import hash_task_files
from groundup.evaluate import ScoredDocument, sample_validation_documents, score_documents, task_of_file
from groundup.evaluate.likelihood import continuation_nats
from groundup.evaluate.tasks import (
    CHOICE_TOKENS,
    CHOICES,
    CONTEXT_TOKENS,
    TASK_RUNNERS,
    continuation_items,
    run_task,
    score_choices,
    summarize_accuracy,
)
from groundup.generate import GREEDY, generate
from groundup.recipe.evaluate_config import EvaluateConfig, TaskConfig, TaskKind
from groundup.tokenizer import TokenShard


def write(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_recipe_task_kinds_equal_the_task_runners():
    assert set(get_args(TaskKind)) == set(TASK_RUNNERS)


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
    assert sum(score_choices(trained, items)) > sum(score_choices(untrained, items))


def test_answer_is_the_true_continuation(shards, tokenizer):
    documents = sample_validation_documents(TokenShard(shards / "train"), tokenizer, max_tokens=10**6, seed=0)
    rows = [list(document.ids) for document in documents]
    for item in continuation_items(documents, tokenizer, 10, seed=3):
        row = rows[item.document_index]
        found = [list(choice.ids) for choice in item.choices]
        begins = [any(ids == row[i : i + len(ids)] for i in range(len(row))) for ids in found]
        assert begins == [index == item.answer for index in range(CHOICES)]


def test_items_of_one_document_are_resampled_together():
    one_document = summarize_accuracy([True] * 10 + [False] * 10, [0] * 10 + [1] * 10, 0.25, seed=0)
    many_documents = summarize_accuracy([True] * 10 + [False] * 10, range(20), 0.25, seed=0)
    assert one_document["interval"] == [0.0, 1.0]
    assert many_documents["interval"][0] > 0.2
    assert summarize_accuracy([True], [0], None, seed=0)["interval"] is None


def test_too_little_text_gives_no_items(tokenizer):
    documents = [ScoredDocument(list(range(270)), 400, "one"), ScoredDocument(list(range(20)), 40, "two")]
    assert continuation_items(documents, tokenizer, 10, seed=0) == []


def test_multiple_choice_task_from_a_file(trained, tokenizer, tmp_path):
    right, wrong = "The river went to the garden and saw the stone.", "stone the saw and zzz qqq the the."
    items = [{"question": right, "choices": [wrong, right], "answer": 1}] * 2
    found = run_task(
        TaskConfig(name="order", kind="multiple_choice", path=str(write(tmp_path / "a", items))), trained, tokenizer, 0
    )
    assert found == {"items": 2, "accuracy": 1.0, "interval": [1.0, 1.0], "chance": 0.5}


def test_completion_task_from_a_file(trained, tokenizer, tmp_path):
    items = [
        {"prompt": "The river went to", "completion": "the"},
        {"prompt": "The river went to", "completion": "xylophone"},
    ]
    task = TaskConfig(name="next", kind="completion", path=str(write(tmp_path / "c", items)))
    assert run_task(task, trained, tokenizer, 0)["accuracy"] == 0.5


def test_a_context_that_is_read_once_gives_the_same_likelihoods(trained, tokenizer):
    context = tokenizer.encode("The river went to the garden and")
    endings = [tokenizer.encode(text) for text in (" saw the stone.", " the", " stone the saw and zzz")]
    documents = [ScoredDocument([*context, *ending], 1, num_context_tokens=len(context)) for ending in endings]
    expected = score_documents(trained, documents).document_nats
    assert continuation_nats(trained, context, endings) == pytest.approx(list(expected), abs=1e-4)


def test_chat_template_of_a_task(trained, tokenizer, tmp_path):
    """The choice is scored as the answer of a turn, of which the question is the user's."""
    chat = copy.copy(tokenizer)
    chat.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
    items = [{"question": "Hi", "choices": [" the garden", " zzz qqq"], "answer": 0}]
    task = task_of_file(write(tmp_path / "a", items), apply_chat_template=True)
    assert (task.kind, task.name, task.apply_chat_template) == ("multiple_choice", "a", True)
    prompt = tokenizer.encode("[user] Hi\n[assistant]")
    nats = continuation_nats(trained, prompt, [tokenizer.encode(choice) for choice in items[0]["choices"]])
    assert run_task(task, trained, chat, 0)["accuracy"] == float(nats[0] / 11 < nats[1] / 8)
    told = generate(trained, prompt, sampling=GREEDY, max_tokens=4)
    items = [{"prompt": "Hi", "completion": tokenizer.decode(told[:2]).strip()}, {"prompt": "Hi", "completion": "xyl"}]
    task = task_of_file(write(tmp_path / "c", items), apply_chat_template=True)
    assert (task.kind, run_task(task, trained, chat, 0)["accuracy"]) == ("completion", 0.5)


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
    ],
)
def test_invalid_lines_are_refused_by_number(line, message, trained, tokenizer, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        run_task(TaskConfig(name="bad", kind="multiple_choice", path=str(path)), trained, tokenizer, 0)


def test_task_hashes_follow_the_file_content(tmp_path):
    path = write(tmp_path / "c", [{"prompt": "a", "completion": "b"}])
    section = EvaluateConfig(tasks=(TaskConfig(name="mine", kind="completion", path=str(path)),))
    before = hash_task_files(section, None)  # type: ignore[arg-type]
    path.write_text("other")
    assert hash_task_files(section, None) != before  # type: ignore[arg-type]
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        hash_task_files(section, None)  # type: ignore[arg-type]
    assert hash_task_files(EvaluateConfig(), None) == {}  # type: ignore[arg-type]
