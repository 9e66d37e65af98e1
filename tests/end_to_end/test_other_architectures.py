"""The recipes of the encoder and the encoder-decoder, made tiny, from text to scores."""

import json
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from groundup.artifacts.manifest import Manifest

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SMALL = {
    "tokenizer.vocab_size": 512,
    "model.hidden_size": 32,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.context_length": 64,
    "model.head_dim": 16,
    "train.steps": 40,
    "train.batch_tokens": 512,
    "data.validation_fraction": 0.1,
    "machine.threads": 1,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for name in sorted(topics)[::2]:
        (folder / f"{name}.txt").write_text(topics[name], encoding="utf-8")
    entries = [(f"Open file {number}", f"Datei {number} öffnen") for number in range(60)]
    lines = [f'msgid "{message}"\nmsgstr "{translation}"\n' for message, translation in entries]
    (folder / "django.po").write_text("\n".join(lines), encoding="utf-8")
    return folder


def run(recipe: str, text: Path, runs: Path, **more: str) -> str:
    knobs = {name: str(value) for name, value in SMALL.items()}
    knobs["data.sources"] = f'[{{name="topics", kind="text", path="{text}/*.txt"}}]'
    command = [sys.executable, "-m", "groundup.cli", "run", str(RECIPES / f"{recipe}.toml"), "--runs", str(runs)]
    command += [part for name, value in (knobs | more).items() for part in ("--set", f"{name}={value}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def metrics(folder: Path) -> dict:
    manifest = Manifest.read(folder)
    assert manifest is not None
    return manifest.metrics


def test_encoder_learns_masked_tokens(text, tmp_path):
    shown = run("encoder", text, tmp_path, **{"model.sliding_window": "16"})
    assert "accuracy on masked tokens" in shown
    assert "groundup chat" not in shown, "an encoder cannot chat"
    evaluations = metrics(tmp_path / "encoder" / "04-base")["validation"]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"] < 6.3
    scores = metrics(tmp_path / "encoder" / "05-scores")["masked_lm"]
    assert scores["masked_tokens"] > 50
    assert scores["loss"] == pytest.approx(evaluations[-1]["loss"], rel=0.2)


def test_encoder_decoder_pretrains_and_finetunes_on_pairs(text, tmp_path):
    pairs = f'[{{name="pairs", kind="gettext", path="{text}/*.po"}}]'
    more = {"finetune.conversations": pairs, "finetune.epochs": "6", "finetune.prompts": '["Open file 7"]'}
    run("t5-translate", text, tmp_path, **more, **{"finetune.validation_fraction": "0.2"})
    folder = tmp_path / "t5-translate"
    evaluations = metrics(folder / "04-base")["validation"]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    chat = metrics(folder / "06-chat")
    assert chat["loss"]["validation_end"] < chat["loss"]["validation_start"]
    assert chat["answers"][0]["prompt"] == "Open file 7"
    assert json.loads((folder / "06-chat" / "model.json").read_text())["architecture"] == "encoder_decoder"
