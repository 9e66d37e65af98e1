"""lm-evaluation-harness on our models: item by item the answers of its own adapter for Hugging Face models.

pip install 'groundup[evaluate]' transformers
pytest -m interop tests/parity/test_lm_eval.py
"""

import json
from pathlib import Path

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.model import Decoder, save_model
from groundup.quantize import export_model, open_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import train_tokenizer

pytestmark = pytest.mark.interop
pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

from groundup.evaluate.lm_eval_adapter import HarnessModel, local_datasets, run_harness  # noqa: E402

TEXTS = [
    f"The {a} went to the {b} and saw {c}." for a in ("river", "fox") for b in ("garden", "sea") for c in "abcdefgh"
]
"""Training text of the tokenizer, and the questions."""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    rows = {
        "hellaswag/none": [
            {"ind": n, "activity_label": "Walking", "ctx_a": text[:20], "ctx_b": text[20:30], "ctx": text[:30],
             "endings": [text[30:], "fox fox.", "the sea", "stone"], "label": str(n % 4), "source_id": "x", "split": "val"}
            for n, text in enumerate(TEXTS)
        ],
        "winogrande/winogrande_xl": [
            {"sentence": f"{text[:12]} _ {text[12:]}", "option1": "fox", "option2": "river", "answer": str(1 + n % 2)}
            for n, text in enumerate(TEXTS)
        ],
        "lambada_openai/default": [{"text": text} for text in TEXTS],
    }  # fmt: skip
    for name, items in rows.items():
        place = folder / name / "validation"
        place.mkdir(parents=True)
        (place / "data.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model with its tokenizer, as transformers reads it."""
    out = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(TEXTS, vocab_size=290)
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=2, context_length=64, init_std=0.2
    )
    save_model(Decoder(config).eval(), out / "own")
    tokenizer.save(out / "own")
    export_model(out / "own", out / "huggingface", format="huggingface", dtype="float32")
    return out / "huggingface"


def test_answers_equal_those_of_the_harness_s_own_adapter(folder, datasets, monkeypatch):
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    model, tokenizer = open_model(folder, device="cpu", dtype="float32")
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)
    options = {"tasks": ["hellaswag", "winogrande", "lambada_openai"], "bootstrap_iters": 0}
    with local_datasets(datasets, print):
        found, expected = (
            simple_evaluate(each, **options) for each in (HarnessModel(model, tokenizer, Progress()), theirs)
        )
    for task, rows in expected["samples"].items():
        for ours, row in zip(found["samples"][task], rows, strict=True):
            assert [r[0] for r in ours["filtered_resps"]] == pytest.approx(
                [r[0] for r in row["filtered_resps"]], abs=1e-3
            )
            assert [r[1] for r in ours["filtered_resps"]] == [r[1] for r in row["filtered_resps"]]
    scores = run_harness(model, tokenizer, options["tasks"], Progress(), datasets_folder=datasets)
    for task, values in expected["results"].items():
        assert scores[task]["acc"] == values["acc,none"]
        assert scores[task]["acc_interval"][0] <= scores[task]["acc"] <= scores[task]["acc_interval"][1]


def test_unknown_tasks_and_datasets_are_one_line(folder, datasets, tmp_path):
    model, tokenizer = open_model(folder, device="cpu", dtype="float32")
    with pytest.raises(UserError, match="helaswag: no task of lm-evaluation-harness"):
        run_harness(model, tokenizer, ["helaswag"], Progress(), datasets_folder=datasets)
    with pytest.raises(UserError, match="no such dataset"):
        run_harness(model, tokenizer, ["piqa"], Progress(), datasets_folder=datasets)
