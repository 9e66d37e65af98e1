"""Adapters of PEFT with every option: opened with PEFT's logits, written so that PEFT opens them, or refused by key and value."""

import json
import math
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from groundup.artifacts.errors import UserError
from groundup.finetune.lora import apply_lora
from groundup.interop import export_huggingface, load_huggingface
from groundup.interop.adapters import load_adapter, lora_layers, merge_lora, save_adapter, unmerge_lora
from groundup.interop.adapters.lora_layer import lora_experts
from groundup.interop.adapters.trainable_tokens import add_trainable_tokens, merge_trainable_tokens
from groundup.interop.families import require_family
from groundup.tokenizer.tokenizer_training import train_bpe

VOCAB = 64
TOKENS = torch.randint(0, VOCAB, (2, 12), generator=torch.Generator().manual_seed(1))
LLAMA_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SMALL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": VOCAB}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def llama(**fields):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL | sizes | fields))


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    )


def phi3():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**SMALL | sizes))


def neox():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SMALL | sizes))


def t5():
    sizes = {"d_model": 32, "num_layers": 1, "num_heads": 4, "d_ff": 48, "d_kv": 8, "decoder_start_token_id": 2}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL | sizes))


def bert():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL | sizes))


def base_in(folder: Path, build):
    """The base of `build` in transformers, with larger weights, stored in `folder`."""
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else None
    model.save_pretrained(folder / "base")
    return model


def reopened(folder: Path, adapter: Path | None = None):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    return model if adapter is None else peft.PeftModel.from_pretrained(model, adapter).eval()


