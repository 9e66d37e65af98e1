"""The programs in examples/ run as they stand, on tiny input."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import groundup
from groundup.finetune.reinforcement.reinforcement_plan import check_reinforcement
from groundup.interop import load_huggingface
from groundup.stage_runs import derive_recipe

ROOT = Path(__file__).resolve().parents[2]


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_train_and_generate(capsys: pytest.CaptureFixture[str]):
    score = load_example("train_and_generate").main([], steps=60)
    assert score < 4, "a model that has learnt nothing needs log2(512) = 9 bits per token, about 5 per byte here"
    assert capsys.readouterr().out.splitlines()[1].startswith("The")


def test_quantize_and_export(tmp_path: Path):
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    tokenizer = groundup.train_tokenizer([text], vocab_size=300)
    config = groundup.ModelConfig(vocab_size=300, hidden_size=64, num_layers=2, num_heads=2, context_length=64)
    groundup.export_huggingface(groundup.build_model(config), tokenizer, tmp_path / "model")
    (tmp_path / "text.txt").write_text(text[:4000], encoding="utf-8")

    before, after = load_example("quantize_and_export").main(
        str(tmp_path / "model"), str(tmp_path / "text.txt"), str(tmp_path / "out"), group_size=32
    )
    assert before != after
    assert after == pytest.approx(before, rel=0.05)
    exported = load_huggingface(tmp_path / "out" / "huggingface")
    assert groundup.bits_per_byte(exported, tokenizer, text[2000:4000]) == pytest.approx(after, rel=1e-3)
    assert list((tmp_path / "out" / "gguf").glob("*.gguf"))


def test_rewards_on_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    load_example("rewards_on_sums").main()
    check_reinforcement(derive_recipe(groundup.load_recipe("sums.toml")).recipe)
    lines = {name: Path(f"{name}.jsonl").read_text().splitlines() for name in ("right", "forgetful", "problems")}
    assert {name: len(part) for name, part in lines.items()} == {"right": 600, "forgetful": 600, "problems": 400}
    differ = sum(one != other for one, other in zip(lines["right"], lines["forgetful"], strict=True))
    assert 200 < differ < 400, "about half of the sums carry"
