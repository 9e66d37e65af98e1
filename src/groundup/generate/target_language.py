"""The language that a multilingual encoder-decoder writes: the first token of its text (mBART, M2M-100, NLLB)."""

from difflib import get_close_matches

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.model import EncoderDecoder
from groundup.tokenizer import Tokenizer


def set_target_language(model: nn.Module, tokenizer: Tokenizer, language: str) -> None:
    """Let the texts of `model` begin with the token of `language`: fra_Latn (NLLB), fr_XX (mBART), fr or __fr__ (M2M-100).

    Raises UserError for another model, and for a language that is no added token of the tokenizer.

    >>> set_target_language(model, tokenizer, "fra_Latn")
    """
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
    model.config = model.config.model_copy(update={"forced_bos_token_id": id})
