"""A decoder that writes what a script says: each token follows from the one before it.

It is a real `Decoder` whose blocks add nothing to the embedding, and whose output matrix maps each embedding to the next token.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken

from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

TEMPLATES = Path(__file__).parents[1] / "tokenizer" / "chat_templates"
AFTER_RESULT = "<|after_result|>"
"""Ends a prompt after the result of a tool, so that the script can go on in another way."""


def scripted_model(
    first: Sequence[str], then: Sequence[str] = (), *, template: str = "qwen2_5"
) -> tuple[Decoder, Tokenizer]:
    """A model that answers with the pieces `first`, and with `then` after the result of a tool. No piece may come twice,
    or be a token of the prompt."""
    backend = train_bpe([], 260).backend
    pieces = list(dict.fromkeys([*first, *then]))
    backend.add_special_tokens([AddedToken(AFTER_RESULT, special=True)])
    for piece in pieces:
        special = piece.startswith(("[", "<｜", "<|")) and piece.endswith(("]", "｜>", "|>")) and "{" not in piece
        token = AddedToken(piece, special=special, normalized=False)
        (backend.add_special_tokens if special else backend.add_tokens)([token])
    text = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    text += f"{{% if messages[-1].role == 'tool' %}}{{{{ '{AFTER_RESULT}' }}}}{{% endif %}}"
    tokenizer = Tokenizer(backend, eos="<|endoftext|>", chat_template=text)
    prompt = tokenizer.render_chat([{"role": "user", "content": "?"}], add_generation_prompt=True)
    follows: dict[int, int] = {}
    for begin, script in ((prompt[-1], first), (backend.token_to_id(AFTER_RESULT), then)):
        last = begin
        for piece in [*script, "<|endoftext|>"]:
            follows[last] = last = backend.token_to_id(piece)
    return _bigram_model(follows, tokenizer.vocab_size), tokenizer


def _bigram_model(follows: Mapping[int, int], vocab_size: int) -> Decoder:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=vocab_size, hidden_size=64, num_layers=1, num_heads=2, context_length=4096, tie_embeddings=False
    )
    model = Decoder(config).eval()
    with torch.no_grad():
        for name, parameter in model.blocks.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                parameter.zero_()
        embedding = model.embedding.tokens.weight.normal_()
        output = dict(model.named_parameters())["head.weight"].zero_()
        for token, following in follows.items():
            output[following] += 5 * torch.nn.functional.normalize(embedding[token], dim=0)
    return model
