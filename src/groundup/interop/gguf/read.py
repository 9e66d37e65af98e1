"""Opening a GGUF file: its weights become plain numbers again, whatever they were packed as."""

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.interop.assemble import assemble
from groundup.interop.families.family import first_problem
from groundup.interop.gguf.architectures import ARCHITECTURES, KEYS, ROPE_FACTORS, pairs, read_metadata
from groundup.interop.gguf.file import GGUFFile
from groundup.interop.gguf.vocabulary import read_tokenizer
from groundup.tokenizer import Tokenizer


def load_gguf(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[nn.Module, Tokenizer]:
    """The model, in evaluation mode, and the tokenizer of a .gguf file.

    Weights are float32 where `dtype` is None: packed types (Q8_0, Q4_1, Q4_K, ...) are unpacked.

    Raises UserError for a damaged file, an architecture or a packed type that we do not know, and weights
    that are not those of the metadata: named tensor, expected and found.
    """
    source = GGUFFile(Path(path))
    try:
        factors = source.read(ROPE_FACTORS) if ROPE_FACTORS in source.shapes else None
        config = read_metadata(source.metadata, source.shapes, factors)
        tokenizer = _tokenizer(source)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", hint=error.hint) from None
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error, KEYS)}") from None
    except KeyError as error:
        raise UserError(f"{path}: {error} is missing, expected in the metadata") from None
    architecture = ARCHITECTURES[source.metadata["general.architecture"]]

    def pairs_of(config, names):
        return pairs(architecture, config, names)

    model = assemble(config, pairs_of, source, ignored=(ROPE_FACTORS,), device=device, dtype=dtype)
    return model, tokenizer


def _tokenizer(source: GGUFFile) -> Tokenizer:
    try:
        return read_tokenizer(source.metadata)
    except (UserError, KeyError):
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise UserError(f"damaged vocabulary: {error}") from None
