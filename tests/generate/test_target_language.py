"""The first token of a translation is the language that the request names."""

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.generate import GREEDY, beam_search, generate, set_target_language
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer.tokenizer_training import train_bpe

SHAPE = {"vocab_size": 300, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}


def test_texts_begin_with_the_language():
    torch.manual_seed(0)
    tokenizer = train_bpe(["le renard brun"] * 9, 270)
    tokenizer.backend.add_special_tokens(["fra_Latn", "__de__"])
    model = build_model(ModelConfig(**SHAPE, architecture="encoder_decoder", decoder_start_token_id=2)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5) if weight.dim() > 1 else weight.fill_(1.0)
    said = {}
    for language, token in (("fra_Latn", "fra_Latn"), ("de", "__de__"), ("__de__", "__de__")):
        set_target_language(model, tokenizer, language)
        id = tokenizer.token_id(token)
        said[language] = list(generate(model, [5, 6, 7], max_tokens=4, sampling=GREEDY))
        with torch.no_grad():
            logits = model(torch.tensor([[5, 6, 7]]), decoder_tokens=torch.tensor([[2, id]])).logits
        assert said[language][0] == int(logits[0, -1].argmax())
        assert list(beam_search(model, [5, 6, 7], num_beams=1, max_tokens=4)) == said[language]
    assert said["fra_Latn"] != said["de"] == said["__de__"]
    with pytest.raises(UserError, match="target language 'fra': no such token in the tokenizer") as raised:
        set_target_language(model, tokenizer, "fra")
    assert raised.value.hint == "the nearest: fra_Latn"
    with pytest.raises(UserError, match="the model is no encoder-decoder"):
        set_target_language(build_model(ModelConfig(**SHAPE)), tokenizer, "fra_Latn")
