"""Encoder-decoders: cached and batched generation equal a pass over everything, and transformers' generate."""

import pytest
import torch
import transformers

from groundup.artifacts.errors import UserError
from groundup.generate import (
    GREEDY,
    ChatSession,
    SamplingParams,
    encode_prompt,
    generate,
    generate_many,
    generate_reference,
    generate_text,
)
from groundup.interop import load_huggingface
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer.tokenizer_training import train_bpe

SOURCES = [[5, 6, 7, 0], list(range(10, 45)), [9], [60, 3, 61, 0]]


def tiny(**knobs):
    torch.manual_seed(1)
    shape = {"vocab_size": 260, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "context_length": 64}
    t5 = {"architecture": "encoder_decoder", "position_embedding": "relative", "feed_forward": "geglu_tanh"}
    model = build_model(ModelConfig(**(shape | t5 | knobs))).eval()
    with torch.no_grad():  # larger weights, so that the next token depends on the whole text
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return model


KINDS = {
    "t5": {},
    "rope": {"position_embedding": "rope", "num_kv_heads": 2},
    "umt5": {"relative_bias_per_layer": True},
    "bart": {"position_embedding": "learned", "norm": "layernorm", "norm_placement": "post", "embedding_norm": True},
    "marian": {"position_embedding": "sinusoidal", "norm_placement": "post", "head_bias": True},
    "m2m": {"position_embedding": "sinusoidal_fairseq", "forced_bos_token_id": 7},
}


@pytest.mark.parametrize("knobs", KINDS.values(), ids=KINDS)
def test_cached_and_batched_generation_equal_the_reference(knobs):
    model = tiny(**knobs)
    for sampling in (GREEDY, SamplingParams(seed=3, top_k=9, repetition_penalty=1.3)):
        expected = [list(generate_reference(model, ids, max_tokens=9, sampling=sampling)) for ids in SOURCES]
        assert [generate(model, ids, max_tokens=9, sampling=sampling) for ids in SOURCES] == expected
    assert len({tuple(answer) for answer in expected}) == len(SOURCES), "the answers depend on the sources"
    expected = [list(generate_reference(model, ids, max_tokens=9, sampling=GREEDY)) for ids in SOURCES]
    assert generate_many(model, SOURCES, max_tokens=9, sampling=GREEDY, max_batch=3) == expected


def test_requests_of_a_decoder_with_relative_positions_equal_the_reference():
    model = tiny(architecture="decoder")
    expected = [list(generate_reference(model, ids, max_tokens=9, sampling=GREEDY)) for ids in SOURCES]
    assert generate_many(model, SOURCES, max_tokens=9, sampling=GREEDY, max_batch=3) == expected


@pytest.mark.parametrize("tied", [False, True])
def test_greedy_equals_transformers_t5(tmp_path, tied):
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=131, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        tie_word_embeddings=tied, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.normal_(std=0.4)
    theirs.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path)
    for source in SOURCES:
        answer = theirs.generate(torch.tensor([source]), max_new_tokens=9, do_sample=False, num_beams=1)[0].tolist()
        expected = answer[1:]  # after the start token
        assert generate(ours, source, max_tokens=9, sampling=GREEDY, stop_ids={1}) == [t for t in expected if t != 1]


def test_text_in_text_out():
    tokenizer = train_bpe([], 260)
    model = tiny()
    assert encode_prompt(model, tokenizer, "hi")[-1] == tokenizer.eos_id
    tokens = generate(
        model, encode_prompt(model, tokenizer, "hi"), max_tokens=9, sampling=GREEDY, stop_ids=tokenizer.stop_ids
    )
    text = generate_text(model, tokenizer, "hi", max_tokens=9, sampling=GREEDY)
    assert text == tokenizer.decode(tokens, skip_special_tokens=True)
    with pytest.raises(UserError, match="has 100 tokens, expected at most 64"):
        generate(model, [7] * 100)
    with pytest.raises(UserError, match="an encoder-decoder, which turns one text into another"):
        ChatSession(model, tokenizer)


def test_an_encoder_writes_no_text():
    tokenizer = train_bpe([], 260)
    model = tiny(architecture="encoder", position_embedding="rope")
    for attempt in (lambda: generate_text(model, tokenizer, "hi"), lambda: ChatSession(model, tokenizer)):
        with pytest.raises(UserError, match="an encoder, which embeds texts") as raised:
            attempt()
        assert "groundup embed" in raised.value.hint


@pytest.mark.parametrize("family", ["Bart", "Marian", "MBart"])
def test_greedy_equals_transformers_with_a_forced_first_token(family: str, tmp_path):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=131, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
        decoder_start_token_id=2, pad_token_id=1, eos_token_id=2, bos_token_id=0, forced_eos_token_id=None,
    )  # fmt: skip
    name = "MarianMTModel" if family == "Marian" else f"{family}ForConditionalGeneration"
    reference = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    reference.generation_config.forced_bos_token_id = 9
    reference.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path)
    for ids in SOURCES:
        expected = reference.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, num_beams=1)[0].tolist()
        assert expected[:2] == [2, 9]
        assert generate(ours, ids, max_tokens=11, sampling=GREEDY, stop_ids=[2]) == [
            id for id in expected[2:] if id != 2
        ]
