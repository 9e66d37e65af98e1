"""Ten wishes with different answers to money, hardware and time: `init`, the blueprint, and the recipe run to its end.

benchmarks/wishes.py grants such wishes with real data and real budgets.
"""

import json
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from typer.testing import CliRunner

from groundup.cli import app
from groundup.recipe import load_recipe
from groundup.stages import STAGE_FOLDERS
from groundup.train.speed_calibration import Calibration

TURNS = [
    ("What is an integer?", "A whole number."),
    ("What is a tuple?", "A sequence that does not change."),
    ("Who are you?", "A small model of nobody in particular."),
    ("Thank you", "You are welcome."),
]
HOURS = 0.003
"""Hours of a tiny training."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documentation, source code, conversations, labelled texts and pairs, as a user would have them."""
    folder = tmp_path_factory.mktemp("wishes")
    for name in ("texts", "code"):
        (folder / name).mkdir()
    for name, text in list(topics.items())[:40]:
        (folder / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")
    for path in sorted(Path(json.__file__).parent.glob("*.py")):
        (folder / "code" / path.name).write_bytes(path.read_bytes())
    messages = [
        {"messages": [{"role": "user", "content": f"{asked} ({number})"}, {"role": "assistant", "content": answer}]}
        for number in range(10)
        for asked, answer in TURNS
    ]
    labels = [
        {"text": f"{asked} {number}", "label": "question" if "?" in asked else "other"}
        for number in range(10)
        for asked, _ in TURNS
    ]
    paragraphs = [text for topic in topics.values() for text in topic.split("\n\n") if len(text) > 200][:60]
    pairs = [{"prompt": text[:300], "completion": text[:40]} for text in paragraphs]
    for name, rows in (("talk", messages), ("labels", labels), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


WISHES = {
    "time": ("--goal", "base", "--data", "texts", "--hours", str(HOURS)),
    "nothing": ("--data", "code"),
    "money": ("--goal", "chat", "--data", "texts", "--chat", "talk.jsonl", "--money", "5", "--plan", "small"),
    "money and time": (
        "--goal", "chat-4bit", "--data", "texts", "--chat", "talk.jsonl", "--money", "5", "--hours", str(HOURS),
        "--plan", "good",
    ),
    "hardware": ("--goal", "encoder", "--data", "texts", "--hardware", "cpu-2"),
    "hardware and time": ("--goal", "search", "--data", "texts", "--hardware", "cpu-8", "--hours", str(HOURS)),
    "labels": ("--goal", "classify", "--data", "texts", "--chat", "labels.jsonl", "--hours", str(HOURS)),
    "pairs": ("--goal", "translate", "--chat", "pairs.jsonl", "--data", "texts", "--hours", str(HOURS)),
    "all three": (
        "--goal", "summarize", "--chat", "pairs.jsonl", "--data", "texts", "--money", "1", "--hardware", "cpu-2",
        "--hours", str(HOURS), "--plan", "small",
    ),
    "a gpu": ("--goal", "base", "--data", "texts", "--money", "20", "--hardware", "rtx-4090", "--plan", "best"),
}  # fmt: skip
TINY = {
    "machine": ["machine.threads=1"],
    "train": ["train.steps=2", "train.batch_tokens=1024", "train.warmup_steps=1"],
    "evaluate": ["evaluate.max_tokens=2000"],
    "finetune": ["finetune.epochs=1"],
    "quantize": ["quantize.calibration_tokens=2048", "quantize.eval_tokens=2048"],
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", WISHES)
def test_wish_is_planned_and_run_to_its_end(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("groundup.train.speed_calibration.calibrate_speed", lambda *_: Calibration(1.0, 1.0))
    recipe = f"{name.replace(' ', '-')}.toml"

    def groundup(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    printed = groundup("init", *WISHES[name], "--yes", "--out", recipe)
    assert "expected loss" in printed
    assert printed.endswith(f"wrote {recipe}\nnext: groundup plan {recipe}\n")
    groundup("plan", recipe, "--pdf", "plan.pdf")
    assert Path("plan.pdf").read_bytes().startswith(b"%PDF-")
    loaded = load_recipe(Path(recipe))
    sets = [knob for section, knobs in TINY.items() if getattr(loaded, section) is not None for knob in knobs]
    if name == "a gpu":  # the recipe is for a rented device: here, a small model on this machine
        sets += ["budget.hardware=cpu-2", "budget.hours=0.01", "model.context_length=256"]
    if loaded.train is not None and loaded.train.steps == 1:  # search: its hours go to [finetune]
        sets = [knob for knob in sets if not knob.startswith("train.")]
    groundup("run", recipe, *(part for knob in sets for part in ("--set", knob)))
    run = Path("runs") / loaded.name
    assert (run / STAGE_FOLDERS["report"] / "report.pdf").is_file()