def randomized(model, seed=3):
    """Every trainable tensor moved by random numbers, so that nothing is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def logits_of(model, tokens=TOKENS):
    with torch.no_grad():
        return model(tokens).logits


OPTIONS = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True},
    "rank and alpha patterns": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6},
        "alpha_pattern": {"v_proj": 20},
    },
    "dora": {"use_dora": True},
    "dora, rank-stabilized": {"use_dora": True, "use_rslora": True},
    "tokens as a list": {"trainable_token_indices": [1, 5]},
    "tokens by module": {"trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [3]}},
    "whole head": {"modules_to_save": ["lm_head"]},
    "whole embedding and norms": {"modules_to_save": ["embed_tokens", "input_layernorm"]},
    "all biases": {"bias": "all"},
    "biases of layers": {"bias": "lora_only"},
    "bias of B": {"lora_bias": True},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "some layers": {"layers_to_transform": [1]},
    "exclusion": {"exclude_modules": "model.layers.0.mlp.up_proj"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "dropout": {"lora_dropout": 0.3},
}
TIED = ("plain", "tokens as a list", "whole head", "whole embedding and norms", "head", "embedding", "pissa")


@pytest.mark.parametrize(
    ("tied", "name"),
    [(False, name) for name in OPTIONS] + [(True, name) for name in TIED],
    ids=lambda value: str(value),
)
def test_an_adapter_of_peft_gives_its_logits(tmp_path, tied, name):
    base = base_in(tmp_path, lambda: llama(tie_word_embeddings=tied, attention_bias=True))
    before = logits_of(base)
    options = {"target_modules": LLAMA_LAYERS} | OPTIONS[name]
    trained = randomized(peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=10, **options))).eval()
    trained.save_pretrained(tmp_path / "adapter")
    reference = reopened(tmp_path, tmp_path / "adapter")
    expected = logits_of(reference)
    assert (expected - before).abs().max() > 0.05
    model = load_adapter(load_huggingface(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(model), expected, rtol=1e-5, atol=1e-5)
    if name != "bias of B":
        merged = merge_trainable_tokens(merge_lora(model))
        torch.testing.assert_close(logits_of(merged), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "targets"),
    [
        (gpt2, ["c_attn", "c_proj", "c_fc"]),
        (phi3, ["qkv_proj", "o_proj", "gate_up_proj"]),
        (neox, ["query_key_value", "dense"]),
    ],
    ids=["gpt2: fused and transposed", "phi3: fused", "neox: interleaved heads"],
)
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_fused_layouts_both_ways(tmp_path, build, targets, dora):
    base = base_in(tmp_path, build)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, use_dora=dora)
    trained = randomized(peft.get_peft_model(base, config)).eval()
    trained.save_pretrained(tmp_path / "adapter")
    expected = logits_of(trained)
    model = load_adapter(load_huggingface(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(model), expected, rtol=1e-5, atol=1e-5)

    fresh = load_huggingface(tmp_path / "base")
    apply_lora(fresh, 3, 5.0, dora=dora, targets=[targets[0]])
    randomized(fresh)
    family = require_family(base.config.model_type, "")
    save_adapter(fresh, tmp_path / "ours", family=family)
    torch.testing.assert_close(logits_of(reopened(tmp_path, tmp_path / "ours")), logits_of(fresh), rtol=1e-5, atol=1e-5)
    again = load_adapter(load_huggingface(tmp_path / "base"), tmp_path / "ours")
    torch.testing.assert_close(logits_of(again), logits_of(fresh), rtol=1e-5, atol=1e-5)


def test_gradients_of_every_variant_equal_peft(tmp_path):
    base_in(tmp_path, llama)
    for options in ({"dropout": 0.3}, {"rank_stabilized": True}, {"dora": True}, {"dora": True, "dropout": 0.3}):
        ours = load_huggingface(tmp_path / "base")
        apply_lora(ours, 4, 10.0, **options)
        randomized(ours)
        save_adapter(ours, tmp_path / "adapter")
        model = peft.PeftModel.from_pretrained(reopened(tmp_path), tmp_path / "adapter", is_trainable=True)
        losses = []
        for each in (ours, model):
            torch.manual_seed(7)  # the same dropout
            losses.append(each.train()(TOKENS, labels=TOKENS).loss)
            losses[-1].backward()
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
        found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        for name, layer in lora_layers(ours).items():
            module = (
                name.replace("blocks", "model.layers").replace("attention", "self_attn").replace("feed_forward", "mlp")
            )
            pairs = {"lora_A.default.weight": layer.lora_a, "lora_B.default.weight": layer.lora_b}
            if layer.magnitude is not None:
                pairs["lora_magnitude_vector.default.weight"] = layer.magnitude
            for part, parameter in pairs.items():
                expected = found[f"base_model.model.{module}.{part}"]
                torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", [t5, bert])
def test_encoders_and_encoder_decoders(tmp_path, build):
    base = base_in(tmp_path, build)
    targets = ["q", "v", "wo"] if build is t5 else ["query", "dense"]
    trained = randomized(peft.get_peft_model(base, peft.LoraConfig(r=3, target_modules=targets))).eval()
    trained.save_pretrained(tmp_path / "adapter")
    ours = load_adapter(load_huggingface(tmp_path / "base"), tmp_path / "adapter")
    if build is t5:
        with torch.no_grad():
            expected = trained(input_ids=TOKENS, decoder_input_ids=TOKENS).logits
            found = ours(TOKENS, decoder_tokens=TOKENS).logits
    else:
        expected, found = logits_of(trained), logits_of(ours)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


REFUSED = {
    "loftq": {"init_lora_weights": "loftq"},
    "fast pissa": {"init_lora_weights": "pissa_niter_4"},
    "corda": {"init_lora_weights": "corda"},
    "replicated layers": {"layer_replication": [[0, 2], [1, 2]]},
    "activated": {"alora_invocation_tokens": [3, 4]},
    "qalora": {"use_qalora": True},
    "parameters": {"target_parameters": ["mlp.experts.down_proj"]},
    "kind": {"peft_type": "IA3"},
    "unknown": {"use_hyperlora": True},
    "rank": {"r": 5},
    "rank of a word": {"r": "4"},
    "tokens": {"trainable_token_indices": [-1]},
    "pattern": {"rank_pattern": {"(": 4}},
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
def test_what_is_not_supported_is_refused_by_key_and_value(tmp_path, fields):
    base = base_in(tmp_path, llama)
    peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    (key, value), *_ = fields.items()
    with pytest.raises(UserError) as error:
        load_adapter(load_huggingface(tmp_path / "base"), tmp_path / "adapter")
    assert key in error.value.message or "rank" in error.value.message
    assert str(path) in error.value.message
    if not isinstance(value, dict | list) and key != "r":
        assert repr(value) in error.value.message


def test_an_adapter_without_tensors_and_one_of_another_model_are_refused(tmp_path):
    base = base_in(tmp_path, llama)
    peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = load_file(weights)
    save_file({}, weights)
    with pytest.raises(UserError, match="no tensors"):
        load_adapter(load_huggingface(tmp_path / "base"), tmp_path / "adapter")
    save_file(whole, weights)
    base_in(tmp_path, lambda: llama(num_hidden_layers=1))
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.q_proj.* missing or unexpected"):
        load_adapter(load_huggingface(tmp_path / "base"), tmp_path / "adapter")


def test_base_fingerprint(tmp_path):
    base_in(tmp_path, llama)
    model = load_huggingface(tmp_path / "base")
    apply_lora(model, 2, 4.0)
    save_adapter(model, tmp_path / "adapter", base="base")
    load_adapter(load_huggingface(tmp_path / "base", dtype="bfloat16"), tmp_path / "adapter")
    other = load_huggingface(tmp_path / "base")
    with torch.no_grad():
        other.blocks[1].feed_forward.down_proj.weight.mul_(1.1)
    with pytest.raises(UserError, match=r"trained on base, whose blocks\.1\.feed_forward\.down_proj\.weight differs"):
        load_adapter(other, tmp_path / "adapter")
    load_adapter(other, tmp_path / "adapter", verify=False)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"


def test_merging_can_be_undone_bit_for_bit(tmp_path):
    base_in(tmp_path, lambda: llama(attention_bias=True))
    model = load_huggingface(tmp_path / "base", dtype="bfloat16")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    apply_lora(model, 4, 8.0, dora=True)
    randomized(model)
    unmerged = logits_of(model)
    merge_lora(model, keep=True)
    merged = logits_of(model)
    torch.testing.assert_close(merged, unmerged, rtol=0.05, atol=0.5)
    assert torch.equal(logits_of(unmerge_lora(model)), unmerged)
    for name, layer in lora_layers(model).items():
        assert torch.equal(layer.base.weight, weights[f"{name}.weight"])


def test_trained_tokens_of_a_tied_model_stay_right_in_transformers(tmp_path):
    """Merged into the shared matrix, exported, and opened by transformers: the same logits, still tied."""
    base_in(tmp_path, lambda: llama(tie_word_embeddings=True))
    model = load_huggingface(tmp_path / "base")
    apply_lora(model, 2, 4.0)
    add_trainable_tokens(model, [3, 4])
    expected = logits_of(randomized(model))
    merge_trainable_tokens(merge_lora(model))
    export_huggingface(model, None, tmp_path / "out")
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert exported.config.tie_word_embeddings
    torch.testing.assert_close(logits_of(exported), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_a_whole_matrix_on_a_tied_model_is_exported_untied(tmp_path, module):
    base = base_in(tmp_path, lambda: llama(tie_word_embeddings=True))
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=[module])
    trained = randomized(peft.get_peft_model(base, config)).eval()
    trained.save_pretrained(tmp_path / "adapter")
    model = merge_lora(load_adapter(load_huggingface(tmp_path / "base"), tmp_path / "adapter"))
    export_huggingface(model, None, tmp_path / "out")
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert not exported.config.tie_word_embeddings
    torch.testing.assert_close(logits_of(exported), logits_of(trained), rtol=1e-5, atol=1e-5)


def test_targets_by_group_name_and_pattern(tmp_path):
    base_in(tmp_path, llama)

    def chosen(*targets):
        return {
            name.rpartition(".")[2] for name in apply_lora(load_huggingface(tmp_path / "base"), 2, 4.0, targets=targets)
        }

    assert chosen("attention") == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert chosen("feed_forward") == chosen("mlp") == {"gate_proj", "up_proj", "down_proj"}
    assert chosen("q_proj|v_proj") == chosen("q_proj", "v_proj") == {"q_proj", "v_proj"}
    names = apply_lora(load_huggingface(tmp_path / "base"), 2, 4.0, targets=[r"layers.1.self_attn.q_proj"])
    assert names == ["blocks.1.attention.q_proj"]
    with pytest.raises(UserError, match="'c_attn': no such layer"):
        chosen("c_attn")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of PEFT's own conversion
def test_lora_of_experts_equals_the_product(tmp_path):
    """Each expert's update by the layer, and added to the weights: the same logits and, in PEFT's names, the same adapter."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    fields = SMALL | sizes | {"intermediate_size": 24, "num_local_experts": 4}
    base_in(tmp_path, lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(**fields)))
    model = load_huggingface(tmp_path / "base")
    assert len(apply_lora(model, 2, 6.0, targets=["attention", "experts"])) == 10
    expected = logits_of(randomized(model))
    assert (expected - logits_of(reopened(tmp_path))).abs().max() > 0.05
    save_adapter(model, tmp_path / "adapter")
    assert (
        sum(".experts.3.w1.lora_A" in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
        == 2
    )
    torch.testing.assert_close(logits_of(reopened(tmp_path, tmp_path / "adapter")), expected, rtol=1e-5, atol=1e-5)
    again = load_adapter(load_huggingface(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(again), expected, rtol=1e-5, atol=1e-5)
    experts = lora_experts(model)["blocks.0.feed_forward.experts"]
    weight = experts.base.up_proj[2] + 3.0 * experts.lora_b["up_proj"][2] @ experts.lora_a["up_proj"][2]
    merge_lora(model)
    torch.testing.assert_close(model.blocks[0].feed_forward.experts.up_proj[2], weight)
    torch.testing.assert_close(logits_of(model), expected, rtol=1e-5, atol=1e-5)


def test_scale_of_rank_stabilized_lora(tmp_path):
    base_in(tmp_path, llama)
    model = load_huggingface(tmp_path / "base")
    apply_lora(model, 4, 10.0, rank_stabilized=True)
    assert next(iter(lora_layers(model).values())).scale == 10 / math.sqrt(4)


def test_the_example_of_the_book_runs(tmp_path, monkeypatch):
    base_in(tmp_path, llama)
    train_bpe([], 260).save(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "book" / "adapters.md").read_text()
    exec(compile(page.split("```python\n")[1].split("```")[0], "adapters.md", "exec"), {"Path": Path, "tokens": TOKENS})
