"""Random small models of every family against transformers, in both directions, cached and uncached.

Twenty models a family, five hundred in the slow test. `tests/parity/parity_table.py` writes the largest differences into
book/parity.md.
"""

import json
import os
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from groundup.interop import export_huggingface, load_huggingface
from groundup.interop.families import FAMILIES
from groundup.interop.huggingface_model import huggingface_model_config
from groundup.model import Decoder, EncoderDecoder

sys.path.insert(0, str(Path(__file__).parent))
from family_draws import DRAWS, Draw, DrawnModel
from family_draws.draw import VOCABULARY

LIMIT = 1e-4
"""Largest difference of a float32 logit, of the largest logit, that counts as equal."""
LENGTH = 40
"""Tokens of a text: more than any window or original length of a draw."""
DRAWN_MODELS = 20

os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # threads cost more than such small tensors
transformers.utils.logging.disable_progress_bar()


def build_reference(drawn: DrawnModel) -> nn.Module:
    """The model as transformers builds it, with random weights in every tensor, norms and biases too."""
    fields = deepcopy(drawn.config)  # which transformers changes
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    config._experts_implementation = "eager"  # their grouped product wants even widths
    made_by = getattr(transformers, drawn.model_class)
    model = made_by.from_config(config) if drawn.model_class.startswith("Auto") else made_by(config)
    if config.model_type in ("t5", "mt5", "umt5") and not drawn.config["tie_word_embeddings"]:  # tied by transformers
        model.lm_head.weight = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
    if not config.tie_word_embeddings:  # transformers shares this bias and then cannot save it
        for name, module in model.named_modules():
            if name.endswith((".predictions.decoder", "lm_head.decoder")):
                module.bias = nn.Parameter(module.bias.clone())
    return randomize(model)


@torch.no_grad()
def randomize(model: nn.Module) -> nn.Module:
    """Weights large enough that every part of the model moves the logits."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "embed_positions" in name and not weight.requires_grad:  # sines, which are not stored
            continue
        weight.normal_(0.0, 0.4, generator=generator)
        if weight.dim() > 1:
            weight /= weight.shape[-1] ** 0.5 / 4
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_(0.0, 0.4, generator=generator)
    for name, bias in model.named_buffers():
        if name.endswith(("load_balancer.bias", "correction_bias")):
            bias.normal_(0.0, 0.4, generator=generator)
    return model.eval()


@torch.inference_mode()
def logits(model: nn.Module, length: int = LENGTH) -> Tensor:
    """Logits of random tokens, of the first `length`; of a source and a target where the model has two sides."""
    tokens = torch.randint(3, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))[:, :length]
    if isinstance(model, EncoderDecoder):
        return model(tokens, decoder_tokens=tokens[:, :20].flip(1)).logits
    if getattr(model.config, "is_encoder_decoder", False):
        return model(tokens, decoder_input_ids=tokens[:, :20].flip(1)).logits
    return model(tokens).logits


@torch.inference_mode()
def cached_logits(model: Decoder | EncoderDecoder) -> Tensor:
    """The same from a prompt of up to 17 tokens, then all but two more, then one at a time."""
    tokens = torch.randint(3, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    if isinstance(model, EncoderDecoder):
        encoded, target = model.new_cache(tokens, 20), tokens[:, :20].flip(1)
        return torch.cat([model.decode(part, encoded) for part in target.split([7, 11, 1, 1], dim=1)], dim=1)
    length = min(LENGTH, model.config.cached_context_length - 1)  # transformers' dynamic RoPE starts anew below it
    cache, ends = model.new_cache(2, length), [min(17, length - 3), *range(length - 2, length + 1)]
    parts = [model(tokens[:, begin:end], cache=cache).logits for begin, end in zip([0, *ends], ends, strict=False)]
    return torch.cat(parts, dim=1)


def difference(ours: Tensor, reference: Tensor) -> float:
    """The largest difference of a logit, of the largest logit."""
    return ((ours - reference).abs().max() / reference.abs().max().clamp(min=1.0)).item()


def measure_draw(drawn: DrawnModel, folder: Path) -> tuple[float, float]:
    """In: their model, saved by them, opened by us. Out: that with our own weights, saved by us, opened by them."""
    reference = build_reference(drawn)
    reference.save_pretrained(folder)
    ours, expected = load_huggingface(folder), logits(reference)
    into = difference(logits(ours), expected)
    if isinstance(ours, Decoder | EncoderDecoder):
        cached = cached_logits(ours)
        into = max(
            into, difference(cached, expected if cached.shape == expected.shape else logits(reference, cached.shape[1]))
        )
    check_published_config(drawn, ours, folder)
    return into, measure_export(drawn, randomize(ours), folder / "export")


def check_published_config(drawn: DrawnModel, ours: nn.Module, folder: Path) -> None:
    """config.json as it was drawn, without what transformers adds when it saves, describes the same model."""
    written = (folder / "config.json").read_text()
    (folder / "config.json").write_text(json.dumps(drawn.config))
    assert huggingface_model_config(folder) == ours.config
    (folder / "config.json").write_text(written)


def measure_export(drawn: DrawnModel, ours: nn.Module, folder: Path) -> float:
    """Our model, saved by us and opened by them."""
    export_huggingface(ours, None, folder)
    reference, info = getattr(transformers, drawn.model_class).from_pretrained(
        folder, output_loading_info=True, experts_implementation="eager"
    )
    info["missing_keys"] -= {
        f"model.{stack}.embed_positions.weight" for stack in ("encoder", "decoder")
    }  # Pegasus: sines
    assert not any(info.values()), info
    return difference(logits(ours), logits(reference.eval()))


def measure_family(name: str, folder: Path, count: int = DRAWN_MODELS) -> tuple[float, float]:
    """The largest differences of `count` models, in and out."""
    into, out = 0.0, 0.0
    for number in range(count):
        drawn = DRAWS[name](Draw(f"{name} {number}"))
        place = folder / str(number)
        try:
            into, out = (max(pair) for pair in zip((into, out), measure_draw(drawn, place), strict=True))
        except Exception as error:
            error.add_note(f"draw {number} of {name}: {drawn}")
            raise
        assert max(into, out) < LIMIT, f"draw {number} of {name}: in {into:.1e}, out {out:.1e}: {drawn}"
    return into, out


@pytest.mark.parametrize("name", DRAWS)
def test_random_models_have_equal_logits_both_ways(name: str, tmp_path: Path, unchecked_shapes: None):
    measure_family(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWS)
def test_many_random_models_have_equal_logits_both_ways(name: str, tmp_path: Path, unchecked_shapes: None):
    measure_family(name, tmp_path, int(os.environ.get("GROUNDUP_DRAWS", "500")))


def test_every_family_is_drawn():
    assert set(DRAWS) == set(FAMILIES)


@pytest.mark.parametrize("method", ["yarn", "llama3", "dynamic"])
@pytest.mark.parametrize("where", ["beside", "within", "both"])
def test_original_length_beside_and_within_the_rope_scaling(method: str, where: str, tmp_path: Path):
    """transformers takes the one beside it first; of dynamic scaling, the maximum length is the original one."""
    scaling = {"rope_type": method, "factor": 4.0}
    if method == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if where != "beside":
        scaling["original_max_position_embeddings"] = 12
    fields = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 1}
    fields |= {
        "intermediate_size": 24,
        "max_position_embeddings": 24 if method == "dynamic" else 48,
        "rope_scaling": scaling,
        "model_type": "llama",
    }
    if where != "within":
        fields["original_max_position_embeddings"] = 8
    assert measure_draw(DrawnModel(fields), tmp_path)[0] < LIMIT
