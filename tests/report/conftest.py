"""A run folder with manifests as the stages write them, with texts that contain markup."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from groundup.artifacts.manifest import Manifest
from groundup.plan import derive
from groundup.recipe import parse_recipe

NASTY = '#panic("typst") $x_1$ *bold* @ref <script>alert("html")</script> {{ jinja }} \\ & "quotes" `code` 東京 مرحبا \x00\x1b[0m'
LONG = "https://example.org/" + "a" * 400

RECIPE = {
    "name": "made-up",
    "data": {
        "sources": [{"name": n, "kind": k, "path": "*"} for n, k in (("wikipedia", "wikipedia"), ("books", "books"))]
    },
    "budget": {"hours": 0.1},
    "tokenizer": {"vocab_size": 4096},
    "model": {"context_length": 256},
    "train": {"optimizer": "muon"},
    "evaluate": {},
    "report": {},
}


def table(read: int, kept: int, dropped: dict[str, int], size: int = 5_000) -> dict[str, Any]:
    return {
        "read": {"documents": read, "bytes": read * size},
        "kept": {"documents": kept, "bytes": int(kept * size * 0.97)},
        "dropped": {reason: {"documents": count, "bytes": count * size} for reason, count in dropped.items()},
        "trimmed": {"pii": int(kept * size * 0.03)},
        "lengths": {"64": kept // 4, "8192": kept - kept // 4},
        "languages": {"en": read - 9, "la": 7, "unsure": 2},
        "train": {"documents": kept - 3, "bytes": (kept - 3) * size},
        "validation": {"documents": 3, "bytes": 3 * size},
        "tokens_estimated": (kept - 3) * size // 4,
        "kind": "text",
        "epochs": 1.0,
        "inputs": [{"name": f"file-{read}.bz2", "bytes": 5_000_000, "sha256": "c0ffee" + "0" * 58}],
        "input_files": 1,
    }


def metrics() -> dict[str, dict[str, Any]]:
    """Metrics of each stage."""
    chance = random.Random(0)
    sources = {
        "wikipedia": table(
            3_120,
            2_411,
            {"language: la": 312, "gopher_quality: min_words": 280, "exact_duplicate": 40, "near_duplicate": 77},
        ),
        "books": table(160, 121, {"exact_duplicate": 11, "not_sampled": 28}, 90_000),
        "web": table(
            912,
            404,
            {
                "language: unsure": 190,
                "gopher_quality: min_alphabetic_words": 212,
                "broken_file": 1,
                "exact_duplicate": 105,
            },
        ),
        "code": table(4_000, 3_720, {"exact_duplicate": 200, "near_duplicate": 80}, 2_200),
    }
    steps = 400
    return {
        "data": {
            "sources": sources,
            "duplicate_clusters": {"clusters": 40, "documents": 91, "sizes": {"2": 37, "4": 2, "16": 1}},
            "train": {"documents": 6_590, "bytes": 31_000_000},
            "validation": {"documents": 66, "bytes": 312_000},
        },
        "tokenizer": {
            "vocab_size": 4096,
            "special_tokens": {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<|pad|>": 3},
            "longest_tokens": [
                "                ",
                " characteristics",
                " representation",
                " Constantinople",
                "================",
                NASTY,
            ],
            "algorithm": "bpe",
            "pretokenizer": "gpt4",
            "pretrained": None,
            "fertility": {
                by: {
                    name: {
                        "documents": 9,
                        "bytes": 90_000,
                        "words": 14_000,
                        "bytes_per_token": {"this vocabulary": 3.9, "GPT-2": 4.1},
                        "split_word_fraction": {"this vocabulary": 0.25, "GPT-2": 0.2},
                    }
                    for name in names
                }
                for by, names in (("source", ("wikipedia", "books")), ("language", ("en", NASTY)))
            },
            "train_bytes": 12_000_000,
            "corpus_bytes": 31_000_000,
            "sample": [
                "An",
                "arch",
                "ism",
                " is",
                " a",
                " political",
                " philosophy",
                ".\n\n",
                "#",
                "let",
                " x",
                " =",
                " <b>",
                " 東京",
                " é",
            ]
            * 8,
        },
        "tokens": {
            "vocab_size": 4096,
            "unused_tokens": 12,
            **{
                split: {
                    "tokens": total,
                    "documents": total // 900,
                    "bytes": total * 4,
                    "bytes_per_token": 3.912,
                    "dtype": "uint16",
                    "sources": {
                        name: {
                            "documents": 10,
                            "tokens": int(total * share),
                            "bytes": int(total * share * rate),
                            "bytes_per_token": rate,
                        }
                        for name, share, rate in (
                            ("wikipedia", 0.31, 4.11),
                            ("books", 0.44, 4.02),
                            ("web", 0.06, 3.8),
                            ("code", 0.19, 3.21),
                        )
                    },
                }
                for split, total in (("train", 7_700_000), ("validation", 78_000))
            },
        },
        "base": {
            "parameters": 5_212_416,
            "parameters_by_part": {
                "embedding": 1_048_576,
                "attention": 1_572_864,
                "feed_forward": 2_586_000,
                "norms": 5_000,
                "head": 0,
                "total": 5_212_440,
                "active": 5_212_440,
            },
            "tokens": 20_480_000,
            "epochs": 2.66,
            "steps": steps,
            "final_loss": 3.312,
            "validation": [
                {"step": s, "bits_per_byte": 1.35 + 2.4 * math.exp(-s / 70)} for s in range(20, steps + 1, 20)
            ],
            "speed": {"tokens_per_second": 51_200.0, "seconds": 400.0},
        },
        "scores": {
            "bits_per_byte": 1.412,
            "bits_per_byte_interval": [1.377, 1.449],
            "perplexity": 46.1,
            "loss": 3.83,
            "documents": 66,
            "tokens": 78_000,
            "bytes": 312_000,
            "held_out": {"documents": 66, "tokens": 78_066},
            "sources": {
                name: {
                    "bits_per_byte": bits,
                    "bits_per_byte_interval": interval,
                    "perplexity": 40.0,
                    "loss": 3.7,
                    "documents": n,
                    "tokens": 9_000,
                    "bytes": 36_000,
                }
                for name, bits, interval, n in (
                    ("books", 1.61, [1.55, 1.67], 20),
                    ("code", 0.98, [0.91, 1.06], 25),
                    ("web", 1.77, None, 1),
                    ("wikipedia", 1.48, [1.44, 1.53], 20),
                )
            },
            "baselines": {"unigram": 2.61, "bigram": 2.02, "gzip": 2.88, "bzip2": 2.33, "xz": 2.52},
            "tasks": {
                "true continuation": {"items": 200, "accuracy": 0.61, "interval": [0.54, 0.675], "chance": 0.25},
                "capitals": {"items": 40, "accuracy": 0.1, "interval": [0.025, 0.2], "chance": None},
            },
            "samples": [
                {
                    "prompt": "The city of",
                    "text": " London, in the county of the same name, was founded in the twelfth century by the king of the "
                    "Franks, who had been a member of the Council.\n\nIn 1844 the city was again made a seat.",
                },
                {
                    "prompt": "def read(",
                    "text": "self, path):\n    with open(path) as file:\n        return file.read()\n",
                },
                {"prompt": NASTY, "text": LONG + NASTY},
            ],
            "speed": {"tokens_per_second": 30_000.0},
        },
        "chat": {
            "method": "lora",
            "conversations": {
                "read": 3_700,
                "kept": 3_663,
                "dropped": {"duplicate": 30, "too_long": 7},
                "train": 3_480,
                "validation": 183,
                "turns": 7_400,
                "topics": {"greetings": 800, "science": 700, NASTY: 3},
                "reasons": {"duplicate": "again"},
            },
            "tokens": 182_000,
            "answer_tokens": 90_000,
            "epochs": 3.0,
            "steps": 133,
            "parameters": {"all": 5_212_416, "trained": 196_608},
            "loss": {"train_start": 4.1, "train_end": 1.2, "validation_start": 4.2, "validation_end": 2.3},
            "validation": [{"step": 50, "loss": 2.5}, {"step": 133, "loss": 2.3}],
            "answers": [
                {"prompt": "Hello", "answer": "Hi, how are you doing?"},
                {"prompt": "What is your name?", "answer": "I am still young, so I have no name."},
                {"prompt": NASTY, "answer": NASTY},
                {"prompt": "Nothing?", "answer": ""},
            ],
            "speed": {"tokens_per_second": 9_000.0},
        },
        "quantized": {
            "from": "chat",
            "method": "gptq",
            "bits": 4,
            "group_size": 64,
            "symmetric": True,
            "bits_per_weight": 4.25,
            "bytes": {"before": 20_849_664, "after": 6_411_000},
            "weights": {"quantized": 4_158_864, "others": 1_053_552},
            "mean_error": 0.0041,
            "mean_rtn_error": 0.0112,
            "calibration_tokens": {"text": 49_152, "chat": 16_384},
            "eval_tokens": 65_536,
            "held_out": {
                "float": held_out_row(3.85, 0.0, 1.0, 20_849_664),
                "rtn": held_out_row(3.93, 0.061, 0.88, 6_411_000),
                "gptq": held_out_row(3.87, 0.022, 0.93, 6_411_000),
            },
            "processes": {
                "float": {"resident_bytes": 31_000_000, "tokens_per_second": 310.0},
                "gptq": {"resident_bytes": 14_000_000, "tokens_per_second": 520.0},
            },
            "layers": [
                {"layer": f"blocks.{i}.{n}", "error": chance.random() / 90, "rtn_error": chance.random() / 40}
                for i in range(6)
                for n in ("attention.query", "feed_forward.down")
            ],
        },
        "export": {
            "format": "huggingface",
            "dtype": "float32",
            "family": "qwen3",
            "from": "chat",
            "files": 5,
            "bytes": 20_900_000,
            "max_logit_difference": 0.0,
        },
    }


def held_out_row(loss: float, divergence: float, agreement: float, size: int) -> dict:
    """The scores of one model in the comparison with the float model."""
    interval = [divergence * 0.9, divergence * 1.1]
    task = {"items": 100, "accuracy": 0.4, "interval": [0.31, 0.49], "chance": 0.25}
    return {
        "loss": loss, "kl_divergence": divergence, "kl_interval": interval, "top1_agreement": agreement,
        "bits_per_byte": loss / 2.713, "perplexity": 2.71828**loss, "tasks": {"true continuation": task}, "bytes": size,
    }  # fmt: skip


FOLDERS = {
    "data": "01-data",
    "tokenizer": "02-tokenizer",
    "tokens": "03-tokens",
    "base": "04-base",
    "scores": "05-scores",
    "chat": "06-chat",
    "quantized": "09-quantized",
    "export": "10-export",
}


def made_up_run(run: Path, stages: tuple[str, ...] = tuple(FOLDERS)) -> Path:
    """A run folder in which `stages` are complete."""
    run.mkdir(parents=True, exist_ok=True)
    recipe = parse_recipe(RECIPE)
    plan = derive(recipe)
    (run / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json", exclude_none=True)))
    (run / "plan.json").write_text(json.dumps(plan.summary()))
    everything = metrics()
    for number, stage in enumerate(stages):
        folder = run / FOLDERS[stage]
        folder.mkdir()
        if stage == "data":
            (folder / "dropped").mkdir()
            for source, reason in (("web", "language: unsure"), ("wikipedia", "gopher_quality: min_words")):
                rows = [{"reason": reason, "id": f"page {i} {NASTY}", "text": f"{NASTY} {LONG}"} for i in range(3)]
                (folder / "dropped" / f"{source}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            members = [{"source": "web", "id": f"{LONG}{i}", "text": f"{NASTY} {LONG}"} for i in range(3)]
            (folder / "clusters.jsonl").write_text(json.dumps({"size": 9, "members": members}) + "\n")
        if stage == "base":
            chance = random.Random(1)
            rows = [
                {
                    "step": s,
                    "loss": 3.3 + 5 * math.exp(-s / 60) + chance.gauss(0, 0.08),
                    "learning_rate": 0.004 * min(1, s / 8),
                    "gradient_norm": 0.5,
                    "memory": 2_000_000_000 + min(s, 100) * 10_000_000,
                }
                for s in range(400)
            ]
            (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        Manifest(
            stage=stage,
            version=1,
            fingerprint=f"{number:x}" * 64,
            sections={"seed": 1337, "train": plan.recipe.train.model_dump(mode="json")}
            if stage == "base"
            else {"seed": 1337},
            inputs={},
            files={"model.safetensors": {"bytes": 20_849_664, "sha256": "ab" * 32}},
            metrics=everything[stage],
            provenance={
                "python": "3.11.9",
                "platform": "Linux-6.1-x86_64",
                "processor": "An Imaginary Processor @ 2.60GHz",
                "threads": 2,
                "device": "auto",
                "seconds": 12.5 * (number + 1) ** 2,
                "packages": {"groundup": "0.1.0", "torch": "2.13.0"},
                "commit": "0089f99abcde+",
            },
        ).write(folder)
    return run


@pytest.fixture(scope="session")
def write_run():
    """Writes a run folder: write_run(path, stages)."""
    return made_up_run
