"""Adapters by path: with models in floating point and packed, several on one base, exported, served."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from starlette.testclient import TestClient
from typer.testing import CliRunner

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest
from groundup.cli import app
from groundup.finetune.lora import LoRAOptions, prepare_lora
from groundup.generate import GREEDY, BatchingEngine, Request, generate
from groundup.interop import base_model
from groundup.interop.adapters import AdapterModels, adapter_disabled, lora_layers, save_adapter, with_adapter
from groundup.interop.adapters.adapter_paths import split_adapter
from groundup.interop.adapters.base_fingerprint import base_name, has_trained_tokens
from groundup.model import Decoder, load_model, save_model
from groundup.quantize import export_model, open_model, quantize_folder
from groundup.recipe import ModelConfig
from groundup.recipe.base_model_config import BaseModelConfig
from groundup.serve import create_app
from groundup.tokenizer.chat_template import PLAIN
from groundup.tokenizer.tokenizer_training import train_bpe

TOKENS = torch.randint(0, 260, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A base, two adapters on it with token rows, and the logits of each."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    shape = {"vocab_size": 260, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "context_length": 64}
    model = Decoder(ModelConfig(**shape, tie_embeddings=True))
    tokenizer = train_bpe([], 260)
    save_model(model, folder / "base")
    tokenizer.save(folder / "base")
    logits = {"base": logits_of(model)}
    for seed, name in enumerate(("red", "blue")):
        adapted = load_model(folder / "base")
        prepare_lora(adapted, 4, 8.0, LoRAOptions(dora=name == "blue"), [1, 2])
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter += 0.2 * torch.randn_like(parameter)
        save_adapter(adapted, folder / name, base=str(folder / "base"))
        logits[name] = logits_of(adapted)
    torch.save(logits, folder / "logits.pt")
    return folder


def logits_of(model):
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.fixture
def logits(folders):
    return torch.load(folders / "logits.pt", weights_only=True)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_model_with_an_adapter(folders, logits):
    model, tokenizer = open_model(folders / "base", "cpu", adapter=folders / "red")
    close(logits_of(model), logits["red"])
    assert not lora_layers(model)
    assert tokenizer.chat_template == train_bpe([], 260).chat_template


def test_an_adapter_alone_opens_its_base(folders, logits, tmp_path):
    model, _ = open_model(folders / "blue", "cpu")
    close(logits_of(model), logits["blue"])
    adapter = shutil.copytree(folders / "red", tmp_path / "elsewhere" / "red")
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace(str(folders / "base"), "gone"))
    with pytest.raises(UserError, match="an adapter of gone, which is not here"):
        open_model(adapter)


def test_the_tokenizer_beside_an_adapter_counts(folders, tmp_path):
    adapter = shutil.copytree(folders / "red", tmp_path / "red")
    tokenizer = train_bpe([], 260)
    tokenizer.chat_template = PLAIN
    tokenizer.save(adapter)
    assert open_model(folders / "base", "cpu", adapter=adapter)[1].chat_template == PLAIN


def test_a_folder_without_an_adapter_is_refused(folders):
    with pytest.raises(UserError, match="no adapter, expected a folder with"):
        open_model(folders / "base", "cpu", adapter=folders / "base")


def test_several_adapters_share_one_base(folders, logits):
    base = load_model(folders / "base")
    red, blue = (with_adapter(base, folders / name) for name in ("red", "blue"))
    close(logits_of(red), logits["red"])
    close(logits_of(blue), logits["blue"])
    assert torch.equal(logits_of(base), logits["base"])
    name, layer = next(iter(lora_layers(red).items()))
    assert layer.base.weight.data_ptr() == base.get_submodule(name).weight.data_ptr()
    with adapter_disabled(blue):
        untied = logits_of(blue)[..., 3:] - logits["base"][..., 3:]
    assert untied.abs().max() < 1  # rows of control tokens are part of the copy


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_one_batch_have_adapters_of_their_own(folders, tmp_path, packed):
    """Low-rank updates, DoRA and token rows, in one forward pass over the base's layers, beside rows of the base."""
    if packed:
        quantize_folder(folders / "base", tmp_path / "packed", method="rtn", bits=8, group_size=32, device="cpu")
    base, _ = open_model(tmp_path / "packed" if packed else folders / "base", "cpu")
    adapters = {name: with_adapter(base, folders / name) for name in ("red", "blue")}
    variants = AdapterModels(base.eval(), adapters)
    names = ["red", None, "blue", "red", None, "blue"]
    assert len(list(variants.groups(names))) == 1
    assert [rows for rows, _ in variants.groups(["blue", "blue"])] == [[0, 1]]
    prompts = [[row + 3, 7, 9] for row in range(6)]
    expected = [
        generate(variants[name], prompt, max_tokens=8, sampling=GREEDY)
        for name, prompt in zip(names, prompts, strict=True)
    ]
    engine = BatchingEngine(base, variants=variants)
    requests = [Request(prompt, 8, GREEDY, adapter=name) for name, prompt in zip(names, prompts, strict=True)]
    for request in requests:
        engine.submit(request)
    while engine.busy:
        engine.step()
    assert [request.tokens for request in requests] == expected
    assert len(set(map(tuple, expected))) > 3
    with pytest.raises(UserError, match="no adapter 'green'"):
        engine.submit(Request([1], 1, adapter="green"))


