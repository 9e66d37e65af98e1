"""The language that a multilingual encoder-decoder writes: the first token of its text (mBART, M2M-100, NLLB)."""

from difflib import get_close_matches
from typing import Any

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.model import EncoderDecoder
from groundup.tokenizer import Tokenizer


def set_target_language(model: nn.Module, tokenizer: Tokenizer, language: str) -> None:
    """Let the texts of `model` begin with the token of `language`: fra_Latn (NLLB), fr_XX (mBART), fr or __fr__ (M2M-100).

    Raises UserError for another model, and for a language that is no added token of the tokenizer.

    >>> set_target_language(model, tokenizer, "fra_Latn")
    """
    prefix = language_prefix(model, tokenizer, language)
    config: Any = model.config
    model.config = config.model_copy(update={"forced_bos_token_id": prefix[-1]})


def language_prefix(model: nn.Module, tokenizer: Tokenizer, language: str) -> tuple[int, int]:
    """The tokens with which a text in `language` begins; errors as of `set_target_language`."""
    if not isinstance(model, EncoderDecoder):
        raise UserError(f"target language {language!r}: the model is no encoder-decoder")
    ids = {token.content: id for id, token in tokenizer.backend.get_added_tokens_decoder().items()}
    id = ids.get(language, ids.get(f"__{language}__"))
    if id is None:
        nearest = get_close_matches(language, ids, 3, 0.3)
        raise UserError(
            f"target language {language!r}: no such token in the tokenizer",
            hint=f"the nearest: {', '.join(nearest)}" if nearest else "a Marian model reads it in the text, as >>fra<<",
        )
    return model.config.decoder_start_token_id, id
