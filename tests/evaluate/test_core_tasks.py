"""CORE of a small bundle, beside a computation by single log-likelihoods."""

import json

import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.evaluate import response_logprobs
from groundup.evaluate.core_tasks import read_core_tasks, score_core

YAML = """icl_tasks:
- {label: choices, dataset_uri: a/choices.jsonl, num_fewshot: [1], icl_task_type: multiple_choice}
- {label: schema, dataset_uri: a/schema.jsonl, num_fewshot: [0], icl_task_type: schema}
- {label: last word, dataset_uri: a/words.jsonl, num_fewshot: [0], icl_task_type: language_modeling}
"""
ITEMS = {
    "choices": [
        {"query": f"The {word} went to the", "choices": ["garden and saw", "zzz qqq"], "gold": number % 2}
        for number, word in enumerate(("river", "stone", "winter"))
    ],
    "schema": [
        {"context_options": ["The river went to", "xx yy zz"], "continuation": "the garden", "gold": 0},
        {"context_options": ["The stone went", "qq"], "continuation": "to the sea", "gold": 1},
    ],
    "words": [{"context": "The river went to ", "continuation": "the"}, {"context": "The stone", "continuation": "zz"}],
}


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "eval_data" / "a").mkdir(parents=True)
    (tmp_path / "core.yaml").write_text(YAML)
    (tmp_path / "eval_meta_data.csv").write_text(
        "Eval Task,Task Category,Random baseline\nchoices,x,50\nschema,x,50\nlast word,x,0\n"
    )
    for name, items in ITEMS.items():
        (tmp_path / "eval_data" / "a" / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in items))
    return tmp_path


def test_core_is_the_mean_above_chance(bundle, trained, tokenizer):
    found = score_core(trained, tokenizer, bundle, Progress())
    tasks = found["tasks"]
    # The likelier choice is the first one of each: right for two of three, and for one of two.
    assert {name: (row["items"], row["accuracy"]) for name, row in tasks.items()} == {
        "choices": (3, pytest.approx(2 / 3)), "schema": (2, 0.5), "last word": (2, 0.5),
    }  # fmt: skip
    assert tasks["choices"]["centered"] == pytest.approx(1 / 3)
    assert found["core"] == pytest.approx((1 / 3 + 0 + 0.5) / 3)
    assert found["core_interval"][0] < found["core"] < found["core_interval"][1]
    assert score_core(trained, tokenizer, bundle, Progress(), limit=1)["tasks"]["choices"]["items"] == 1
    context, good, bad = (tokenizer.encode(text) for text in ("The river went to the", " garden and saw", " zzz qqq"))
    scores = [response_logprobs(trained, context, ending).mean() for ending in (good, bad)]
    assert scores[0] > scores[1]


def test_other_folders_are_refused(bundle):
    assert [task.label for task in read_core_tasks(bundle)] == ["choices", "schema", "last word"]
    (bundle / "core.yaml").write_text(YAML.replace("a/choices.jsonl", "../../choices.jsonl"))
    with pytest.raises(UserError, match="outside of the folder"):
        read_core_tasks(bundle)
    (bundle / "core.yaml").unlink()
    with pytest.raises(UserError, match="no evaluation bundle"):
        read_core_tasks(bundle)
