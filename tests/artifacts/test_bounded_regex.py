"""Regular expressions with a time limit: the result of `re`, or an end."""

import json
import re

import peft
import pytest
import transformers

from groundup.artifacts.bounded_regex import RegexTimeout, regex_matches
from groundup.artifacts.errors import UserError
from groundup.finetune import Problem
from groundup.finetune.lora import apply_lora
from groundup.finetune.reinforcement.rewards import matches_pattern
from groundup.interop import load_huggingface
from groundup.interop.adapters.adapter_config import read_adapter_config

ENDLESS = "(a|a)*b"
LONG = "a" * 60


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"\d+", "5 eggs"),
        ("(a|b)*", "abba"),
        ("(a|b)*", "abc"),
        ("x.y", "x\ny"),
        ("ß*\ud800?", "ßß"),
        ("q_proj", "q_proj"),
    ],
)
def test_the_result_is_that_of_re(pattern, text):
    for flags in (0, re.DOTALL):
        assert regex_matches(pattern, text, whole=False, flags=flags) == bool(re.search(pattern, text, flags))
        assert regex_matches(pattern, text, whole=True, flags=flags) == bool(re.fullmatch(pattern, text, flags))


def test_an_endless_match_ends_and_the_next_one_works():
    with pytest.raises(RegexTimeout, match=r"0\.2 s"):
        regex_matches(ENDLESS, LONG, whole=False, seconds=0.2)
    assert regex_matches("(a|a)+", LONG, whole=True)


def test_a_reward_by_an_endless_pattern_is_none():
    assert matches_pattern(LONG, Problem(()), pattern=ENDLESS, timeout_seconds=0.2) == 0.0


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft
def test_an_endless_pattern_of_an_adapter_or_a_recipe_is_refused(tmp_path, monkeypatch):
    slow = f"({'x*' * 30})*_"
    monkeypatch.setattr("groundup.artifacts.bounded_regex.DEFAULT_SECONDS", 0.2)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 32,
    }
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=r"takes more than 0\.2 s"):
        apply_lora(load_huggingface(tmp_path / "base"), 2, 4.0, targets=[slow.replace("x", "[a-z._0-9]")])
    peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rank_pattern": {slow.replace("x", "[a-z._0-9]"): 2}}))
    config = read_adapter_config(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"rank_pattern.*takes more than 0\.2 s"):
        config.settings("model.layers.0.self_attn.q_proj", 2, dora=False, bias=False)
