"""Beam search, against transformers and against the best of all texts."""

import itertools

import pytest
import torch
import transformers

from groundup.artifacts.errors import UserError
from groundup.generate import beam_search, generate
from groundup.generate.beam_search import best_beams
from groundup.generate.sampling import GREEDY
from groundup.interop.huggingface_model import load_huggingface
from groundup.model import build_model
from groundup.recipe import ModelConfig

VOCABULARY, STOP = 13, 1
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
LLAMA = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
IDS = {"vocab_size": VOCABULARY, "eos_token_id": STOP, "pad_token_id": 0}


@pytest.mark.parametrize("seed", range(4))
def test_beam_search_equals_transformers(seed, tmp_path):
    torch.manual_seed(seed)
    if is_t5 := seed % 2 == 1:
        theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, **IDS)).eval()
    else:
        theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **IDS)).eval()
    for weight in theirs.parameters():
        weight.data *= 3  # distinct probabilities
    theirs.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path, torch.device("cpu"), torch.float32).eval()
    prompt = [3, 5, 7, STOP] if is_t5 else [3, 5, 7]
    for beams, penalty, limit, ngram in itertools.product((1, 2, 4), (0.0, 1.0, 2.0), (3, 12), (0, 2)):
        expected = theirs.generate(
            torch.tensor([prompt]),
            num_beams=beams,
            length_penalty=penalty,
            max_new_tokens=limit,
            do_sample=False,
            no_repeat_ngram_size=ngram,
            num_return_sequences=beams,
        )[:, 1 if is_t5 else len(prompt) :].tolist()
        expected = [text[: text.index(STOP)] if STOP in text else text for text in expected]
        found = best_beams(
            ours,
            prompt,
            num_beams=beams,
            length_penalty=penalty,
            max_tokens=limit,
            no_repeat_ngram=ngram,
            stop_ids=[STOP],
        )
        assert [beam.tokens for beam in found] == expected, (beams, penalty, limit, ngram)
        assert [beam.score for beam in found] == sorted((beam.score for beam in found), reverse=True)


@torch.no_grad()
def test_enough_beams_find_the_most_likely_text():
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=5, hidden_size=16, num_layers=1, num_heads=2, context_length=16)).eval()
    for weight in model.parameters():
        weight.data *= 4
    scores = {}
    for text in itertools.product(range(5), repeat=3):
        logprobs = model(torch.tensor([[2, *text]])).logits.log_softmax(-1)[0]
        scores[text] = sum(float(logprobs[place, token]) for place, token in enumerate(text))
    best = max(scores, key=lambda text: scores[text])
    assert tuple(beam_search(model, [2], num_beams=25, max_tokens=3, length_penalty=0.0)) == best
    assert beam_search(model, [2], num_beams=1, max_tokens=3) == generate(model, [2], max_tokens=3, sampling=GREEDY)
    with pytest.raises(UserError, match="num_beams = 0, expected 1 to 64"):
        beam_search(model, [2], num_beams=0)