def test_a_prompt_is_not_read_with_the_keys_of_another_adapter(folders):
    base, _ = open_model(folders / "base", "cpu")
    variants = AdapterModels(base.eval(), {"red": with_adapter(base, folders / "red")})
    prompt = list(range(3, 43))
    engine = BatchingEngine(base, variants=variants)
    for name in (None, "red", None):
        engine.submit(request := Request(prompt, 6, GREEDY, adapter=name))
        while engine.busy:
            engine.step()
        assert request.tokens == generate(variants[name], prompt, max_tokens=6, sampling=GREEDY)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_on_a_packed_base(folders, tmp_path, bits):
    quantize_folder(folders / "base", tmp_path / "packed", method="rtn", bits=bits, group_size=32, device="cpu")
    plain, _ = open_model(tmp_path / "packed", "cpu")
    model, _ = open_model(tmp_path / "packed", "cpu", adapter=folders / "red")
    beside = with_adapter(plain, folders / "red")
    assert len(lora_layers(model)) == len(lora_layers(beside)) == 14
    within: dict[str, float] = {
        "rtol": 0.05,
        "atol": {4: 0.4, 8: 0.1}[bits],
    }  # bfloat16; a running embedding has 6 or 8 bits
    torch.testing.assert_close(logits_of(model), logits_of(beside), **within)
    export_model(tmp_path / "packed", tmp_path / "out", format="huggingface", adapter=folders / "red")
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits_of(exported), logits_of(model).float(), **within)


def test_commands_with_an_adapter(folders, logits, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Some words to score.")
    base, red = str(folders / "base"), str(folders / "red")
    run = CliRunner().invoke
    plain, adapted = (
        run(app, ["evaluate", base, "--text", str(text), "--json", "--device", "cpu", *options]).stdout
        for options in ([], ["--adapter", red])
    )
    assert "bits_per_byte" in plain
    assert plain != adapted
    result = run(app, ["export", base, "--adapter", red, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    close(logits_of(exported), logits["red"])
    result = run(
        app,
        ["quantize", base, "--adapter", red, "--out", str(tmp_path / "small"), "--method", "rtn", "--device", "cpu"],
    )
    assert result.exit_code == 0, result.output


def test_requests_choose_the_adapter_by_model(folders):
    base, tokenizer = open_model(folders / "base", "cpu")
    adapters = {name: (with_adapter(base, folders / name), tokenizer) for name in ("red", "blue")}
    with TestClient(create_app(base, tokenizer, name="base", adapters=adapters)) as client:
        names = [card["id"] for card in client.get("/v1/models").json()["data"]]
        assert names == ["base", "red", "blue"]
        body = {"prompt": "abc", "max_tokens": 1, "temperature": 0, "logprobs": 1}
        answers = {}
        for name in (None, *names):
            response = client.post("/v1/completions", json=body | ({"model": name} if name else {})).json()
            answers[name] = response["choices"][0]["logprobs"]["token_logprobs"][0]
            assert response["model"] == (name or "base")
        assert answers[None] == answers["base"]
        assert len({answers[name] for name in names}) == 3
        response = client.post("/v1/completions", json=body | {"model": "green"})
        assert response.status_code == 404
        assert "'base' or 'red' or 'blue'" in response.json()["error"]["message"]


def test_a_base_with_a_chat_template_has_learnt_its_control_tokens(tmp_path):
    """What the stage of [base] writes into its manifest decides; a run's own base has not seen a chat."""
    tokenizer = train_bpe([], 260)
    folder = tmp_path / "mine" / "04-base"
    folder.mkdir(parents=True)
    Manifest("base", 1, "x", metrics={"parameters": 5}).write(folder)
    assert (base_name(folder), has_trained_tokens(folder, tokenizer)) == ("mine/04-base", False)
    Manifest("base", 1, "x", metrics={"model": "SmolLM", "format": "Hugging Face folder"}).write(folder)
    assert (base_name(folder), has_trained_tokens(folder, tokenizer)) == ("SmolLM", True)
    tokenizer.chat_template = None
    assert not has_trained_tokens(folder, tokenizer)
    Manifest("chat", 1, "x").write(folder)
    assert has_trained_tokens(folder, tokenizer)


def test_an_adapter_as_the_base_of_a_recipe(folders, logits, tmp_path):
    section = BaseModelConfig(model=str(folders / "red"))
    recipe, machine = SimpleNamespace(base=section), Machine(device="cpu", threads=1, cache_dir=tmp_path / "cache")
    metrics = base_model.run(recipe, {}, tmp_path / "04-base", machine)
    close(logits_of(load_model(tmp_path / "04-base")), logits["red"])
    assert metrics["model"] == "red"
    files = base_model.identity(section, machine)
    assert {"model.safetensors", "adapter/adapter_model.safetensors"} <= files.keys()
    base = base_model.identity(BaseModelConfig(model=str(folders / "base")), machine)
    assert base == {name: hashed for name, hashed in files.items() if not name.startswith("adapter/")}


def test_an_adapter_that_names_another_base_is_said(tmp_path):
    """PEFT's folders have no fingerprint: on another base of the same shape an adapter opens without an error."""
    (tmp_path / "adapter").mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "org/Small-1B"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="was trained on org/Small-1B"):
        split_adapter(tmp_path / "other", tmp_path / "adapter")
    assert split_adapter(tmp_path / "small-1b-instruct", tmp_path / "adapter")[1] == tmp_path / "adapter"
